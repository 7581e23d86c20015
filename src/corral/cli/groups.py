"""The commands that begin with a noun: `corral sessions list`. What they do is imported when called."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from corral.cli.options import (
    ConfigFile,
    DataDir,
    Json,
    Most,
    ServedDir,
    SessionId,
    Text,
    Url,
    api_at,
    config_from,
)
from corral.cli.outcome import Exit, Problem

__all__ = ["GROUPS"]

sessions_app = typer.Typer(help="Sessions of a server: list, show, tail, events.", no_args_is_help=True)
keys_app = typer.Typer(help="API keys of a server.", no_args_is_help=True)
workspaces_app = typer.Typer(
    help="Workspaces of a server: apart from each other in everything.", no_args_is_help=True
)
models_app = typer.Typer(
    help="Models: which there are, and one that runs on this machine.", no_args_is_help=True
)
price_app = typer.Typer(help="What models cost: list, set, remove.", no_args_is_help=True)
models_app.add_typer(price_app, name="price")
environments_app = typer.Typer(
    help="Environments: what their sandboxes may take, keys of those that are self-hosted.",
    no_args_is_help=True,
)
environment_keys_app = typer.Typer(
    help="What the workers of a self-hosted environment come in with.", no_args_is_help=True
)
environments_app.add_typer(environment_keys_app, name="key")
sandboxes_app = typer.Typer(help="Sandboxes of a server's hosts: list, evict.", no_args_is_help=True)
skills_app = typer.Typer(help="Skills of a server: list, install, remove.", no_args_is_help=True)
audit_app = typer.Typer(
    help="What sandboxes asked for from the network: list, export.", no_args_is_help=True
)
vault_app = typer.Typer(help="The keys that seal secrets: status, rotation.", no_args_is_help=True)
db_app = typer.Typer(help="The database: check and upgrade its schema.", no_args_is_help=True)
GROUPS = {
    "sessions": sessions_app,
    "keys": keys_app,
    "workspaces": workspaces_app,
    "environments": environments_app,
    "models": models_app,
    "sandboxes": sandboxes_app,
    "skills": skills_app,
    "audit": audit_app,
    "vault": vault_app,
    "db": db_app,
}


@sessions_app.command("list")
def sessions_list(
    limit: Most = 20, url: Url = None, data_dir: ServedDir = None, as_json: Json = False
) -> None:
    """Newest first."""
    from corral.cli.sessions import list_sessions

    list_sessions(api_at(url, data_dir), most=limit, as_json=as_json)


@sessions_app.command("show")
def sessions_show(session_id: SessionId, url: Url = None, data_dir: ServedDir = None) -> None:
    """One session, as the API describes it."""
    from corral.cli.sessions import show_session

    show_session(api_at(url, data_dir), session_id)


@sessions_app.command("tail")
def sessions_tail(
    session_id: SessionId, url: Url = None, data_dir: ServedDir = None, as_json: Json = False
) -> None:
    """What happened and what happens, until Ctrl-C."""
    from corral.cli.sessions import tail_session

    tail_session(api_at(url, data_dir), session_id, as_json=as_json)


@sessions_app.command("events")
def sessions_events(
    session_id: SessionId,
    limit: Most = 1000,
    network: Annotated[
        bool, typer.Option("--network", help="Also what was asked for from the network, at its time.")
    ] = False,
    url: Url = None,
    data_dir: ServedDir = None,
    as_json: Json = False,
) -> None:
    """The log, from its beginning."""
    from corral.cli.sessions import show_events

    show_events(api_at(url, data_dir), session_id, most=limit, with_network=network, as_json=as_json)


@sandboxes_app.command("list")
def sandboxes_list(url: Url = None, data_dir: ServedDir = None, as_json: Json = False) -> None:
    """Sandboxes and workspaces by host, with their disk and last checkpoint."""
    from corral.cli.sandboxes import list_sandboxes

    list_sandboxes(api_at(url, data_dir), as_json=as_json)


@sandboxes_app.command("evict")
def sandboxes_evict(
    session: SessionId, url: Url = None, data_dir: ServedDir = None, as_json: Json = False
) -> None:
    """Let an idle session's sandbox go. Its files come back with its next call."""
    from corral.cli.sandboxes import evict_sandbox

    evict_sandbox(api_at(url, data_dir), session_id=session, as_json=as_json)


