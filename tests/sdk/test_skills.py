"""Skills through the official SDK, strictly validated."""

import asyncio
import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic.lib import files_from_dir
from anthropic.lib.tools._skills import download_session_skills

from corral.cli.connect import Api
from corral.cli.connect import Server as Serving
from corral.cli.outcome import Problem
from corral.cli.skills import install_skill, list_skills, remove_skill
from corral.kernel.ids import DEFAULT_WORKSPACE, SessionId, SkillId, SkillVersionId
from tests.sdk.conftest import Server

LEGACY = "skills-2025-10-02"
MANAGED = "managed-agents-2026-04-01"
READS = [{"type": "agent_toolset_20260401"}]


def md(name: str | None = "my-skill", description: str = "Does things.") -> bytes:
    given = "" if name is None else f"name: {name}\n"
    return f"---\n{given}description: {description}\n---\nHow.\n".encode()


def files(name: str = "my-skill", **more: bytes) -> list[Any]:
    return [
        (f"{name}/SKILL.md", md(name)),
        *((f"{name}/{path}", content) for path, content in more.items()),
    ]


def zip_of(content: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, data in content.items():
            archive.writestr(path, data)
    return out.getvalue()


@pytest.fixture
def client(server: Server) -> Iterator[anthropic.Anthropic]:
    with server.client(_strict_response_validation=True) as made:
        yield made


@pytest.fixture(params=["beta", "plain"])
def skills(request: pytest.FixtureRequest, client: anthropic.Anthropic) -> Any:
    return client.beta.skills if request.param == "beta" else client.skills


def download(client: anthropic.Anthropic) -> Any:
    """`client.skills` cannot."""
    return client.beta.skills.versions.download


def test_a_life(skills: Any, client: anthropic.Anthropic) -> None:
    made = skills.create(files=files(**{"scripts/run.sh": b"#!/bin/sh\n", "ä b.txt": b"text"}))
    assert made.id.startswith("skill_") and made.latest_version_id.startswith("skillver_")
    assert (made.type, made.display_name, made.source.type) == ("skill", "my-skill", "custom")
    assert made.created_at == made.updated_at
    assert skills.retrieve(made.id) == made
    [first] = skills.versions.list(made.id)
    assert first.id == made.latest_version_id
    assert (first.type, first.name, first.description) == ("skill_version", "my-skill", "Does things.")
    assert first.skill_id == made.id

    second = skills.versions.create(
        made.id, files=[("upload.zip", zip_of({"any directory/SKILL.md": md(), "any directory/x": b"1"}))]
    )
    assert (second.name, second.skill_id) == ("my-skill", made.id)
    after = skills.retrieve(made.id)
    assert after.latest_version_id == second.id
    assert after.updated_at == second.created_at > made.updated_at
    assert [v.id for v in skills.versions.list(made.id)] == [second.id, first.id]
    assert skills.versions.retrieve(first.id, skill_id=made.id) == first
    assert skills.versions.retrieve("latest", skill_id=made.id) == second

    gone = skills.versions.delete(second.id, skill_id=made.id)
    assert (gone.id, gone.type) == (second.id, "skill_version_deleted")
    assert skills.retrieve(made.id).latest_version_id == first.id
    with pytest.raises(anthropic.BadRequestError, match="only one"):
        skills.versions.delete(first.id, skill_id=made.id)
    for call in (skills.versions.retrieve, skills.versions.delete, download(client)):
        with pytest.raises(anthropic.NotFoundError):
            call(second.id, skill_id=made.id)
    deleted = skills.delete(made.id)
    assert (deleted.id, deleted.type) == (made.id, "skill_deleted")
    for call in (skills.retrieve, skills.delete, skills.versions.list):
        with pytest.raises(anthropic.NotFoundError):
            call(made.id)
    with pytest.raises(anthropic.NotFoundError):
        skills.versions.create(made.id, files=files())


def test_the_content_is_one_zip_however_it_came(
    skills: Any, client: anthropic.Anthropic, tmp_path: Path
) -> None:
    content = {"SKILL.md": md(), "a/b.py": b"#!/usr/bin/env python3\n", "big": bytes(range(256)) * 4096}
    for path, data in content.items():
        (tmp_path / "my-skill" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "my-skill" / path).write_bytes(data)
    made = skills.create(files=files_from_dir(tmp_path / "my-skill"))
    got = download(client)(made.latest_version_id, skill_id=made.id)
    assert got.headers["content-type"] == "application/zip"
    assert got.headers["content-disposition"] == 'attachment; filename="my-skill.zip"'
    data = got.read()
    assert got.headers["content-length"] == str(len(data))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert {info.filename: archive.read(info) for info in archive.infolist()} == {
            f"my-skill/{path}": data for path, data in content.items()
        }
    again = skills.versions.create(made.id, files=list(reversed(files_from_dir(tmp_path / "my-skill"))))
    assert download(client)(again.id, skill_id=made.id).read() == data
    assert download(client)("latest", skill_id=made.id).read() == data


def test_async(server: Server) -> None:
    async def use() -> None:
        async with server.async_client(_strict_response_validation=True) as client:
            for skills in (client.beta.skills, client.skills):
                made = await skills.create(files=files(), display_name="Mine")
                assert (await skills.retrieve(made.id)).display_name == "Mine"
                added = await skills.versions.create(made.id, files=files(x=b"1"))
                assert [v.id async for v in skills.versions.list(made.id, limit=1)] == [
                    added.id,
                    made.latest_version_id,
                ]
                assert made.id in [skill.id async for skill in skills.list(limit=1)]
                data = await (await client.beta.skills.versions.download(added.id, skill_id=made.id)).read()
                assert zipfile.is_zipfile(io.BytesIO(data))
                await skills.versions.delete(added.id, skill_id=made.id)
                await skills.delete(made.id)

    asyncio.run(use())


def test_pages_and_sources(skills: Any) -> None:
    made = [skills.create(files=files(), display_name=f"p{number}") for number in range(3)]
    newest = [skill.id for skill in reversed(made)]
    assert [skill.id for skill in skills.list(limit=2).data] == newest[:2]
    assert [skill.id for skill in skills.list(limit=1)][:3] == newest
    assert [skill.id for skill in skills.list(source="custom", limit=1000)][:3] == newest
    assert skills.list(source="anthropic").data == []
    versions = [skills.versions.create(made[0].id, files=files()).id for _ in range(2)]
    assert [v.id for v in skills.versions.list(made[0].id, limit=1)] == [
        *reversed(versions),
        made[0].latest_version_id,
    ]
    for wrong in ({"limit": 0}, {"limit": 1001}, {"page": "bm9uc2Vuc2U"}, {"source": "mine"}):
        with pytest.raises(anthropic.BadRequestError, match=next(iter(wrong))):
            skills.list(**wrong)
    with pytest.raises(anthropic.BadRequestError, match="page"):
        skills.versions.list(made[0].id, page=skills.list(limit=1).next_page)


@pytest.mark.parametrize(
    ("sent", "where"),
    [
        ([], "files"),
        ([("SKILL.md", md())], "'SKILL.md' is not in a directory"),
        ([("a/x", b"1")], "no 'a/SKILL.md'"),
        ([("a/SKILL.md", md("a")), ("b/x", b"1")], "'b/x' is not in 'a'"),
        ([("a/SKILL.md", md("a")), ("a/../../x", b"1")], "'a/../../x' must not contain '..'"),
        ([("a/SKILL.md", md("a")), ("/etc/x", b"1")], "'/etc/x' is an absolute path"),
        ([("a/SKILL.md", md("a")), ("a/SKILL.md", md("a"))], "'a/SKILL.md' is there twice"),
        ([("a/SKILL.md", md("a")), ("a/skill.md", b"")], "cannot be told from 'a/SKILL.md'"),
        ([("a/SKILL.md", b"# a")], "must begin with front matter"),
        ([("a/SKILL.md", md("Not A Slug"))], "name: 'Not A Slug' is not a name"),
        ([("Not A Slug/SKILL.md", md(None))], "the directory's name: 'Not A Slug'"),
        ([("a/SKILL.md", md("a", "''"))], "description: is empty"),
        ([("a.zip", b"PK\x03\x04 and nothing else")], "the zip is broken"),
        ([("a.zip", zip_of({"a/SKILL.md": md("a"), "../x": b""}))], "'../x' must not contain '..'"),
        ([("a.zip", b"")], "the zip is broken"),
    ],
)
def test_what_no_skill_is(client: anthropic.Anthropic, sent: Any, where: str) -> None:
    before = client.skills.list(limit=1).data
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.skills.create(files=sent)
    assert where in str(refused.value)
    assert client.skills.list(limit=1).data == before


def test_names(client: anthropic.Anthropic) -> None:
    skills = client.skills
    assert skills.create(files=files(), display_name="Größe – 1").display_name == "Größe – 1"
    for wrong in ("x" * 256, "two\nlines", " "):
        with pytest.raises(anthropic.BadRequestError, match="display_name"):
            skills.create(files=files(), display_name=wrong)
    with pytest.raises(anthropic.BadRequestError, match="colour"):
        skills.create(files=files(), extra_body={"colour": "red"})
    made = skills.create(files=[("from-directory/SKILL.md", md(None))])
    assert (made.display_name, skills.versions.retrieve("latest", skill_id=made.id).name) == (
        "from-directory",
        "from-directory",
    )
    with pytest.raises(anthropic.BadRequestError, match="every version of a skill has the same name"):
        skills.versions.create(made.id, files=files("another"))


def test_clients_of_the_older_api(server: Server) -> None:
    """`skills-2025-10-02`: versions by number, and the last version may go, as those clients expect."""
    with server.http(**{"anthropic-beta": LEGACY, "anthropic-version": "2023-06-01"}) as http:
        sent = [("files[]", ("my-skill/SKILL.md", md()))]
        made = http.post("/v1/skills", files=sent, data={"display_title": "Mine"}).json()
        assert (made["display_title"], made["source"]) == ("Mine", "custom")
        at = f"/v1/skills/{made['id']}"
        version = http.get(f"{at}/versions").json()["data"][0]
        assert version["version"] == made["latest_version"] and version["version"].isdecimal()
        assert version["directory"] == "my-skill"
        number = version["version"]
        assert http.get(f"{at}/versions/{number}").json() == version
        assert http.get(f"{at}/versions/{number}/content").status_code == 200
        assert http.get("/v1/skills").json()["has_more"] in (True, False)
        assert http.delete(f"{at}/versions/{number}").json() == {
            "id": number,
            "type": "skill_version_deleted",
        }
        assert http.get(at).json()["latest_version"] is None
        with server.http() as today:
            assert today.get(at).status_code == 404
            assert made["id"] not in [skill["id"] for skill in today.get("/v1/skills").json()["data"]]
        assert http.get(f"{at}/versions/{10**30}").status_code == 404
        assert http.delete(at).json() == {"id": made["id"], "type": "skill_deleted"}


def test_both_beta_headers(client: anthropic.Anthropic) -> None:
    made = client.beta.skills.create(files=files(), betas=[LEGACY, MANAGED])
    assert client.beta.skills.retrieve(made.id, betas=[LEGACY]).source.type == "custom"
    [version] = client.beta.skills.versions.list(made.id, betas=[LEGACY])
    assert client.beta.skills.versions.retrieve(version.version, skill_id=made.id).id == version.id
    assert client.beta.skills.retrieve(made.id, betas=[MANAGED]).id == made.id


def test_repeated_uploads(server: Server, client: anthropic.Anthropic) -> None:
    """By what was meant: SDKs put another boundary between the parts of each attempt."""
    once = {"Idempotency-Key": "skill-1"}
    made = client.skills.create(files=files(x=b"1"), extra_headers=once)
    assert client.skills.create(files=list(reversed(files(x=b"1"))), extra_headers=once) == made
    with pytest.raises(anthropic.ConflictError):
        client.skills.create(files=files(x=b"2"), extra_headers=once)
    versions = {"Idempotency-Key": "version-1"}
    added = client.skills.versions.create(made.id, files=files(x=b"2"), extra_headers=versions)
    assert client.skills.versions.create(made.id, files=files(x=b"2"), extra_headers=versions) == added
    assert len(list(client.skills.versions.list(made.id))) == 2


def test_agents_name_versions(client: anthropic.Anthropic, server: Server) -> None:
    skill = client.skills.create(files=files())
    first = skill.latest_version_id
    agent = client.beta.agents.create(
        name="Ada", model="claude-opus-5-5", tools=READS, skills=[{"type": "custom", "skill_id": skill.id}]
    )
    assert [s.model_dump() for s in agent.skills] == [
        {"skill_id": skill.id, "type": "custom", "version": first}
    ]
    second = client.skills.versions.create(skill.id, files=files(x=b"1")).id
    assert client.beta.agents.retrieve(agent.id).skills[0].version == first, "saved is saved"
    same = client.beta.agents.update(
        agent.id, skills=[{"type": "custom", "skill_id": skill.id, "version": first}]
    )
    assert same.version == agent.version
    moved = client.beta.agents.update(
        agent.id, skills=[{"type": "custom", "skill_id": skill.id, "version": "latest"}]
    )
    assert (moved.version, moved.skills[0].version) == (2, second)
    assert client.beta.agents.update(agent.id, skills=None).skills == []


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"type": "custom", "skill_id": "skill_unknown"}, "skills.0: skill 'skill_unknown' does not exist"),
        ({"type": "anthropic", "skill_id": "pptx"}, "corral skills install DIRECTORY --as pptx"),
        ({"type": "anthropic", "skill_id": "xlsx", "version": "20251013"}, "version '20251013'"),
        ({"type": "anthropic", "skill_id": "html"}, "docx, pdf, pptx, xlsx"),
        ({"type": "custom", "skill_id": "pdf"}, "skill 'pdf' does not exist"),
        ({"type": "plugin", "skill_id": "pdf"}, "skills.0.type"),
        ({"type": "custom", "skill_id": ""}, "skills.0.skill_id"),
        ({"type": "custom", "skill_id": "skill_1", "path": "/"}, "skills.0.path"),
    ],
)
def test_what_no_agent_has(client: anthropic.Anthropic, asked: Any, where: str) -> None:
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.beta.agents.create(name="Ada", model="claude-opus-5-5", tools=READS, skills=[asked])
    assert where in str(refused.value)


