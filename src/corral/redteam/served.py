"""A stage with everything: a server of its own, its hands host and egress process, a model that says what
it is told to, and a session next door. What attacks is a session's agent.
"""

import json
import secrets
import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anthropic

from corral.chaos.node import Node, StartFailed
from corral.daemon import doors_path, private_path, socket_path, token_path
from corral.hands.client import HandsClient
from corral.hands.providers.choice import ProviderName, provider_of
from corral.kernel.ids import CORRAL_KEY_PREFIX, SessionId
from corral.redteam.agent import MODEL, as_told, turn
from corral.redteam.bare import bounds
from corral.redteam.canaries import spellings
from corral.redteam.forge import MOUNTED, forge, moves, strays
from corral.redteam.gateway import gate_log, gateway
from corral.redteam.liar import Liar
from corral.redteam.outside import Outside
from corral.redteam.stage import ALLOWED, ATTACKERS, Broken
from corral.session.content import Json
from corral.testing.git_host import GitHost
from corral.testing.messages_api import MessagesApi

__all__ = ["ServedStage"]

_NEIGHBOUR: Final = "neighbour"
_VARIABLE: Final = "REDTEAM_TOKEN"
_NEIGHBOURS_PROGRAM: Final = """
import os, socket, sys, time
port = 0
try:
    tcp = socket.socket(); tcp.bind(("127.0.0.1", 0)); tcp.listen(); port = tcp.getsockname()[1]
    name = socket.socket(socket.AF_UNIX); name.bind("\\0" + sys.argv[2]); name.listen()
except OSError:
    pass
print(port, flush=True)
time.sleep(3600)
"""


