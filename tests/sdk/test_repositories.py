"""Repositories of sessions, end to end: the official SDK, real processes, git over TLS, real sandboxes."""

import asyncio
import json
import sqlite3
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import anthropic
import pytest
import pytest_asyncio

from corral.catalog.repositories import TokenPlace
from corral.kernel.ids import DEFAULT_WORKSPACE, ResourceId
from corral.kernel.limits import REPOSITORY_SKILLS_WAIT_SECONDS
from corral.testing.git_host import GitHost, basic, git
from corral.testing.messages_reply import Reply
from corral.vault.ring import FileKeys, KeyRing
from tests.served import Served, text, until
from tests.stage import Stage, Stages, Tail, staged, words

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GitHost]:
    with GitHost.start(tmp_path_factory.mktemp("host"), address="127.0.0.2") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stages(host: GitHost) -> AsyncIterator[Stages]:
    settings = {"repository_private_hosts": (host.where,), "repository_ca": host.authority}
    async with staged(settings=settings) as stages:
        yield stages


@pytest_asyncio.fixture(loop_scope="module")
async def stage(stages: Stages) -> AsyncIterator[Stage]:
    async with stages.open() as stage:
        yield stage


_numbers = count(1)


def bash(command: str) -> tuple[str, str, dict[str, object]]:
    return f"toolu_{next(_numbers)}", "bash", {"command": command}


def mount(url: str, **fields: Any) -> dict[str, Any]:
    return {"type": "github_repository", "url": url, **fields}


async def turn(
    stage: Stage, session_id: str, tail: Tail, command: str, number: int = 1, *, seconds: float = 60
) -> str:
    """The model runs a command; what it printed."""
    stage.play(Reply.tools(bash(command)), Reply.text("Done."))
    await stage.send(session_id, text("Look."))
    await tail.idle(number, seconds=seconds)
    return words(tail.of("agent.tool_result")[-1]).strip()


@asynccontextmanager
async def telling(stage: Stage) -> AsyncIterator[list[Any]]:
    """The system prompts of the turn in here that tell of skills: all of them. The first may not, where a
    busy machine takes longer to look for skills than a model request waits for that."""
    began, told = time.monotonic(), list[Any]()
    asked = asyncio.create_task(stage.asked(1))
    waited: list[float] = []
    asked.add_done_callback(lambda _: waited.append(time.monotonic() - began))
    yield told
    is_late = waited[0] >= REPOSITORY_SKILLS_WAIT_SECONDS
    told += [request.json["system"] for request in stage.requests]
    if is_late and told[0] != told[1]:
        del told[0]
        stage.requests.clear()  # that a system prompt stays the same is what the check of a stage expects


async def test_a_session_with_a_repository(host: GitHost, stage: Stage) -> None:
    host.push("ada/engine", {"README.md": "one\n"})
    host.push("ada/engine", {"README.md": "two\n", "run.sh": "#!/bin/sh\necho runs\n"})
    host.push("ada/engine", {"README.md": "three\n"}, branch="feature/x")
    url = host.url("ada/engine")
    session = await stage.session(
        resources=[
            mount(url),
            mount(url, checkout={"type": "branch", "name": "feature/x"}, mount_path="/workspace/src/x"),
        ]
    )
    first, second = session.resources
    assert (first.type, first.url, first.mount_path, first.checkout) == (
        *("github_repository", url, "/workspace/engine", None),
    )
    assert (second.mount_path, second.checkout.name) == ("/workspace/src/x", "feature/x")
    listed = [each async for each in stage.client.beta.sessions.resources.list(session.id)]
    assert [each.to_dict() for each in listed] == [first.to_dict(), second.to_dict()]
    async with stage.watch(session.id) as tail:
        said = await turn(
            stage,
            session.id,
            tail,
            "cat engine/README.md src/x/README.md; ./engine/run.sh; cd engine; git remote get-url origin;"
            " git status --short --branch; git rev-list --count HEAD; stat -c %U README.md .git;"
            " cat README.md > mine; rm README.md; ls -a /workspace",
        )
        expected = f"two three runs {url} ## main...origin/main 2 agent agent . .. engine src"
        assert said.split() == expected.split()
        # It is the agent's own from now on.
        said = await turn(stage, session.id, tail, "cd /workspace/engine; git status --short; cat mine", 2)
        assert said.split() == ["D", "README.md", "??", "mine", "two"]
        assert not tail.of("session.error")