def test_skills_of_an_agent_are_read_and_told_apart(client: anthropic.Anthropic) -> None:
    one, other = (client.skills.create(files=files()) for _ in range(2))
    skill = {"type": "custom", "skill_id": one.id}

    def create(**fields: Any) -> Any:
        return client.beta.agents.create(name="Ada", model="claude-opus-5-5", **fields)

    off = {"type": "agent_toolset_20260401", "configs": [{"name": "read", "enabled": False}]}
    for tools in ([], [off]):
        with pytest.raises(anthropic.BadRequestError, match="needs the tool 'read'"):
            create(skills=[skill], tools=tools)
    with pytest.raises(anthropic.BadRequestError, match=r"skills\.1\.skill_id: .* is listed twice"):
        create(skills=[skill, skill], tools=READS)
    with pytest.raises(anthropic.BadRequestError, match="both called 'my-skill'"):
        create(skills=[skill, {"type": "custom", "skill_id": other.id}], tools=READS)
    with pytest.raises(anthropic.BadRequestError, match="skills"):
        create(skills=[skill] * 65, tools=READS)
    agent = create(skills=[skill], tools=READS)
    with pytest.raises(anthropic.BadRequestError, match="needs the tool 'read'"):
        client.beta.agents.update(agent.id, tools=[])


