"""The commands and their options. What they do is imported when they are called."""

import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from corral import __version__
from corral.cli.outcome import Exit, Problem
from corral.config import Config, load
from corral.kernel.errors import CorralError

__all__ = ["app", "main"]

app = typer.Typer(
    name="corral",
    help="The open, self-hosted server for managed agents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start here: [bold]corral demo[/bold] (no key needed), then [bold]corral serve[/bold]. "
    "Exit codes: 0 done, 1 failed, 2 usage, 3 no server, 4 the agent waits for an answer, 5 detached, "
    "130 interrupted.",
)
sessions_app = typer.Typer(help="Sessions of a server: list, show, follow.", no_args_is_help=True)
keys_app = typer.Typer(help="API keys of a server.", no_args_is_help=True)
models_app = typer.Typer(
    help="Models: which there are, and one that runs on this machine.", no_args_is_help=True
)
app.add_typer(sessions_app, name="sessions")
app.add_typer(keys_app, name="keys")
app.add_typer(models_app, name="models")
sandboxes_app = typer.Typer(help="Sandboxes of a server's hosts: list, evict.", no_args_is_help=True)
app.add_typer(sandboxes_app, name="sandboxes")
db_app = typer.Typer(help="The database: check and upgrade its schema.", no_args_is_help=True)
app.add_typer(db_app, name="db")

Text = str | None
Url = Annotated[
    Text, typer.Option(help="Server to talk to; ANTHROPIC_BASE_URL, else the one on this machine.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Where everything is kept; ~/.local/share/corral unless set.")
]
ServedDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="The server on this data directory, not ANTHROPIC_BASE_URL's."),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Settings file; ./corral.toml unless set.")
]
SessionId = Annotated[str, typer.Argument(help="As in sesn_01...")]


def main(arguments: list[str] | None = None) -> int:
    """The entry point: run a command, return its exit code, never a traceback for a user's mistake."""
    try:
        _refuse_empty(sys.argv[1:] if arguments is None else arguments)
        outcome = app(arguments, standalone_mode=False)
        return int(outcome or 0)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # `corral ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return Exit.DONE
    except Exception as error:
        code = _explain(error)
        if code is None:
            raise
        return code


def _refuse_empty(arguments: list[str]) -> None:
    """`--data-dir "$UNSET"` must not mean the current directory, which an empty path becomes."""
    for option, value in pairwise([*arguments, "end"]):
        if option == "--":
            return
        if option.startswith("--") and (option.endswith("=") or (value == "" and "=" not in option)):
            raise Problem(f"{option.rstrip('=')}: a value is needed, and it is empty", exit=Exit.USAGE)


def _explain(error: Exception) -> int | None:
    """Say what went wrong in one line; None for what is not the user's to mend."""
    if isinstance(error, CorralError):
        print(f"corral: {error}", file=sys.stderr)
        return error.exit if isinstance(error, Problem) else Exit.USAGE
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # the command line could not be read
        error.show()
        return int(error.exit_code)
    if isinstance(error, typer.Abort):
        return Exit.INTERRUPTED
    if "anthropic" in sys.modules:  # only then can it be one of its errors
        import anthropic

        if isinstance(error, anthropic.APIStatusError):
            print(f"corral: the server says: {_wire_message(error.body) or error.message}", file=sys.stderr)
            return Exit.NO_SERVER if error.status_code in (401, 403) else Exit.FAILED
        if isinstance(error, anthropic.APIConnectionError):
            print("corral: the server went away; see `corral status`", file=sys.stderr)
            return Exit.NO_SERVER
    return None


def _wire_message(body: object) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message", "")) if isinstance(error, dict) else ""


def _config(config_file: Path | None = None, **flags: Any) -> Config:
    return load(flags, config_file=config_file)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"corral {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: corral serve --port 8420 --data-dir ./data")