async def test_skills_of_a_repository_are_told_of_and_cost_no_second_clone(
    host: GitHost, stage: Stage
) -> None:
    skill = "---\nname: greet\ndescription: Greets people in Latin.\n---\nSay salve.\n"
    host.push("ada/skilled", {".claude/skills/greet/SKILL.md": skill, "n": "1"})
    host.taken()
    session = await stage.session(resources=[mount(host.url("ada/skilled"))])
    async with stage.watch(session.id) as tail, telling(stage) as systems:
        path = "/workspace/skilled/.claude/skills/greet"
        assert (await turn(stage, session.id, tail, f"tail -1 {path}/SKILL.md")) == "Say salve."
    for system in systems:
        told = json.dumps(system)
        assert "Greets people in Latin." in told and path in told and "salve" not in told
    is_late = len(systems) < 2  # then it was looked for changes before the first call, too
    assert len(host.taken()) in ((3, 5) if is_late else (3,)), "a clone is three requests"


async def test_a_second_session_fetches_only_what_is_new(host: GitHost, stage: Stage) -> None:
    commit = host.push("ada/cached", {"n": "1"})
    looks = ["GET /ada/cached/info/refs", "POST /ada/cached/git-upload-pack"]
    host.taken()
    for expected in ([*looks, looks[1]], looks):
        session = await stage.session(
            resources=[mount(host.url("ada/cached"), checkout={"type": "commit", "sha": commit})]
        )
        assert session.resources[0].checkout.sha == commit
        async with stage.watch(session.id) as tail:
            assert await turn(stage, session.id, tail, "cat cached/n") == "1"
        assert host.taken() == expected


async def test_a_session_goes_on_without_its_repositories_and_tries_again(
    host: GitHost, stage: Stage
) -> None:
    kinds = {
        "private": (401, "repository_authentication_error"),
        "closed": (403, "repository_forbidden_error"),
        "missing": (404, "repository_not_found_error"),
        "branch": (0, "repository_checkout_error"),
        "down": (500, "repository_clone_error"),
    }
    for name, (status, _) in kinds.items():
        host.push(f"bob/{name}", {"n": "1"})
        if status:
            host.status[f"bob/{name}"] = status
    checkout = {"type": "branch", "name": "soon"}
    session = await stage.session(
        resources=[
            mount(host.url(f"bob/{name}"), **({"checkout": checkout} if name == "branch" else {}))
            for name in kinds
        ]
    )
    async with stage.watch(session.id) as tail:
        assert await turn(stage, session.id, tail, "ls; echo alone") == "alone"
        errors = {event.error.repository_url: event.error for event in tail.of("session.error")}
        assert len(tail.of("session.error")) == len(errors) == len(kinds)
        for name, (_, kind) in kinds.items():
            error = errors[host.url(f"bob/{name}")]
            assert (error.type, error.retry_status.type) == (kind, "retrying"), error
        # Whatever it was, it is over.
        host.status.clear()
        host.push("bob/branch", {"n": "2"}, branch="soon")
        assert (await turn(stage, session.id, tail, "ls", 2)).split() == sorted(kinds)
        assert len(tail.of("session.error")) == len(kinds)


async def test_a_server_that_is_killed_while_it_clones(host: GitHost, stage: Stage, stages: Stages) -> None:
    server: Served = stages.server
    host.push("ada/slow", {"n": "1"})
    host.stalls.add("ada/slow")
    host.taken()
    session = await stage.session(resources=[mount(host.url("ada/slow"))])
    stage.play(Reply.tools(bash("cat slow/n")), Reply.text("Done."))
    await stage.send(session.id, text("Look."))
    await until(lambda: len(host.requests) == 3, seconds=60)
    host.stalls.clear()
    await server.kill("server")
    await stage.rests(session.id, seconds=60)
    events = await stage.history(session.id)
    [result] = [words(event).strip() for event in events if event.type == "agent.tool_result"]
    assert result == "1"
    assert not [event for event in events if event.type == "session.error"]
    assert list((server.config.data_dir / "repositories" / "scratch").iterdir()) == []