def test_what_the_operator_installed(server: Server, client: anthropic.Anthropic) -> None:
    def install(name: str, skill: str) -> Any:
        with server.http() as http:
            sent = [("files[]", (f"{skill}/SKILL.md", md(skill)))]
            return http.post("/corral/v1/skills", files=sent, data={"prebuilt": name})

    assert install("html", "html").status_code == 400
    assert install("docx", "claude-docx").json()["id"] == "docx"
    assert install("docx", "other").status_code == 400, "another skill"
    assert install("docx", "claude-docx").status_code == 200, "another version"
    skill = client.skills.retrieve("docx")
    assert skill.source.type == "anthropic"
    assert [found.id for found in client.skills.list(source="anthropic")] == ["docx"]
    assert len(list(client.skills.versions.list("docx"))) == 2
    agent = client.beta.agents.create(
        name="Ada", model="claude-opus-5-5", tools=READS, skills=[{"type": "anthropic", "skill_id": "docx"}]
    )
    assert agent.skills[0].version == skill.latest_version_id
    for call in (
        lambda: client.skills.delete("docx"),
        lambda: client.skills.versions.delete(skill.latest_version_id, skill_id="docx"),
        lambda: client.skills.versions.create("docx", files=files("claude-docx")),
    ):
        with pytest.raises(anthropic.BadRequestError, match=r"read-only|reserved"):
            call()
    with server.http() as http:
        assert http.delete("/corral/v1/skills/docx").json() == {"id": "docx", "type": "skill_deleted"}
        assert http.delete("/corral/v1/skills/docx").status_code == 404


