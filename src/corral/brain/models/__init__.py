"""Models: one adapter per provider behind `brain.ports.Model`, chosen by model name.

`anthropic`   Claude, by the Messages API; `messages_stream` rebuilds a reply from its events.
`local`       a GGUF model on this machine: `local_child` holds it, `local_prompt` makes it an agent,
              `local_install` fetches it.
`replay`      a recorded run of a real model, played against real hands.

Every adapter keeps three promises, checked by `corral.testing.contract_model`:

* A request ends in exactly one `ModelReply` or in `ModelFailed`. A stream that was cut, however late, is a
  failure: half a reply that looks whole would be acted upon.
* The provider's blocks come back verbatim, because they go back to it in the next request.
* It asks once. Retries are the loop's: there they are bounded, visible, and survive a crash.

Which names exist, what they can do and cost is data in `corral.catalog.models`. Importing an adapter
imports no vendor library; the first request does, or `warm()`.
"""