async def test_what_is_refused(host: GitHost, stage: Stage) -> None:
    url = host.url("ada/engine")
    for fields, field in (
        ({"url": url, "authorization_token": ""}, "resources.0.authorization_token"),
        ({"url": url, "authorization_token": "ghp_planted\r\nX: y"}, "authorization_token"),
        ({"url": "https://gitlab.com/ada/engine"}, "resources.0.url"),
        ({"url": "https://ada:ghp_planted@github.com/a/b"}, "resources.0.url"),
        ({"url": url.replace("https", "http")}, "resources.0.url"),
        ({"url": url, "mount_path": "/etc"}, "resources.0.mount_path"),
        ({"url": url, "mount_path": "/workspace/../etc"}, "resources.0.mount_path"),
        ({"url": url, "checkout": {"type": "branch", "name": "--upload-pack=x"}}, "checkout.name"),
        ({"url": url, "checkout": {"type": "commit", "sha": "main"}}, "resources.0.checkout.sha"),
        ({"url": url, "checkout": {"type": "tag", "name": "v1"}}, "resources.0.checkout"),
    ):
        with pytest.raises(anthropic.BadRequestError) as refused:
            await stage.session(resources=[{"type": "github_repository", **fields}])
        assert field in refused.value.message, refused.value.message
        assert "planted" not in refused.value.message
    with pytest.raises(anthropic.BadRequestError, match=r"resources\.1\.mount_path"):
        await stage.session(resources=[mount(url), mount(host.url("bob/engine"))])
    session = await stage.session(resources=[mount(url)])
    resources = stage.client.beta.sessions.resources
    for bad in ("", "ghp_planted\0"):
        with pytest.raises(anthropic.BadRequestError, match="authorization_token") as refused:
            await resources.update(session.resources[0].id, session_id=session.id, authorization_token=bad)
        assert "planted" not in refused.value.message
    with pytest.raises(anthropic.BadRequestError, match="only files"):
        await resources.delete(session.resources[0].id, session_id=session.id)
    # No trace of a token anywhere.
    assert lies_about(stage.server.config.data_dir, b"ghp_planted") == []


def sealed_tokens(server: Served) -> dict[str, str]:
    """What is stored, opened as only the egress process can, by resource."""
    data_dir: Path = server.config.data_dir
    ring = KeyRing(FileKeys(data_dir / "egress" / "private" / "vault.keys"))
    with closing(sqlite3.connect(data_dir / "corral.db")) as database:
        rows = database.execute("SELECT resource_id, url, key_id, sealed FROM repository_tokens").fetchall()
    return {
        resource_id: ring.open(
            sealed,
            key_id=key_id,
            place=TokenPlace(
                workspace_id=DEFAULT_WORKSPACE, resource_id=ResourceId(resource_id), url=url
            ).encode(),
        ).decode()
        for resource_id, url, key_id, sealed in rows
    }


def lies_about(data_dir: Path, secret: bytes) -> list[Path]:
    """Files that hold it, in plain or as it goes over the wire."""
    spelled = (secret, b64encode(b"x-access-token:" + secret), b64encode(secret))
    found = []
    for path in data_dir.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file() and any(each in path.read_bytes() for each in spelled):
                found.append(path)
    return found


