"""The commands that are verbs: `corral serve`. What they do is imported when they are called."""

from pathlib import Path
from typing import Annotated

import typer

from corral import __version__
from corral.cli.groups import GROUPS
from corral.cli.options import (
    ConfigFile,
    DataDir,
    Json,
    ServedDir,
    Text,
    Url,
    api_at,
    config_from,
)
from corral.cli.outcome import Exit, Problem

__all__ = ["app"]

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
for name, group in GROUPS.items():
    app.add_typer(group, name=name)


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
    sandbox: Annotated[
        Text, typer.Option(help="What makes sandboxes: gvisor, bwrap, docker, podman or landlock. [bwrap]")
    ] = None,
    sandbox_root: Annotated[
        Path | None, typer.Option(help="Root file system with the programs of sandboxes. [the machine's]")
    ] = None,
    sandbox_image: Annotated[Text, typer.Option(help="Or an image that docker or podman has.")] = None,
    user: Annotated[
        Text, typer.Option(help="Started as root: who runs all but the supervisor and egress.")
    ] = None,
    egress_user: Annotated[
        Text, typer.Option(help="And who runs egress, which alone can read the vault's keys.")
    ] = None,
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
        "recordings_dir": recordings_dir, "sandbox": sandbox, "sandbox_root": sandbox_root,
        "sandbox_image": sandbox_image, "user": user, "egress_user": egress_user,
        "log_level": log_level,
    }  # fmt: skip
    serve(config_from(config, **flags), as_json=as_json, is_embedded=embedded)


@app.command(
    epilog='Examples: corral run "fix the failing test" --workspace . | '
    'corral run --session sesn_01... "and now the docs". '
    "While it works: type to steer, Ctrl-C interrupts, a second Ctrl-C leaves."
)
def run(
    task: Annotated[Text, typer.Argument(help="What to do.")] = None,
    agent: Annotated[Text, typer.Option(help="Id of an agent to use.")] = None,
    model: Annotated[
        Text, typer.Option(help="Model of the agent: claude-*, local, replay. [claude-sonnet-5-5]")
    ] = None,
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
    return run(errand, config_from(data_dir=data_dir), url=url, is_here=data_dir is not None)


@app.command(
    epilog="Examples: corral demo | corral demo --model local | corral demo --model claude-sonnet-5-5"
)
def demo(
    model: Annotated[
        str, typer.Option(help="replay plays a recorded run; any other works live.")
    ] = "replay",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the fixed project and say where.")] = False,
    url: Annotated[Text, typer.Option(help="Server to talk to; one of its own unless set.")] = None,
) -> int:
    """An agent fixes a bug in a real sandbox; the result is verified without taking its word."""
    from corral.cli.demo import demo

    return demo(config_from(), model=model, url=url, keep=keep)


@app.command(
    epilog="Examples: corral conformance | corral conformance --no-model --group agents,vaults | "
    "corral conformance --base-url https://corral.example --junit report.xml. "
    "Exit code 1: a case failed."
)
def conformance(
    base_url: Annotated[Text, typer.Option(help="The server; the one on this machine unless set.")] = None,
    api_key: Annotated[
        Text,
        typer.Option(
            help="Its key. Others on this machine see it here: better set CONFORMANCE_API_KEY.",
            envvar="CONFORMANCE_API_KEY",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="The model of the agents that cases make.")
    ] = "claude-haiku-4-5",
    no_model: Annotated[bool, typer.Option("--no-model", help="Only cases that need no model.")] = False,
    groups: Annotated[Text, typer.Option("--group", help="Only these, by comma.")] = None,
    only: Annotated[Text, typer.Option(help="Only cases with this in their name.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write a JUnit report there.")] = None,
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Answers need not be of the SDK's types: for an older SDK.")
    ] = False,
    data_dir: ServedDir = None,
    as_json: Json = False,
) -> int:
    """Ask a server, ours or any other, everything an official client may ask, and say where it differs."""
    from corral.cli.conformance import Asked, conformance, target

    server = target(
        base_url,
        api_key,
        model=model,
        is_strict=not lenient,
        config=config_from(data_dir=data_dir),
        is_here=data_dir is not None,
    )
    asked = Asked(groups=groups, only=only, uses_model=not no_model, junit=junit)
    return conformance(server, asked, shows_json=as_json)


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
    seconds: Annotated[
        float | None,
        typer.Option(min=1, help="Break things for so long; all else takes a minute or more beside. [120]"),
    ] = None,
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


@app.command(
    epilog="Examples: corral redteam | corral redteam --sandbox bwrap --only smuggling | "
    "corral redteam --list. It needs no key and touches no server but its own. "
    "Exit code 1: something escaped or leaked."
)
def redteam(
    sandbox: Annotated[
        str, typer.Option(help="The kind of sandbox that is attacked, or all that this machine can make.")
    ] = "all",
    only: Annotated[
        Text, typer.Option(help="Only these groups of attempts, or single ones, by comma.")
    ] = None,
    lists: Annotated[bool, typer.Option("--list", help="Say what would be tried, and end.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write what came of each attempt to this file, too.")
    ] = None,
    sandbox_root: Annotated[
        Path | None, typer.Option(help="Root file system with the programs of sandboxes. [the machine's]")
    ] = None,
) -> int:
    """Attack sandboxes of a server of its own in every known way; look everywhere for planted secrets."""
    from corral.cli.redteam import Asked, redteam

    asked = Asked(sandbox=sandbox, only=only, lists=lists, json_file=json_file, programs=sandbox_root)
    return redteam(asked)


@app.command()
def doctor(data_dir: DataDir = None, config: ConfigFile = None, as_json: Json = False) -> int:
    """Check this machine, and say how to mend what fails."""
    from corral.cli.doctor import doctor

    return doctor(config_from(config, data_dir=data_dir), as_json=as_json)


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

    return status(config_from(config, data_dir=data_dir), url=url, as_json=as_json)


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

    settings = config_from(config, data_dir=data_dir)
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

    return verify_only(source) if verify else restore(source, config_from(config, data_dir=data_dir))


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

    kill(api_at(url, data_dir), what, reason=reason)


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
