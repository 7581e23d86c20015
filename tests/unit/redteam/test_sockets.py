"""What a WebSocket server says in league with an agent, the agent can put together: else that it did not
hear a secret shows nothing."""

import pytest

from corral.redteam.inside.attempts.sockets import ATTEMPTS, contents
from corral.redteam.sockets import SAYS, accept_of

SECRET = b"corral-canary-vault-" + b"0123456789abcdef" * 2
RAW = ("no-frames", "cut-short")


@pytest.mark.parametrize("how", [how for how in SAYS if how not in RAW])
def test_an_agent_puts_the_secret_together(how: str) -> None:
    messages, controls = contents(b"".join(SAYS[how](SECRET)))
    assert SECRET in (controls if how.removeprefix("long-") in ("ping", "pong", "close") else messages)


@pytest.mark.parametrize("how", RAW)
def test_it_reads_what_is_no_frame(how: str) -> None:
    assert SECRET in b"".join(SAYS[how](SECRET))


def test_all_that_is_said_is_listened_to() -> None:
    assert {attempt.name for attempt in ATTEMPTS["websocket"]} == {*SAYS, "handshake"}


def test_a_client_is_answered_as_the_protocol_says() -> None:
    """RFC 6455, 1.3: its example."""
    assert accept_of("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