async def test_a_token_is_sealed_when_it_arrives_and_shown_to_nobody(host: GitHost, stage: Stage) -> None:
    url, resources = host.url("ada/engine"), stage.client.beta.sessions.resources
    other = await stage.session()

    async def created(token: str) -> Any:
        return await stage.client.beta.sessions.create(
            agent=other.agent.id,
            environment_id=other.environment_id,
            resources=[
                mount(url, authorization_token=token),
                mount(url, mount_path="/workspace/other"),
            ],
            extra_headers={"idempotency-key": "create"},
        )

    session = await created("ghp_planted_1")
    assert (await created("ghp_planted_1")).id == session.id
    with pytest.raises(anthropic.ConflictError):
        await created("ghp_planted_2")
    first, second = session.resources
    assert sealed_tokens(stage.server) == {first.id: "ghp_planted_1"}
    rotated = await resources.update(first.id, session_id=session.id, authorization_token="ghp_planted_2")
    assert rotated.updated_at > first.updated_at
    await resources.update(second.id, session_id=session.id, authorization_token="ghp_planted_3")
    assert sealed_tokens(stage.server) == {first.id: "ghp_planted_2", second.id: "ghp_planted_3"}
    listed = [each.to_json() async for each in resources.list(session.id)]
    shown = (await stage.client.beta.sessions.retrieve(session.id)).to_json()
    assert "planted" not in "".join([session.to_json(), rotated.to_json(), shown, *listed])
    assert lies_about(stage.server.config.data_dir, b"ghp_planted") == []
    with pytest.raises(anthropic.NotFoundError):
        await resources.update("sesrsc_none", session_id=session.id, authorization_token="ghp_planted_4")
    await stage.client.beta.sessions.archive(session.id)
    assert sealed_tokens(stage.server) == {}
    with pytest.raises(anthropic.ConflictError):
        await resources.update(first.id, session_id=session.id, authorization_token="ghp_planted_5")
    assert sealed_tokens(stage.server) == {}


IDENTITY = "git config --global user.name Agent; git config --global user.email agent@example.com; "


async def test_an_unmodified_git_works_with_a_private_repository(host: GitHost, stage: Stage) -> None:
    """Clone, fetch and push, where no host is allowed; the token is in none of the places where an agent
    could look."""
    token, url = "ghp_planted_for_work", host.url("eve/private")
    host.push("eve/private", {"README.md": "one\n"})
    host.push("eve/other", {"README.md": "other\n"})
    host.push("eve/public", {"README.md": "public\n"})
    host.tokens |= {"eve/private": token, "eve/other": token}
    limited = {"type": "cloud", "networking": {"type": "limited"}}
    stage._environment_id = (await stage.client.beta.environments.create(name="l", config=limited)).id
    session = await stage.session(
        resources=[mount(url, authorization_token=token), mount(host.url("eve/public"))]
    )
    async with stage.watch(session.id) as tail:
        look = f"{IDENTITY} cat p*/README.md; cd private; git remote -v"
        said = await turn(stage, session.id, tail, look)
        assert said.split()[:2] == ["one", "public"] and set(said.split()[3::3]) == {url}
        commit = host.push("eve/private", {"README.md": "two\n"})
        said = await turn(stage, session.id, tail, "git pull -q 2>&1; cat README.md; git rev-parse HEAD", 2)
        assert said.split() == ["two", commit]
        said = await turn(
            stage,
            session.id,
            tail,
            "echo mine > mine; head -c 3000000 /dev/urandom > large; git add -A; git commit -qm Mine;"
            " git push 2>&1 origin HEAD:refs/heads/mine; git rev-parse HEAD",
            3,
        )
        pushed = git("rev-parse", "refs/heads/mine", at=host.bare("eve/private"))
        assert pushed == said.split()[-1]
        assert {header for name, header in host.authorizations if name == "eve/private"} == {basic(token)}
        # Another repository of the host, with the same token: none is sent there, and nobody is asked.
        # Nor of GitHub's interface, but to what is about this one.
        ours, others = (f"api/v3/repos/Eve/{name}/pulls" for name in ("private", "other"))
        host.echoes |= {ours, others}
        curl, clone = f"curl -sS {host.url(ours)} {host.url(others)}", f"git clone {host.url('eve/other')}"
        said = await turn(stage, session.id, tail, f"{curl} 2>&1; echo ---; {clone} 2>&1; echo $?", 4)
        rest, _, cloned = said.partition("---")
        assert rest.count("Bearer ********") == 1 and rest.count("nothing else") == 1
        assert "403" in cloned and cloned.split()[-1] == "128"
        asked = [(name, sent) for name, sent in host.authorizations if name != "eve/private"]
        assert asked == [(ours, f"Bearer {token}")]
        sent = basic(token).split()[1]  # what looks for it must not be found
        said = await turn(
            stage,
            session.id,
            tail,
            "cd /; (env; cat /proc/*/environ /proc/*/cmdline; git config --list --show-origin;"
            " find /workspace /tmp /etc /mnt /run -type f -print0 | xargs -0 cat) 2>/dev/null > /tmp/all;"
            f" wc -c < /tmp/all; grep -caE 'ghp_[p]lanted|{sent[:-1]}[{sent[-1]}]' /tmp/all",
            5,
        )
        size, hits = said.split()
        assert int(size) > 3_000_000 and hits == "0"
        assert not tail.of("session.error")
    events = json.dumps([event.to_dict() for event in await stage.history(session.id)], default=str)
    server: Served = stage.server
    assert token not in events
    assert lies_about(server.config.data_dir, token.encode()) == []