def test_blobs_are_what_the_rows_say(server: Server, client: anthropic.Anthropic) -> None:
    made = client.skills.create(files=files())
    data = download(client)("latest", skill_id=made.id).read()
    kept = server.run(
        server.deps.skill_versions.kept(DEFAULT_WORKSPACE, SkillVersionId(made.latest_version_id))
    )
    assert kept is not None and kept.skill_id == SkillId(made.id)
    assert (kept.size_bytes, kept.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_sessions_keep_what_their_agent_had(client: anthropic.Anthropic, server: Server) -> None:
    sessions, agents = client.beta.sessions, client.beta.agents
    environment_id = client.beta.environments.create(name="skills").id
    skill = client.skills.create(files=files())
    asked = {"type": "custom", "skill_id": skill.id}
    agent = agents.create(name="Ada", model="claude-opus-5-5", tools=READS, skills=[asked])
    session = sessions.create(agent=agent.id, environment_id=environment_id)
    assert session.agent.skills == agent.skills
    [thread] = sessions.threads.list(session.id)
    assert thread.agent.skills == agent.skills
    [kept] = server.run(server.deps.sessions.read(SessionId(session.id))).skills
    assert (kept["name"], kept["description"], kept["path"]) == (
        "my-skill",
        "Does things.",
        "/workspace/skills/my-skill",
    )

    def create(**overrides: Any) -> Any:
        chosen = {"type": "agent_with_overrides", "id": agent.id, **overrides}
        return sessions.create(agent=chosen, environment_id=environment_id)

    newest = client.skills.versions.create(skill.id, files=files(x=b"1")).id
    assert create(skills=[asked]).agent.skills[0].version == newest
    assert create().agent.skills == agent.skills
    assert create(skills=[]).agent.skills == create(skills=None, tools=[]).agent.skills == []
    with pytest.raises(anthropic.BadRequestError, match=r"agent\.skills: .*needs the tool 'read'"):
        create(tools=[])
    with pytest.raises(anthropic.BadRequestError, match=r"agent\.skills\.0: .*does not exist"):
        create(skills=[{"type": "custom", "skill_id": "skill_x"}])
    with pytest.raises(anthropic.BadRequestError, match="needs the tool 'read'"):
        sessions.update(session.id, agent={"tools": []})


def test_the_sdks_own_worker_unpacks_them(server: Server, tmp_path: Path) -> None:
    """What workers of self-hosted environments do first."""

    async def use() -> None:
        async with server.async_client(_strict_response_validation=True) as client:
            skill = await client.beta.skills.create(files=files(**{"scripts/run.sh": b"#!/bin/sh\n"}))
            agent = await client.beta.agents.create(
                name="Ada",
                model="claude-opus-5-5",
                tools=READS,
                skills=[{"type": "custom", "skill_id": skill.id}],
            )
            environment = await client.beta.environments.create(name="skills")
            session = await client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
            [made] = await download_session_skills(client, workdir=tmp_path, session=session)
        assert made == tmp_path / "skills/my-skill"
        assert (made / "SKILL.md").read_bytes() == md()
        assert (made / "scripts/run.sh").stat().st_mode & 0o777 == 0o755

    asyncio.run(use())


def test_a_deleted_skill_fails_new_sessions(client: anthropic.Anthropic) -> None:
    """Deleting is allowed; sessions that have it go on, later ones cannot begin."""
    environment_id = client.beta.environments.create(name="skills").id
    skill = client.skills.create(files=files())
    agent = client.beta.agents.create(
        name="Ada",
        model="claude-opus-5-5",
        tools=READS,
        skills=[{"type": "custom", "skill_id": skill.id}],
    )
    earlier = client.beta.sessions.create(agent=agent.id, environment_id=environment_id)
    client.skills.delete(skill.id)
    assert client.beta.agents.retrieve(agent.id).skills[0].skill_id == skill.id
    assert client.beta.sessions.retrieve(earlier.id).agent.skills[0].skill_id == skill.id
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.beta.sessions.create(agent=agent.id, environment_id=environment_id)
    error: Any = refused.value.body
    assert error["error"]["details"]["error_code"] == "skill_not_found"
    assert "agent.skills.0: skill" in error["error"]["message"]


@pytest.fixture
def api(server: Server) -> Iterator[Api]:
    made = Api(Serving(url=server.url, key=server.key))
    yield made
    made.close()


def test_the_command_line(
    client: anthropic.Anthropic, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`corral skills`, but for the reading of its arguments."""

    def install(source: Path, prebuilt: str | None = None) -> str:
        install_skill(api, source, prebuilt=prebuilt, as_json=False)
        return capsys.readouterr().out.split()[0]

    root = tmp_path / "sheets"
    (root / "scripts").mkdir(parents=True)
    (root / "SKILL.md").write_bytes(md("claude-sheets"))
    (root / "scripts/run.py").write_bytes(b"#!/usr/bin/env python3\n")
    assert install(root, "xlsx") == install(root, "xlsx") == "xlsx"
    assert len(list(client.skills.versions.list("xlsx"))) == 2
    assert client.skills.retrieve("xlsx").display_name == "claude-sheets"
    list_skills(api, most=5, as_json=False)
    assert "anthropic" in capsys.readouterr().out
    with pytest.raises(Problem, match="reserved word"):
        install(root)  # others go by the clients' rules
    (tmp_path / "a.zip").write_bytes(zip_of({"a/SKILL.md": md("a")}))
    skill_id = install(tmp_path / "a.zip")
    assert client.skills.retrieve(skill_id).display_name == "a"
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/SKILL.md").write_bytes(md("linked"))
    (tmp_path / "linked/link").symlink_to("/etc/passwd")
    for source, prebuilt, why in (
        (root, "html", "must be one of docx, pdf, pptx, xlsx"),
        (tmp_path, None, "has no SKILL.md"),
        (tmp_path / "nothing", None, "has no SKILL.md"),
        (tmp_path / "linked", None, "is a symbolic link"),
    ):
        with pytest.raises(Problem, match=why):
            install(source, prebuilt)
    for removed in ("xlsx", skill_id):
        remove_skill(api, removed)
        with pytest.raises(Problem, match="was not found"):
            remove_skill(api, removed)
