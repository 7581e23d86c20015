"""Models, and the counting of tokens."""

from corral.conformance.case import Target, case, check, refused, same


@case("models", "GET /v1/models", "GET /v1/models/{model_id}")
async def the_models_are_listed_and_found(to: Target) -> None:
    listed = await to.every(to.beta.models.list(limit=2))
    check(listed, "there are models")
    one = await to.beta.models.retrieve(listed[0].id)
    same((one.id, one.type), (listed[0].id, "model"), "the model")
    check(one.display_name, "display_name is set")
    with refused(404, "not_found_error"):
        await to.beta.models.retrieve("no-such-model")


@case("models", "POST /v1/messages/count_tokens", needs_model=True)
async def tokens_are_counted(to: Target) -> None:
    counted = await to.beta.messages.count_tokens(
        model=to.model, messages=[{"role": "user", "content": "How many tokens is this?"}]
    )
    check(counted.input_tokens > 0, "input_tokens is positive")