def serve(
    host: Annotated[Text, typer.Option(help="Address to listen on. [127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one. [8420]")] = None,
    data_dir: DataDir = None,
    role: Annotated[
        list[str] | None,
        typer.Option(help="Only this role: api, brain, hands or egress; repeatable. Needs PostgreSQL."),
    ] = None,
    config: ConfigFile = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain (PEM): serve HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Private key of the certificate (PEM).")] = None,
    insecure_bind: Annotated[
        bool | None,
        typer.Option("--insecure-bind", help="Listen beyond this machine without TLS, behind a TLS proxy."),
    ] = None,
    local_model_path: Annotated[Path | None, typer.Option(help="GGUF file that `local` means.")] = None,
    models_dir: Annotated[Path | None, typer.Option(help="Where local models are kept.")] = None,
    recordings_dir: Annotated[Path | None, typer.Option(help="Recorded runs for `replay`.")] = None,
    log_level: Annotated[Text, typer.Option(help="debug, info, warning or error. [info]")] = None,
    as_json: Json = False,
    embedded: Annotated[bool, typer.Option("--embedded", hidden=True)] = False,
) -> None:
    """Start the server. Every option is also a setting: CORRAL_PORT, or port in corral.toml."""
    from corral.cli.serve import serve

    flags = {
        "host": host, "port": port, "data_dir": data_dir, "roles": role or None,
        "tls_cert": tls_cert, "tls_key": tls_key, "insecure_bind": insecure_bind,
        "local_model_path": local_model_path, "models_dir": models_dir,
        "recordings_dir": recordings_dir, "log_level": log_level,
    }  # fmt: skip
    serve(_config(config, **flags), as_json=as_json, is_embedded=embedded)


