"""Tokens of repositories on their way out: which requests get them, and that they do not come back."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from corral.egress import wishes
from corral.egress.policy import OperatorHosts
from corral.session.call import Mount
from corral.testing.git_host import GitHost, basic
from tests.gateway import UNRESTRICTED, Gateway, limited, through, through_tls

TOKEN = "ghp_canary0123456789"
PRIVATE = Mount(
    mount_id="sesrsc_0", kind="repository", path="/workspace/engine", digest="", mode="copy", has_token=True
)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[GitHost]:
    with GitHost.start(tmp_path) as host:
        host.echoes.update(("ada/engine", "ada/engine.git", "ada/engine/settings", "ada/other", ""))
        yield host


@pytest.fixture
async def gateway(host: GitHost) -> AsyncIterator[Gateway]:
    operator = OperatorHosts(repositories=(host.where,))
    names = {"localhost": ["127.0.0.1"]}
    async with Gateway.start(names=names, operator=operator, trusted=host.authority) as gateway:
        await gateway.gives_token("sesn_1", host.url("ada/engine"), TOKEN)
        yield gateway


async def asked(
    gateway: Gateway, host: GitHost, path: str, networking: Mapping[str, object] = UNRESTRICTED
) -> str:
    """What a program in the session's sandbox gets for a path."""
    port = gateway.door(networking, mounts=[PRIVATE])
    authority = await gateway.authority("sesn_1")
    said = await through_tls(port, "localhost", host.port, path, authority=authority, status=None)
    return said.decode()


GIT = ("info/refs?service=git-upload-pack", "git-receive-pack", "info/lfs/objects/batch")
OTHERS = (
    *("/ada/other/info/refs", "/ada/engine/settings", "/ada/engine", "/", "/ada/engine2/info/refs"),
    *("/ada/engine/../other/info/refs", "/ada/engine/%2e%2e/other/info/refs", "//ada/engine/info/refs"),
    *("/ada/engine/info/refs/../../../other/info/refs", "/ada/Engine/info/refs"),
    *("/ada/engine/info/lfs/..;/..;/..;/other/info/refs", "/ada/engine/info/lfs/%252e%252e/%252e%252e/x"),
)


@pytest.mark.parametrize("networking", [UNRESTRICTED, limited(), limited("example.com")])
async def test_a_token_is_for_its_repository_alone(
    gateway: Gateway, host: GitHost, networking: Mapping[str, object]
) -> None:
    """Its host is at a private address, and open to nobody: what else is there stays out of reach."""
    host.echoes.add("ada/engine/info/lfs/objects/batch")
    for name in ("ada/engine", "ada/engine.git"):
        for path in GIT if name == "ada/engine" else GIT[:2]:
            said = await asked(gateway, host, f"/{name}/{path}", networking)
            assert host.authorizations.pop()[1] == basic(TOKEN)
            assert "Authorization: Basic ********" in said, "what the host says back is masked"
            assert TOKEN not in said and basic(TOKEN).split()[1] not in said
    host.taken()
    for path in OTHERS:
        assert "nothing else" in await asked(gateway, host, path, networking), path
    assert host.taken() == []
    entries = await gateway.ended()
    assert {each["credential_id"] for each in entries if each["method"] == "GET"} == {"sesrsc_0", None}
    assert TOKEN not in json.dumps(entries)


async def test_where_the_host_is_open_others_get_no_token(host: GitHost) -> None:
    operator = OperatorHosts(internal=(host.where,))
    names = {"localhost": ["127.0.0.1"]}
    async with Gateway.start(names=names, operator=operator, trusted=host.authority) as gateway:
        await gateway.gives_token("sesn_1", host.url("ada/engine"), TOKEN)
        await asked(gateway, host, "/ada/engine/info/refs")
        assert host.authorizations == [("ada/engine", basic(TOKEN))]
        for path in OTHERS:
            await asked(gateway, host, path)
        assert host.authorizations == [("ada/engine", basic(TOKEN))]
        assert len(host.taken()) == 1 + len(OTHERS)


async def test_another_session_and_another_host_get_none(gateway: Gateway, host: GitHost) -> None:
    port = gateway.door(session_id="sesn_2", mounts=[PRIVATE])
    authority = await gateway.authority("sesn_2")
    with pytest.raises(OSError, match="not public"):
        await through_tls(port, "localhost", host.port, "/ada/engine/info/refs", authority=authority)
    port = gateway.door(mounts=[PRIVATE])
    for url in (
        f"http://localhost:{host.port}/ada/engine/info/refs",
        "http://localhost/ada/engine/info/refs",
    ):
        status, reason, _ = await through(port, "GET", url)
        assert status == 403, reason
    assert host.authorizations == []


async def test_a_redirect_leads_nowhere_with_it(gateway: Gateway, host: GitHost) -> None:
    host.moved["ada/engine"] = "/ada/other"
    host.echoes.discard("ada/engine")
    await asked(gateway, host, "/ada/engine/info/refs")  # a program follows it by a request of its own
    assert "nothing else" in await asked(gateway, host, "/ada/other/info/refs")
    assert [name for name, _ in host.authorizations] == ["ada/engine"]


async def test_a_rotated_token_is_the_one_that_is_used(
    gateway: Gateway, host: GitHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asked(gateway, host, "/ada/engine/info/refs")
    await gateway.gives_token("sesn_1", host.url("ada/engine"), "ghp_rotated")
    await asked(gateway, host, "/ada/engine/info/refs")
    monkeypatch.setattr(wishes, "CREDENTIALS_FRESH_SECONDS", 0.0)
    await asked(gateway, host, "/ada/engine/info/refs")
    assert [sent for _, sent in host.authorizations] == [basic(TOKEN), basic(TOKEN), basic("ghp_rotated")]