async def test_a_token_that_is_rotated_reaches_a_session_that_runs(host: GitHost, stage: Stage) -> None:
    first, second, url = "ghp_planted_first", "ghp_planted_second", host.url("eve/rotated")
    host.push("eve/rotated", {"n": "1"})
    host.tokens["eve/rotated"] = second
    session = await stage.session(resources=[mount(url, authorization_token=first)])
    resources = stage.client.beta.sessions.resources
    async with stage.watch(session.id) as tail:
        assert await turn(stage, session.id, tail, "ls; echo alone") == "alone"
        [error] = [event.error for event in tail.of("session.error")]
        assert (error.type, error.retry_status.type) == ("repository_authentication_error", "retrying"), (
            error
        )
        await resources.update(session.resources[0].id, session_id=session.id, authorization_token=second)
        # What next runs has it at once; what runs already, within a minute.
        assert await turn(stage, session.id, tail, "cat rotated/n; cd rotated; git fetch 2>&1", 2) == "1"
        host.tokens["eve/rotated"] = first
        await resources.update(session.resources[0].id, session_id=session.id, authorization_token=first)
        patient = "for n in $(seq 60); do git fetch 2>&1 && break; sleep 1; done; echo $n"
        *refusals, count = (await turn(stage, session.id, tail, patient, 3, seconds=120)).splitlines()
        assert int(count) < 60
        assert all("terminal prompts disabled" in each for each in refusals)


async def test_skills_of_a_repository_are_told_of_once_and_for_all(host: GitHost, stage: Stage) -> None:
    """Those at exactly that depth, at the commit that is checked out; what comes later changes nothing."""
    skill = "---\nname: greet\ndescription: Greets people.\n---\nSay hello.\n"
    host.push(
        "ada/skilled",
        {
            ".claude/skills/greet/SKILL.md": skill,
            ".claude/skills/deep/er/SKILL.md": skill,
            ".claude/skills/mute/SKILL.md": "# says nothing of itself\n",
            "sub/.claude/skills/other/SKILL.md": skill,
        },
    )
    session = await stage.session(resources=[mount(host.url("ada/skilled"))])
    at = "/workspace/skilled/.claude/skills/greet/SKILL.md"
    async with stage.watch(session.id) as tail, telling(stage) as systems:
        said = await turn(stage, session.id, tail, f"cat {at}")
        assert said.endswith("Say hello.")
        host.push("ada/skilled", {".claude/skills/late/SKILL.md": skill})
        await turn(stage, session.id, tail, "true", 2)
    assert len(systems) >= 3 and all(system == systems[0] for system in systems)
    [told] = [block["text"] for block in systems[0] if "SKILL.md" in block["text"]]
    assert told.splitlines()[1:] == [f"- greet ({at}): Greets people."]