@app.command(
    epilog='Examples: corral run "fix the failing test" --workspace . | '
    'corral run --session sesn_01... "and now the docs". '
    "While it works: type to steer, Ctrl-C interrupts, a second Ctrl-C leaves."
)
def run(
    task: Annotated[Text, typer.Argument(help="What to do.")] = None,
    agent: Annotated[Text, typer.Option(help="Id of an agent to use.")] = None,
    model: Annotated[Text, typer.Option(help="Model of the agent: claude-*, local, replay.")] = None,
    session: Annotated[Text, typer.Option(help="Go on with this session.")] = None,
    workspace: Annotated[
        Path | None,
        typer.Option(help="A copy of this directory goes in, less .gitignore; a diff comes out."),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write the result back to --workspace.")] = False,
    ask: Annotated[bool, typer.Option("--ask", help="Ask me before every tool call.")] = False,
    url: Url = None,
    data_dir: ServedDir = None,
    as_json: Json = False,
) -> int:
    """Give an agent one task, and watch and steer it here."""
    from corral.cli.run import Errand, run

    if agent and model:
        raise Problem("--agent has a model of its own: give one of the two", exit=Exit.USAGE)
    if agent and ask:
        raise Problem("--agent has permissions of its own: leave --ask out", exit=Exit.USAGE)
    errand = Errand(
        task=task, agent_id=agent, model=model, session_id=session, workspace=workspace, is_applied=apply,
        must_ask=ask, as_json=as_json,
    )  # fmt: skip
    return run(errand, _config(data_dir=data_dir), url=url, is_here=data_dir is not None)


@app.command(
    epilog="Examples: corral demo | corral demo --model local | corral demo --model claude-sonnet-5-5"
)
def demo(
    model: Annotated[
        str, typer.Option(help="replay plays a recorded run; any other works live.")
    ] = "replay",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the fixed project and say where.")] = False,
    url: Url = None,
) -> int:
    """An agent fixes a bug in a real sandbox; the result is verified without taking its word."""
    from corral.cli.demo import demo

    return demo(_config(), model=model, url=url, keep=keep)


@app.command(
    epilog="Examples: corral chaos | corral chaos --cluster postgres --seconds 600 | "
    "corral chaos --kills 2000 --seed 7 | corral chaos --replay FILE. "
    "It needs no key and touches no server but its own. Exit code 1: a law was broken."
)
def chaos(
    cluster: Annotated[
        str,
        typer.Option(
            help="local: one `corral serve` on SQLite. postgres: six nodes on a PostgreSQL of its own. "
            "database: six nodes on the one of CORRAL_DATABASE_URL, which must be empty."
        ),
    ] = "local",
    seconds: Annotated[float | None, typer.Option(min=1, help="Break things for so long. [120]")] = None,
    kills: Annotated[
        int | None, typer.Option(min=1, help="Or until so many processes were killed.")
    ] = None,
    sessions: Annotated[int, typer.Option(min=1, help="Clients side by side, one session each.")] = 12,
    seed: Annotated[
        int | None, typer.Option(help="Same seed, same run, as far as the machine allows.")
    ] = None,
    faults: Annotated[Text, typer.Option(help="Only these, by comma: kill-hands,crash-point,...")] = None,
    crash_points: Annotated[str, typer.Option(help="all (each is hit) or none.")] = "all",
    scenario: Annotated[
        Text,
        typer.Option(help="One experiment instead, --kills times: long-tools, zombie, failover."),
    ] = None,
    replay: Annotated[Path | None, typer.Option(help="Repeat the schedule of an earlier run.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Work below this directory, and keep what is there afterwards.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Kill and break a cluster of its own in every declared way, and prove that nothing was lost."""
    from corral.cli.chaos import Asked, chaos

    asked = Asked(
        cluster=cluster, seconds=seconds, kills=kills, sessions=sessions, seed=seed, faults=faults,
        crash_points=crash_points, scenario=scenario, data_dir=data_dir, replay=replay,
    )  # fmt: skip
    return chaos(asked, shows_json=as_json)


@app.command()
def doctor(data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> int:
    """Check this machine, and say how to mend what fails."""
    from corral.cli.doctor import doctor

    return doctor(_config(config, data_dir=data_dir), as_json=as_json)


@app.command()
def status(
    url: Annotated[Text, typer.Option(help="Ask this node, instead of what runs on this machine.")] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Processes of this machine, all nodes that share its database, and the work that waits.

    What runs here is found by the data directory: --data-dir, CORRAL_DATA_DIR, or data_dir of the settings
    file; its own key lies there. With --url the key is ANTHROPIC_API_KEY, if it is one of ours, or
    CORRAL_API_KEY. ANTHROPIC_BASE_URL and CORRAL_DATABASE_URL are not looked at.
    """
    from corral.cli.status import status

    return status(_config(config, data_dir=data_dir), url=url, as_json=as_json)


@app.command(
    epilog="Examples: corral backup /var/backups | corral backup corral.tar.zst --data-dir ./data. "
    "A directory gets a file named after the time. The server may run meanwhile."
)
def backup(
    to: Annotated[Path, typer.Argument(metavar="FILE_OR_DIR", help="Where to; nothing is replaced.")],
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> int:
    """Copy the store and its blobs into one file, all of one moment."""
    from corral.cli.backup import backup, refuse_ignored

    settings = _config(config, data_dir=data_dir)
    refuse_ignored(settings, data_dir=data_dir)
    return backup(to, settings)


@app.command(
    epilog="Examples: corral restore corral.tar.zst --data-dir ./new | "
    "corral restore /var/backups --verify. Of a directory the newest backup is taken."
)
def restore(
    source: Annotated[Path, typer.Argument(metavar="FILE_OR_DIR", help="What `corral backup` has made.")],
    verify: Annotated[bool, typer.Option("--verify", help="Only check the file, without a store.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> int:
    """Load a backup into an empty store, SQLite or PostgreSQL, and check every row and blob."""
    from corral.cli.backup import restore, verify_only

    return verify_only(source) if verify else restore(source, _config(config, data_dir=data_dir))


def _api(url: str | None, data_dir: Path | None) -> Any:
    from corral.cli.connect import Api, running_server

    return Api(running_server(_config(data_dir=data_dir), url=url, is_here=data_dir is not None))


Most = Annotated[int, typer.Option("--limit", min=1, help="At most so many.")]


@sessions_app.command("list")
def sessions_list(
    limit: Most = 20, url: Url = None, data_dir: ServedDir = None, as_json: Json = False
) -> None:
    """Newest first."""
    from corral.cli.sessions import list_sessions

    list_sessions(_api(url, data_dir), most=limit, as_json=as_json)


@sessions_app.command("show")
def sessions_show(session_id: SessionId, url: Url = None, data_dir: ServedDir = None) -> None:
    """One session, as the API describes it."""
    from corral.cli.sessions import show_session

    show_session(_api(url, data_dir), session_id)


@app.command()
def kill(
    what: Annotated[str, typer.Argument(help="A session (sesn_...), an agent (agent_...), or ALL.")],
    reason: Annotated[
        str, typer.Option(help="Why; it is shown to the sessions' users.")
    ] = "stopped by hand",
    url: Url = None,
    data_dir: ServedDir = None,
) -> None:
    """Stop spending now: model calls, tools and queued messages end; the sessions stay."""
    from corral.cli.kill import kill

    kill(_api(url, data_dir), what, reason=reason)


@sessions_app.command("tail")
def sessions_tail(
    session_id: SessionId, url: Url = None, data_dir: ServedDir = None, as_json: Json = False
) -> None:
    """What happened and what happens, until Ctrl-C."""
    from corral.cli.sessions import tail_session

    tail_session(_api(url, data_dir), session_id, as_json=as_json)


@sessions_app.command("events")
def sessions_events(
    session_id: SessionId,
    limit: Most = 1000,
    url: Url = None,
    data_dir: ServedDir = None,
    as_json: Json = False,
) -> None:
    """The log, from its beginning."""
    from corral.cli.sessions import show_events

    show_events(_api(url, data_dir), session_id, most=limit, as_json=as_json)


@sandboxes_app.command("list")
def sandboxes_list(url: Url = None, data_dir: ServedDir = None, as_json: Json = False) -> None:
    """Sandboxes and workspaces by host, with their disk and last checkpoint."""
    from corral.cli.sandboxes import list_sandboxes

    list_sandboxes(_api(url, data_dir), as_json=as_json)


@sandboxes_app.command("evict")
def sandboxes_evict(
    session: SessionId, url: Url = None, data_dir: ServedDir = None, as_json: Json = False
) -> None:
    """Let an idle session's sandbox go. Its files come back with its next call."""
    from corral.cli.sandboxes import evict_sandbox

    evict_sandbox(_api(url, data_dir), session_id=session, as_json=as_json)


@app.command("certs")
def certs(
    directory: Annotated[Path, typer.Argument(help="Where the authority is, or will be.")],
    host: Annotated[
        list[str], typer.Option(help="Name or address of the node, as others reach it; repeatable.")
    ],
) -> None:
    """Make the certificates by which nodes on many machines know each other."""
    from corral.cli.certs import make_certs

    for path in make_certs(directory, host):
        print(path)


@keys_app.command("list")
def keys_list(url: Url = None, data_dir: ServedDir = None, as_json: Json = False) -> None:
    """Names and ids; the keys themselves are stored nowhere."""
    from corral.cli.keys import list_keys

    list_keys(_api(url, data_dir), as_json=as_json)


@keys_app.command("create")
def keys_create(
    name: Annotated[str, typer.Option(help="What it is for.")] = "command line",
    url: Url = None,
    data_dir: ServedDir = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it, once."""
    from corral.cli.keys import create_key

    create_key(_api(url, data_dir), name=name, as_json=as_json)


@keys_app.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(help="As in apikey_01...")],
    url: Url = None,
    data_dir: ServedDir = None,
) -> None:
    """From now on nobody enters with it."""
    from corral.cli.keys import revoke_key

    revoke_key(_api(url, data_dir), api_key_id=key_id)


@models_app.command("list")
def models_list(config: ConfigFile = None) -> None:
    """Which names mean what, and what each needs."""
    from corral.cli.models import list_models

    list_models(_config(config))


@models_app.command("install")
def models_install(
    name: Annotated[str, typer.Argument(help="local")],
    models_dir: Annotated[Path | None, typer.Option(help="Where to.")] = None,
) -> None:
    """Fetch a model that runs on this machine without a key (1.1 GB, checked by its SHA-256)."""
    from corral.cli.models import install_local

    if name != "local":
        raise Problem(f"{name!r} cannot be installed; there is: local", exit=Exit.USAGE)
    install_local(_config(models_dir=models_dir))


@db_app.command(
    "check", epilog="Example: CORRAL_DATABASE_URL=postgresql://corral@db/corral corral db check"
)
def db_check(data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> int:
    """Which database this is, whether it answers, and whether its schema is what this version needs.

    The database is CORRAL_DATABASE_URL's, else the SQLite file in the data directory. Exits with 1 if
    something is to be done, with 3 if the database cannot be reached; changes nothing.
    """
    from corral.cli.db import check

    return check(_config(config, data_dir=data_dir), as_json=as_json)


@db_app.command(
    "upgrade", epilog="Example: CORRAL_DATABASE_URL=postgresql://corral@db/corral corral db upgrade"
)
def db_upgrade(data_dir: DataDir = None, config: ConfigFile = None) -> int:
    """Create the schema in an empty PostgreSQL database, or bring it to this version.

    Run it once before the first `corral serve`, and before servers of a newer version start; it is one
    transaction, and running it twice, even at the same time, does no harm. The database is
    CORRAL_DATABASE_URL's. A SQLite file needs none of this: the server upgrades it when it starts.
    """
    from corral.cli.db import upgrade

    return upgrade(_config(config, data_dir=data_dir))