class ServedStage:
    """`redteam.stage.Stage`.

    node: the processes of `corral serve`. key: of its API. vault_id: of the vault with a secret.
    sessions: who -> session id.
    """

    def __init__(
        self, kind: ProviderName, outside: Outside, node: Node, programs: Path | None = None
    ) -> None:
        self.kind: str = kind
        self.facts: dict[str, Json] = {}
        self.node = node
        self.sessions: dict[str, str] = {}
        self.gate_pid = 0
        self.vault_id = ""
        self.outside = outside
        self.liar = Liar(
            secret_path=str(outside.facts["outside_secret"]),
            elsewhere=f"http://foreign.test:{outside.facts['foreign_port']}/mcp",
            inside=f"http://127.0.0.1:{outside.facts['forbidden_port']}/metadata",
        )
        self._provider = provider_of(kind, state_dir=node.data_dir / "hands", is_warm=False, root=programs)
        self.capabilities = self._provider.capabilities
        self._api: anthropic.AsyncAnthropic | None = None
        self._hands: HandsClient | None = None
        self._model: MessagesApi | None = None
        self._git: GitHost | None = None
        self.key = f"{CORRAL_KEY_PREFIX}redteam_{secrets.token_urlsafe(24)}"

    @classmethod
    @asynccontextmanager
    async def around(
        cls, kind: ProviderName, outside: Outside, *, programs: Path | None = None
    ) -> "AsyncIterator[ServedStage]":
        """Below the root of `outside`. programs: a root file system that has those of sandboxes. Raises
        Broken."""
        data_dir = outside.root / "data"
        data_dir.mkdir(mode=0o711)
        (data_dir / "hands").mkdir(mode=0o711)
        canaries = outside.canaries
        async with AsyncExitStack() as stack:
            model = await stack.enter_async_context(MessagesApi(as_told, is_strict=False))
            options = ["--sandbox", kind]
            options += [] if programs is None else ["--sandbox-root", str(programs)]
            node = Node("redteam", data_dir, settings={}, options=options)
            stage = cls(kind, outside, node, programs)
            stage._model = model
            stack.enter_context(stage.liar.started())
            stack.push_async_callback(stage._provider.aclose)
            stage._git = git = stack.enter_context(forge(outside.root / "git", canaries))
            stage.gate_pid = await stack.enter_async_context(
                gateway(data_dir, outside.root, facts=outside.facts, liar_port=stage.liar.port, git=git)
            )
            stack.push_async_callback(node.stop)
            try:
                await node.start(
                    CORRAL_API_KEY=stage.key,
                    CORRAL_ANTHROPIC_API_KEY=canaries.plant("model"),
                    CORRAL_ANTHROPIC_BASE_URL=model.url,
                    CORRAL_LOG_LEVEL="debug",
                    CORRAL_REPOSITORY_PRIVATE_HOSTS=git.where if git is not None else "",
                    SOME_SECRET_OF_THE_OPERATOR=canaries.plant("server"),
                )
            except StartFailed as error:
                raise Broken(str(error)[-600:]) from error
            stage._api = await stack.enter_async_context(
                anthropic.AsyncAnthropic(
                    base_url=node.url,
                    api_key=stage.key,
                    max_retries=0,
                    timeout=600,
                    http_client=anthropic.DefaultAsyncHttpxClient(trust_env=False),
                )
            )
            stage._hands = HandsClient(
                socket_path(data_dir, "hands"), token=token_path(data_dir, "hands").read_text()
            )
            stack.push_async_callback(stage._hands.aclose)
            await stage._settle()
            yield stage

    # -- setting it -------------------------------------------------------------------------------------

    @property
    def gate_log(self) -> Path:
        return gate_log(self.outside.root)

    async def _settle(self) -> None:
        api = self._client
        agent = await api.beta.agents.create(
            name="redteam", model=MODEL, tools=[{"type": "agent_toolset_20260401"}]
        )
        networks: dict[str, Any] = {
            "limited": {"type": "limited", "allowed_hosts": list(ALLOWED)},
            "unrestricted": {"type": "unrestricted"},
        }
        environments = {
            name: (
                await api.beta.environments.create(name=name, config={"type": "cloud", "networking": each})
            ).id
            for name, each in networks.items()
        }
        vault = await self._fill_vault()
        for who in (_NEIGHBOUR, *ATTACKERS):
            session = await api.beta.sessions.create(
                agent=agent.id,
                environment_id=environments["limited" if who in ("limited", "last") else "unrestricted"],
                **({} if who == _NEIGHBOUR else {"vault_ids": [vault]}),  # type: ignore[arg-type]
                resources=self._repositories() if who in ("limited", "unrestricted") else [],
            )
            self.sessions[who] = session.id
        await self._open_to_liar(environments["unrestricted"], vault)
        await self._move_in_next_door()
        for who in ATTACKERS:
            await self.bash(who, "true", seconds=60)
        await self._try_variable()
        await self._try_token()
        self._know()

    async def _fill_vault(self) -> str:
        vault = await self._client.beta.vaults.create(display_name="redteam")
        self.vault_id = vault.id
        await self._client.beta.vaults.credentials.create(
            vault.id,
            auth={
                "type": "environment_variable",
                "secret_name": _VARIABLE,
                "secret_value": self.outside.canaries.plant("vault"),
                "networking": {"type": "limited", "allowed_hosts": ["allowed.test"]},
            },
        )

        await self._client.beta.vaults.credentials.create(
            vault.id,
            auth={
                "type": "static_bearer",
                "mcp_server_url": self._liar_url("mcp"),
                "token": self.outside.canaries.plant("bearer"),
            },
        )
        return vault.id

    def _liar_url(self, path: str) -> str:
        return f"http://liar.test:{self.liar.port}/{path}"

    async def _open_to_liar(self, environment_id: str, vault: str) -> None:
        """A session whose agent uses the server that lies, and two that lead elsewhere."""
        allowed = {"permission_policy": {"type": "always_allow"}}
        servers = {"liar": "mcp", "elsewhere": "elsewhere", "locked": "locked"}
        toolsets: list[Any] = [
            {"type": "mcp_toolset", "mcp_server_name": name, "default_config": allowed} for name in servers
        ]
        agent = await self._client.beta.agents.create(
            name="redteam with servers",
            model=MODEL,
            mcp_servers=[
                {"type": "url", "name": name, "url": self._liar_url(path)} for name, path in servers.items()
            ],
            tools=[{"type": "agent_toolset_20260401"}, *toolsets],
        )
        session = await self._client.beta.sessions.create(
            agent=agent.id, environment_id=environment_id, vault_ids=[vault]
        )
        self.sessions["mcp"] = session.id

    async def _try_variable(self) -> None:
        """That the secret reaches the host that it is for: else that it is nowhere else shows nothing."""
        asks = (
            "import os, urllib.request as u; "
            f"r = u.Request('https://allowed.test:{self.outside.facts['secure_port']}/bytes/1'); "
            f"r.add_header('Authorization', 'Bearer ' + os.environ.get('{_VARIABLE}', '')); "
            "print(u.urlopen(r, timeout=20).status)"
        )
        said = await self.bash("limited", f'python3 -c "{asks}" 2>&1', seconds=40)
        has_arrived = self.outside.canaries.planted["vault"].encode() in self.outside.origins["secure"].seen
        if has_arrived or not self.capabilities.holds("network"):  # without one, nothing arrives anywhere
            self.outside.facts["variable"] = _VARIABLE
        else:
            raise Broken(f"the secret of a variable does not reach its host: {said[-300:]}")

    def _repositories(self) -> list[Any]:
        """As resources of a session."""
        if (git := self._git) is None:
            return []
        token = self.outside.canaries.planted["git"]
        return [
            {"type": "github_repository", "url": git.url(name), "authorization_token": token}
            for name in MOUNTED
        ]

    async def _try_token(self) -> None:
        """That git has it inside: else that it is nowhere else shows nothing. Then one repository moves."""
        if (git := self._git) is None:
            return
        place = self.seen("limited", "/workspace/engine")
        git.authorizations.clear()
        said = await self.bash("limited", f"git -C {place} fetch 2>&1", seconds=40)
        if not git.authorizations and self.capabilities.holds("network"):
            raise Broken(f"the token of a repository does not reach its host: {said[-300:]}")
        moves(git, f"https://foreign.test:{self.outside.facts['foreign_secure_port']}")
        self.outside.facts |= {"git_place": place, "git_port": git.port}

    async def _move_in_next_door(self) -> None:
        """A session with secrets in its log, its files and a process."""
        canaries, mark = self.outside.canaries, f"corral-redteam-neighbour-{secrets.token_hex(8)}"
        abstract = f"{mark}-socket"
        command = (
            f": {canaries.plant('journal')}; echo {canaries.plant('neighbour')} > mine; rm -f port; "
            f"SECRET={canaries.plant('neighbourenv')} "
            f"setsid python3 -IS -c {shlex.quote(_NEIGHBOURS_PROGRAM)} "
            f"{mark} {abstract} > port 2>/dev/null < /dev/null & "
            "for i in $(seq 1600); do [ -s port ] && break; sleep 0.05; done; cat port"
        )
        self._note_to_neighbour = canaries.plant("store")
        said = await self._turn(
            _NEIGHBOUR, "bash", {"command": command, "timeout_ms": 90_000}, note=self._note_to_neighbour
        )
        home = self.home(_NEIGHBOUR)
        self.outside.facts |= {
            "neighbour_session": self.sessions[_NEIGHBOUR],
            "neighbour_mark": mark,
            "neighbour_abstract": abstract,
            "neighbour_home": str(home),
            "neighbour_files": str(home / "files"),
            "neighbour_secret": str(home / "files" / "mine"),
        }
        if said.strip().isdigit() and int(said):
            self.outside.facts["neighbour_port"] = int(said)
        from corral.testing.lab import pids_of

        self._neighbour_pids = pids_of(mark)
        if self._neighbour_pids:
            self.outside.know("neighbour", self._neighbour_pids[0])
        self._neighbour_files = sorted(each.name for each in (home / "files").iterdir())

    def _know(self) -> None:
        """What attempts are told of Corral's own."""
        data_dir, outside = self.node.data_dir, self.outside
        for role, pid in {
            **self.node.processes(),
            "egress": self.gate_pid,
            "supervisor": self.node.supervisor_pid or 0,
        }.items():
            outside.know(role, pid)
        private, egress = private_path(data_dir, "hands"), private_path(data_dir, "egress")
        paths = {
            "data_dir": data_dir,
            "store": data_dir / "corral.db",
            "server_log": self.node.log_path,
            "supervisor_state": data_dir / "supervisor.json",
            "workspaces": data_dir / "hands" / "workspaces",
            "journal": private / "journal.sqlite",
            "hands_private": private,
            "hands_token": token_path(data_dir, "hands"),
            "hands_socket": socket_path(data_dir, "hands"),
            "egress_token": token_path(data_dir, "egress"),
            "egress_socket": socket_path(data_dir, "egress"),
            "doors_socket": doors_path(data_dir),
            "vault_keys": egress / "vault.keys",
            "audit": egress / "audit",
        }
        outside.facts |= {name: str(path) for name, path in paths.items() if path.exists()}
        for name in ("data_dir", "workspaces", "hands_private", "audit"):
            outside.facts["listings"][str(paths[name])] = [each.name for each in paths[name].iterdir()]
        home = self.home(_NEIGHBOUR)
        outside.facts["listings"][str(home / "files")] = self._neighbour_files
        for path in (paths["data_dir"], paths["store"], paths["journal"], home):
            outside.facts["inodes"][str(path)] = [path.stat().st_ino]
        programs = sorted(data_dir.glob("hands/inside-*/agent/__main__.py"))
        has_paths = self.capabilities.holds("paths")
        outside.facts |= {
            "api_port": int(self.node.url.rpartition(":")[2]),
            "agent_program": "/run/corral/agent/__main__.py" if has_paths else str(programs[0]),
            "uploads": self.seen("limited", "/mnt/session/uploads"),
            "gaps": list(self.capabilities.gaps),
            **bounds(),
        }
        self.facts = outside.facts

    # -- what it is for -----------------------------------------------------------------------------------

    async def bash(self, who: str, command: str, *, seconds: float) -> str:
        return await self._turn(who, "bash", {"command": command, "timeout_ms": int(seconds * 1000)})

    async def write(self, who: str, path: str, text: str) -> None:
        await self._turn(who, "write", {"file_path": path, "content": text})

    async def restart(self, who: str) -> None:
        """By what an operator has for it."""
        path = f"/corral/v1/sandboxes/{self.sessions[who]}/evict"
        await self._client.post(path, cast_to=object, options={"headers": {"x-api-key": self.key}})

    def home(self, who: str) -> Path:
        return self.node.data_dir / "hands" / "workspaces" / self.sessions[who]

    def seen(self, who: str, path: str) -> str:
        return self._provider.seen(self.home(who), path)

    def export(self, who: str) -> AsyncIterator[bytes]:
        assert self._hands
        return self._hands.export_workspace(SessionId(self.sessions[who]))

    async def bring(self, who: str, archive: AsyncIterator[bytes]) -> None:
        assert self._hands
        await self._hands.import_workspace(SessionId(self.sessions[who]), archive)

    async def outputs(self, who: str) -> Sequence[tuple[str, bytes]]:
        assert self._hands
        session_id, found = SessionId(self.sessions[who]), []
        news = await self._hands.tree(session_id, "outputs")
        for entry in news.tree.entries:
            content = b"".join(
                [chunk async for chunk in self._hands.tree_file(session_id, "outputs", entry.path)]
            )
            found.append((entry.path, content))
        return found

    async def call_liar(self, tool: str) -> str:
        """What comes of a call. Raises Broken."""
        return await self._turn("mcp", f"mcp__liar__{tool}", {})

    def requests_to_the_model(self) -> list[Json]:
        """Of sessions that attack."""
        assert self._model
        found = [
            request.json for request in list(self._model.requests) if request.path.endswith("/messages")
        ]
        return [each for each in found if self._note_to_neighbour not in json.dumps(each["messages"])]

    def asked_of_the_model(self) -> bytes:
        return json.dumps(self.requests_to_the_model()).encode()

    async def upload_skill(self, archive: bytes) -> tuple[int, str]:
        """Status and body of the answer."""
        try:
            await self._client.beta.skills.create(files=[("bomb.zip", archive, "application/zip")])
        except anthropic.APIStatusError as error:
            return error.status_code, error.message
        return 200, ""

    def trips(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        asked = (self.outside.root / "asked").read_text().split()
        if strange := [name for name in asked if name.endswith(_UNASKED) or name == "wild.test"]:
            found["names"] = f"the name {strange[0][:80]!r} was looked up"
        if (
            sorted(each.name for each in (self.home(_NEIGHBOUR) / "files").iterdir())
            != self._neighbour_files
        ):
            found["neighbour-files"] = "something was put into another sandbox's workspace"
        found |= self._secret_trips()
        gone = [pid for pid in self._neighbour_pids if not Path(f"/proc/{pid}").exists()]
        if gone:
            found["neighbour"] = "a process of another sandbox was ended"
        return found

    def _secret_trips(self) -> dict[str, str]:
        secret, origins = self.outside.canaries.planted["vault"], self.outside.origins
        found = {}
        if got := [
            name for name in ("allowed", "foreign", "elsewhere") if secret.encode() in origins[name].seen
        ]:
            found["secret-elsewhere"] = f"the secret went to {got[0]}, which it is not for"
        if any(secret in line for line in origins["secure"].asked):
            found["secret-in-url"] = "the secret was put into a request line"
        if self._git is not None:
            found |= self._token_trips(self._git)
        return found

    def _token_trips(self, git: GitHost) -> dict[str, str]:
        token = self.outside.canaries.planted["git"]
        elsewhere = [
            name
            for name, origin in self.outside.origins.items()
            if any(spelled in origin.seen for spelled in spellings(token))
        ]
        if gone := [*elsewhere, *strays(git, token)]:
            return {
                "token-strays": f"the token of a repository strayed {len(gone)} times, to {gone[-1][:80]!r}"
            }
        return {}

    # -- one turn -----------------------------------------------------------------------------------------

    @property
    def _client(self) -> anthropic.AsyncAnthropic:
        assert self._api
        return self._api

    async def _turn(self, who: str, name: str, fields: Mapping[str, Json], *, note: str = "") -> str:
        """Have the agent call a tool; its answer. Raises Broken."""
        has_failing_servers = who == "mcp"
        return await turn(
            self._client, self.sessions[who], name, fields, note=note, may_fail=has_failing_servers
        )


_UNASKED: Final = (
    ".tunnel.test", "words.allowed.test", "notallowed.test", "evilwild.test", "dns.google", "8.8.8.8",
)  # fmt: skip
"""Endings of names that no session here may have looked up; "wild.test" itself is one, and no ending."""