@keys_app.command("list")
def keys_list(url: Url = None, data_dir: ServedDir = None, as_json: Json = False) -> None:
    """Names and ids; the keys themselves are stored nowhere."""
    from corral.cli.keys import list_keys

    list_keys(api_at(url, data_dir), as_json=as_json)


@keys_app.command("create")
def keys_create(
    name: Annotated[str, typer.Option(help="What it is for.")] = "command line",
    role: Annotated[str, typer.Option(help="admin, developer or user.")] = "developer",
    workspace: Annotated[str | None, typer.Option(help="As in wrkspc_01...; the default one.")] = None,
    url: Url = None,
    data_dir: ServedDir = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it, once."""
    from corral.cli.keys import create_key

    create_key(api_at(url, data_dir), name=name, role=role, workspace_id=workspace, as_json=as_json)


@keys_app.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(help="As in apikey_01...")],
    url: Url = None,
    data_dir: ServedDir = None,
) -> None:
    """From now on nobody enters with it."""
    from corral.cli.keys import revoke_key

    revoke_key(api_at(url, data_dir), api_key_id=key_id)


EnvironmentId = Annotated[str, typer.Argument(help="As in env_01...")]


@environment_keys_app.command("list")
def environment_keys_list(
    environment_id: EnvironmentId, url: Url = None, data_dir: ServedDir = None, as_json: Json = False
) -> None:
    """Names and ids, revoked ones too; the keys themselves are stored nowhere."""
    from corral.cli.environments import list_environment_keys

    list_environment_keys(api_at(url, data_dir), environment_id, as_json=as_json)


@environment_keys_app.command("create")
def environment_keys_create(
    environment_id: EnvironmentId,
    name: Annotated[str, typer.Option(help="Whose it is.")] = "command line",
    url: Url = None,
    data_dir: ServedDir = None,
    as_json: Json = False,
) -> None:
    """Make a key for workers and show it, once."""
    from corral.cli.environments import create_environment_key

    create_environment_key(api_at(url, data_dir), environment_id, name=name, as_json=as_json)


@environment_keys_app.command("revoke")
def environment_keys_revoke(
    environment_id: EnvironmentId,
    key_id: Annotated[str, typer.Argument(help="As in envkey_01...")],
    url: Url = None,
    data_dir: ServedDir = None,
) -> None:
    """From now on no worker enters with it; what it has claimed it finishes with the items' own tokens."""
    from corral.cli.environments import revoke_environment_key

    revoke_environment_key(api_at(url, data_dir), environment_id, key_id)


@environments_app.command("limits")
def environments_limits(
    environment_id: EnvironmentId,
    provider: Annotated[
        Text, typer.Option(help="What makes the sandboxes, of what the server offers.")
    ] = None,
    cpus: Annotated[Text, typer.Option(help="Processors: 0.5 is half of one's time.")] = None,
    memory: Annotated[Text, typer.Option(help="Memory of one sandbox: 512MiB, 4GiB.")] = None,
    processes: Annotated[Text, typer.Option(help="Processes and threads together.")] = None,
    disk: Annotated[Text, typer.Option(help="Disk for all that it keeps: 20GiB.")] = None,
    command_seconds: Annotated[Text, typer.Option(help="Longest run of a command.")] = None,
    url: Url = None,
    data_dir: ServedDir = None,
    as_json: Json = False,
) -> None:
    """What each sandbox of the environment may take; with options, change it.

    The word `default` in place of a value goes back to the server's own.
    """
    from corral.cli.environments import environment_limits

    asked = {
        "provider": provider, "cpus": cpus, "memory_bytes": memory, "processes": processes,
        "disk_bytes": disk, "command_seconds": command_seconds,
    }  # fmt: skip
    given = {name: value for name, value in asked.items() if value is not None}
    environment_limits(api_at(url, data_dir), environment_id, given, as_json=as_json)


@workspaces_app.command("list")
def workspaces_list(url: Url = None, data_dir: ServedDir = None, as_json: Json = False) -> None:
    """Oldest first, archived ones too."""
    from corral.cli.keys import list_workspaces

    list_workspaces(api_at(url, data_dir), as_json=as_json)


@workspaces_app.command("create", epilog="Example: corral workspaces create research")
def workspaces_create(
    name: Annotated[str, typer.Argument(help="For people; it may be anything.")],
    url: Url = None,
    data_dir: ServedDir = None,
    as_json: Json = False,
) -> None:
    """Make a workspace and show its id. Then make a key for it: `corral keys create --workspace`."""
    from corral.cli.keys import create_workspace

    create_workspace(api_at(url, data_dir), name=name, as_json=as_json)


@workspaces_app.command("archive")
def workspaces_archive(
    workspace_id: Annotated[str, typer.Argument(help="As in wrkspc_01...")],
    url: Url = None,
    data_dir: ServedDir = None,
) -> None:
    """From now on its keys let nobody in. What runs goes on: see `corral kill`."""
    from corral.cli.keys import archive_workspace

    archive_workspace(api_at(url, data_dir), workspace_id=workspace_id)


@skills_app.command("list")
def skills_list(
    limit: Most = 100, url: Url = None, data_dir: ServedDir = None, as_json: Json = False
) -> None:
    """Newest first."""
    from corral.cli.skills import list_skills

    list_skills(api_at(url, data_dir), most=limit, as_json=as_json)


@skills_app.command("install", epilog="Example: corral skills install ./pptx --as pptx")
def skills_install(
    source: Annotated[Path, typer.Argument(help="A directory with a SKILL.md, or a zip of one.")],
    prebuilt: Annotated[
        Text, typer.Option("--as", help="One of Anthropic's own names: docx, pdf, pptx, xlsx.")
    ] = None,
    url: Url = None,
    data_dir: ServedDir = None,
    as_json: Json = False,
) -> None:
    """Upload a skill. With --as, agents that name a prebuilt skill get this one.

    Repeated with --as, it becomes the next version of that skill.
    """
    from corral.cli.skills import install_skill

    install_skill(api_at(url, data_dir), source, prebuilt=prebuilt, as_json=as_json)


@skills_app.command("remove")
def skills_remove(
    skill_id: Annotated[str, typer.Argument(help="As in skill_01..., or docx, pdf, pptx, xlsx.")],
    url: Url = None,
    data_dir: ServedDir = None,
) -> None:
    """Remove a skill and all its versions. Sessions that have it keep it."""
    from corral.cli.skills import remove_skill

    remove_skill(api_at(url, data_dir), skill_id)


@vault_app.command("status")
def vault_status(url: Url = None, data_dir: ServedDir = None, as_json: Json = False) -> None:
    """Which keys there are, and how many secrets each has sealed."""
    from corral.cli.vault import status

    status(api_at(url, data_dir), as_json=as_json)


@vault_app.command("rotate-key")
def vault_rotate_key(
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the end of it.")] = 60.0,
    url: Url = None,
    data_dir: ServedDir = None,
) -> int:
    """Make a new key and seal every secret anew with it. The old one goes when nothing uses it.

    An egress node does it, also when this command has ended; killed in the middle, it goes on when it is
    back. Copy the new key file to other egress nodes, and keep one with each backup.
    """
    from corral.cli.vault import rotate_key

    return rotate_key(api_at(url, data_dir), wait_seconds=wait)


@vault_app.command("make-key", epilog="Example: corral vault make-key vault.keys")
def vault_make_key(
    path: Annotated[Path, typer.Argument(help="File to write it to; an existing one gets one more line.")],
) -> None:
    """Make a key where a key management service is to keep it; see CORRAL_VAULT_KEY_COMMAND."""
    from corral.cli.vault import make_key

    make_key(path)


@models_app.command("list")
def models_list(config: ConfigFile = None) -> None:
    """Which names mean what, and what each needs."""
    from corral.cli.models import list_models

    list_models(config_from(config))


@models_app.command("install")
def models_install(
    name: Annotated[str, typer.Argument(help="local")],
    models_dir: Annotated[Path | None, typer.Option(help="Where to.")] = None,
) -> None:
    """Fetch a model that runs on this machine without a key (1.1 GB, checked by its SHA-256)."""
    from corral.cli.models import install_local

    if name != "local":
        raise Problem(f"{name!r} cannot be installed; there is: local", exit=Exit.USAGE)
    install_local(config_from(models_dir=models_dir))


@price_app.command("list")
def models_price_list(config: ConfigFile = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """What every priced model costs, and where that price is from."""
    from corral.cli.prices import show_prices

    show_prices(config_from(config, data_dir=data_dir), as_json=as_json)


@price_app.command("set", epilog="Example: corral models price set claude-next-9 --input 3 --output 15")
def models_price_set(
    name: Annotated[str, typer.Argument(help="A model name that a provider claims.")],
    input: Annotated[str, typer.Option(help="USD per million tokens read.")],
    output: Annotated[str, typer.Option(help="USD per million tokens written.")],
    cache_read: Annotated[
        str | None, typer.Option(help="Read from the cache; as input unless set.")
    ] = None,
    cache_write_5m: Annotated[str | None, typer.Option(help="Cached for 5 minutes; as input.")] = None,
    cache_write_1h: Annotated[str | None, typer.Option(help="Cached for an hour; as input.")] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Enter a price: for a model without one, or in place of the list's. 0 is a price, too."""
    from corral.cli.prices import set_price

    set_price(
        config_from(config, data_dir=data_dir),
        name,
        input=input,
        output=output,
        cache_read=cache_read,
        cache_write_5m=cache_write_5m,
        cache_write_1h=cache_write_1h,
    )


@price_app.command("remove")
def models_price_remove(
    name: Annotated[str, typer.Argument(help="As it was entered.")],
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Take an entered price back: the list's is good again, or there is none."""
    from corral.cli.prices import remove_price

    remove_price(config_from(config, data_dir=data_dir), name)


@db_app.command(
    "check", epilog="Example: CORRAL_DATABASE_URL=postgresql://corral@db/corral corral db check"
)
def db_check(data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> int:
    """Which database this is, whether it answers, and whether its schema is what this version needs.

    The database is CORRAL_DATABASE_URL's, else the SQLite file in the data directory. Exits with 1 if
    something is to be done, with 3 if the database cannot be reached; changes nothing.
    """
    from corral.cli.db import check

    return check(config_from(config, data_dir=data_dir), as_json=as_json)


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

    return upgrade(config_from(config, data_dir=data_dir))


_OfSession = Annotated[str | None, typer.Option("--session", help="As in sesn_01...; all unless set.")]
_OfAgent = Annotated[str | None, typer.Option("--agent", help="As in agent_01...; all unless set.")]
_OfKey = Annotated[
    str | None, typer.Option("--key", help="Of sessions made with it, as in apikey_01...; all unless set.")
]
_OfCredential = Annotated[
    str | None, typer.Option("--credential", help="Put in, as in vcrd_01...; all unless set.")
]
_OfHost = Annotated[str | None, typer.Option("--host", help="The whole name of one; all unless set.")]
_Decision = Annotated[
    Literal["allowed", "denied"] | None, typer.Option("--decision", help="Only these; both unless set.")
]
_Since = Annotated[str | None, typer.Option(help="From this moment on, as in 2026-01-31T00:00:00Z.")]
_Until = Annotated[str | None, typer.Option(help="Before this moment.")]


@audit_app.command("list")
def audit_list(
    session: _OfSession = None,
    agent: _OfAgent = None,
    key: _OfKey = None,
    credential: _OfCredential = None,
    host: _OfHost = None,
    decision: _Decision = None,
    since: _Since = None,
    until: _Until = None,
    limit: Most = 50,
    url: Url = None,
    data_dir: ServedDir = None,
    as_json: Json = False,
) -> None:
    """Show the newest entries, the latest first."""
    from corral.cli.audit import Wanted, list_audit

    wanted = Wanted(
        session_id=session,
        agent_id=agent,
        api_key_id=key,
        credential_id=credential,
        host=host,
        decision=decision,
        since=since,
        until=until,
    )
    list_audit(api_at(url, data_dir), wanted, most=limit, as_json=as_json)


@audit_app.command("export")
def audit_export(
    session: _OfSession = None,
    agent: _OfAgent = None,
    key: _OfKey = None,
    credential: _OfCredential = None,
    host: _OfHost = None,
    decision: _Decision = None,
    since: _Since = None,
    until: _Until = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV; a JSON object a line unless set.")] = False,
    url: Url = None,
    data_dir: ServedDir = None,
) -> None:
    """Every entry to standard output, newest first."""
    from corral.cli.audit import Wanted, export_audit

    wanted = Wanted(
        session_id=session,
        agent_id=agent,
        api_key_id=key,
        credential_id=credential,
        host=host,
        decision=decision,
        since=since,
        until=until,
    )
    export_audit(api_at(url, data_dir), wanted, format_="csv" if as_csv else "jsonl")
