"""What a server says of a credential is shown without any part of it."""

import json

import pytest

from corral.egress.validation import _shown
from corral.kernel.limits import VALIDATION_BODY_CHARS_MAX

TOKEN = "canary/" + "0123456789abcdef" * 300


@pytest.mark.parametrize("said", [TOKEN, json.dumps(TOKEN).replace("/", "\\/")])
def test_an_answer_that_was_cut_in_a_secret_shows_none_of_it(said: str) -> None:
    body = f"not {said}, and not {said}"
    for end in range(0, len(body), 97):
        shown = _shown(403, f"text/{TOKEN}", body[:end].encode(), {TOKEN}, is_cut=True)
        assert "0123" not in str(shown) and shown["body_truncated"]
    whole = _shown(403, "text/plain", body.encode(), {TOKEN})
    assert "0123" not in str(whole) and not whole["body_truncated"]
    assert len(whole["body"]) < VALIDATION_BODY_CHARS_MAX
