"""Writes the generated parts of the docs from the code: `python -m scripts.docs` after a change there.

A page is prose with marked blocks in it:

    <!-- generated: limits -->
    ...
    <!-- end -->

`GENERATORS` names what can stand in a block. A test fails when a block is not what its generator writes.
"""

import ast
import dataclasses
import importlib
import inspect
import io
import json
import pkgutil
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import typer
from pydantic.fields import FieldInfo

import corral
import corral.conformance.cases  # fills CASES
from corral.api.application import create_api
from corral.api.dependencies import Dependencies
from corral.api.edge import Edge
from corral.catalog.models import ModelTable
from corral.cli.main import app
from corral.config import ENV_PREFIX, SETTINGS, Config, flag_of
from corral.conformance.case import CASES
from corral.conformance.report import covered
from corral.conformance.surface import EVENT_TYPES, EVENT_TYPES_LATER, SURFACE
from corral.hands.ports import WALLS
from corral.hands.providers.choice import PROVIDERS
from corral.hands.providers.engines import ENGINES
from corral.kernel import errors, limits, metrics
from corral.redteam.inside.attempts import groups
from corral.redteam.scenarios import SCENARIOS
from corral.session import events
from corral.session.fold import STATUS_AFTER

__all__ = ["GENERATORS", "ROOT", "pages", "rewritten"]

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Every page that may have generated blocks."""
    return sorted((ROOT / "docs").rglob("*.md"))


def rewritten(text: str) -> str:
    """The page with every block written anew."""
    return _BLOCK.sub(lambda match: f"{match[1]}{GENERATORS[match[2]]()}\n{match[3]}", text)


def table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def first_line(text: str | None) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.cleandoc(text or "").split("\n\n")[0]).split())


# -- settings and command line ---------------------------------------------------------------------------


def settings() -> str:
    flags = _flags_of_settings()
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    rows = []
    for name, setting in SETTINGS.items():
        default = defaults[name]
        is_shown = default not in (None, (), dataclasses.MISSING)
        said = ",".join(default) if isinstance(default, tuple) else str(default).lower()
        shown = f"`{said}`" if is_shown else ""
        sources = (
            f"`{flags[name]}`" if "flag" in setting.sources and name in flags else "",
            f"`{ENV_PREFIX}{name.upper()}`" if "env" in setting.sources else "",
            f"`{name}`" if "file" in setting.sources else "",
        )
        rows.append((*sources, shown, setting.help))
    return table(("flag of `serve`", "environment", "corral.toml", "default", "what it is"), rows)


def _flags_of_settings() -> dict[str, str]:
    """The flag that sets each setting, if `corral serve` has one."""
    serve = next(command for path, command in _commands() if path.split()[1:] == ["serve"])
    options = {option for parameter in serve.params for option in parameter.opts}
    return {name: flag_of(name) for name in SETTINGS if flag_of(name) in options}


def _commands() -> Iterator[tuple[str, Any]]:
    """Every command of `corral` that does something, with the words that reach it."""
    yield from _walk("corral", typer.main.get_command(app))


def _walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    children: Mapping[str, Any] = getattr(command, "commands", {})
    if not children:
        yield path, command
    for name, child in children.items():
        if not child.hidden:
            yield from _walk(f"{path} {name}", child)


def cli() -> str:
    parts = []
    for path, command in _commands():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        usage = " ".join([path, *(_argument(p) for p in arguments)])
        parts.append(f"### {path}\n\n{_prose(command.help)}\n\n```text\n{usage} [OPTIONS]\n```\n")
        if arguments:
            meant = [(f"`{_argument(p)}`", _prose(getattr(p, "help", ""))) for p in arguments]
            parts.append(table(("argument", "what it is"), meant) + "\n")
        rows = [_option(p) for p in command.params if p.param_type_name == "option" and not p.hidden]
        rows = [row for row in rows if "`--help`" not in row[0]]
        if rows:
            parts.append(table(("option", "default", "what it does"), rows) + "\n")
    return "\n".join(parts).rstrip()


def _argument(parameter: Any) -> str:
    name = parameter.name.upper()
    return name if parameter.required else f"[{name}]"


def _option(parameter: Any) -> tuple[str, str, str]:
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    default = parameter.default
    is_shown = default not in (None, False, (), "", dataclasses.MISSING) and not callable(default)
    is_shown = is_shown and isinstance(default, str | int | float)
    return names, f"`{default}`" if is_shown else "", _prose(getattr(parameter, "help", ""))


def _prose(text: str | None) -> str:
    return " ".join(inspect.cleandoc(text or "").split())


def exit_codes() -> str:
    from corral.cli import outcome

    source = inspect.getsource(outcome.Exit)
    comments = dict(re.findall(r"^\s+(\w+) = \d+(?:\s+# (.*))?$", source, re.MULTILINE))
    rows = [
        (f"`{code.value}`", code.name.lower().replace("_", " "), comments[code.name])
        for code in outcome.Exit
    ]
    return table(("code", "name", "meaning"), rows)


# -- events ----------------------------------------------------------------------------------------------

MEANING: Mapping[str, str] = {
    "user.message": "What a person says. Waits in the inbox until a brain takes it.",
    "user.interrupt": "Stop now. Jumps ahead of queued messages; running tools are killed.",
    "user.tool_confirmation": "Allow or deny a tool use that asked for permission.",
    "user.custom_tool_result": "The answer to an `agent.custom_tool_use`. The first answer counts.",
    "user.tool_result": "The answer of a self-hosted environment's worker to an `agent.tool_use`.",
    "system.message": "An instruction from the application, added to the conversation as a system turn.",
    "agent.message": "What the agent says.",
    "agent.thinking": "The agent thought. The text is not on the wire.",
    "agent.tool_use": "The agent calls a built-in tool. Logged before the tool runs.",
    "agent.tool_result": "The outcome of a tool use; unique per call.",
    "agent.mcp_tool_use": "The agent calls a tool of an MCP server. Logged before the call is made.",
    "agent.mcp_tool_result": "What that tool answered, or that the call was refused, denied or lost.",
    "agent.custom_tool_use": "The agent calls a tool that your client runs.",
    "agent.thread_context_compacted": "The conversation was too long for the model: a summary replaced it.",
    "session.status_running": "A brain works.",
    "session.status_idle": "The turn is over, or waits for you: see `stop_reason`.",
    "session.status_rescheduled": "A model request failed and will be made again.",
    "session.status_terminated": "The session has ended and takes no more events.",
    "session.thread_status_running": "As the session's, for one thread.",
    "session.thread_status_idle": "As the session's, for one thread.",
    "session.thread_status_rescheduled": "As the session's, for one thread.",
    "session.thread_status_terminated": "As the session's, for one thread.",
    "session.usage": "Cumulative tokens, seconds and list cost. Directly before every idle.",
    "session.error": "What went wrong, and in `retry_status` whether it is tried again.",
    "session.updated": "Title, metadata, or the agent's tools were changed.",
    "session.deleted": "The last event of a stream whose session was deleted. Never stored.",
    "span.model_request_start": "A model request begins.",
    "span.model_request_end": "It ended: usage, and `is_error` when there was no reply.",
}
_COMMON = ("id", "type", "processed_at")


def event_types() -> str:
    assert MEANING.keys() == events.EVENT_TYPES.keys(), MEANING.keys() ^ events.EVENT_TYPES.keys()
    rows = []
    for name, meaning in MEANING.items():
        fields: Mapping[str, FieldInfo] = events.EVENT_TYPES[name].model_fields
        shown = [
            f"`{field}`" if info.is_required() else f"`{field}`?"
            for field, info in fields.items()
            if field not in _COMMON
        ]
        sender = "you, queued" if name in events.INBOX_TYPES else "you" if name.startswith("user.") else ""
        rows.append((f"`{name}`", sender, ", ".join(shown), meaning))
    return table(("type", "sent by", "fields beside `id`, `type`, `processed_at`", "what it says"), rows)


_FROM: Mapping[str, tuple[str, ...]] = {
    "status_running": ("idle", "rescheduling"),
    "status_rescheduled": ("running",),
    "status_idle": ("running", "rescheduling", "idle"),
    "status_terminated": ("idle", "running", "rescheduling"),
}
"""Where each status event may be met; where it leads is the fold's table."""


def status_diagram() -> str:
    leads = {name.removeprefix("session."): status for name, status in STATUS_AFTER.items()}
    threads = {name.removeprefix("thread_"): s for name, s in leads.items() if name.startswith("thread_")}
    own = {name: status for name, status in leads.items() if not name.startswith("thread_")}
    assert own == threads and own.keys() == _FROM.keys(), "the diagram does not know this status event"
    arrows = [f"    {start} --> {own[name]}: {name}" for name, starts in _FROM.items() for start in starts]
    return "\n".join(
        ["```mermaid", "stateDiagram-v2", "    [*] --> idle", *arrows, "    terminated --> [*]", "```"]
    )


# -- ports, errors, limits -------------------------------------------------------------------------------

_PORT_MODULES = (
    "corral.session.log",
    "corral.session.work",
    "corral.session.lease",
    "corral.session.record",
    "corral.session.bus",
    "corral.session.workspace",
    "corral.session.cleanup",
    "corral.session.resources",
    "corral.session.checkpoint",
    "corral.session.sandboxes",
    "corral.cluster.node",
    "corral.cluster.placement",
    "corral.catalog.blobs",
    "corral.catalog.records",
    "corral.catalog.environment_keys",
    "corral.catalog.files.table",
    "corral.catalog.memory.ports",
    "corral.catalog.idempotency",
    "corral.brain.ports",
    "corral.hands.ports",
    "corral.web.search",
    "corral.kernel.clock",
)


def ports() -> str:
    parts = []
    for module_name in _PORT_MODULES:
        module = importlib.import_module(module_name)
        for port in vars(module).values():
            if not (
                inspect.isclass(port) and Protocol in port.__bases__ and port.__module__ == module_name
            ):
                continue
            own_doc = vars(port).get("__doc__")
            parts.append(f"### {port.__name__}\n\n`{module_name}`. {first_line(own_doc)}".rstrip() + "\n")
            rows = [
                (f"`{name}{_signature(member)}`", first_line(getattr(member, "__doc__", "")))
                for name, member in vars(port).items()
                if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
            ]
            parts.append(table(("method", "what it promises"), rows) + "\n")
    return "\n".join(parts).rstrip()


def _signature(member: object) -> str:
    if isinstance(member, property):
        return ""
    assert inspect.isfunction(member)
    names, starred = [], False
    for name, parameter in inspect.signature(member).parameters.items():
        if name == "self":
            continue
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            names.append("*")
            starred = True
        names.append(name if parameter.default is inspect.Parameter.empty else f"{name}=...")
    return f"({', '.join(names)})"


def error_tree() -> str:
    for module in pkgutil.walk_packages(corral.__path__, "corral."):
        if not module.name.endswith("__main__") and ".migrations" not in module.name:
            importlib.import_module(module.name)
    rows: list[tuple[str, ...]] = []
    drawn = dict(
        re.findall(r"─ (\w+) +(?:\d.*?_\w+:? ?)?(.*)", errors.__doc__ or "")
    )  # the tree drawn in that module

    def visit(kind: type[errors.CorralError], depth: int) -> None:
        status = getattr(kind, "status", None)
        wire = f"{status} `{kind.wire_type}`" if issubclass(kind, errors.CallerError) else ""
        if issubclass(kind, errors.WorldError | errors.Stop):
            wire = "529 `overloaded_error`"
        name = ("&nbsp;&nbsp;" * depth) + f"`{kind.__name__}`"
        meaning = first_line(vars(kind).get("__doc__")) or drawn.get(kind.__name__, "")
        rows.append((name, f"`{kind.__module__}`", wire, meaning))
        for child in sorted(kind.__subclasses__(), key=lambda child: (child.__module__, child.__name__)):
            if child.__module__.startswith("corral."):
                visit(child, depth + 1)

    visit(errors.CorralError, 0)
    return table(("class", "module", "on the wire, when it reaches the API", "meaning"), rows)


def all_limits() -> str:
    """Names, values and reasons, from the source of kernel/limits.py."""
    source = inspect.getsource(limits)
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    statements = {node.lineno: node for node in ast.parse(source).body if isinstance(node, ast.Assign)}
    parts: list[str] = []
    rows: list[tuple[str, ...]] = []

    def close() -> None:
        if rows:
            parts.append(table(("limit", "value", "why"), rows) + "\n")
            rows.clear()

    for line in sorted(comments.keys() | statements.keys()):
        comment = comments.get(line, "")
        if line not in statements:
            if comment.startswith("--"):
                close()
                parts.append(f"### {comment.strip('- ').partition(' (')[0].capitalize()}\n")
            continue
        [target] = statements[line].targets
        names = [node.id for node in ast.walk(target) if isinstance(node, ast.Name)]
        values = [getattr(limits, name) for name in names]
        shown = [f"{value:,}" if isinstance(value, int | float) else str(value) for value in values]
        rows.append(
            (
                "<br>".join(f"`{name}`" for name in names),
                "<br>".join(shown),
                re.sub(r"\s*\(API docs.*?\)", "", comment),
            )
        )
    close()
    return "\n".join(parts).rstrip()


# -- the API ---------------------------------------------------------------------------------------------


def _document() -> dict[str, Any]:
    """The OpenAPI document; building it calls no port."""
    missing = {field.name: None for field in dataclasses.fields(Dependencies)}
    return create_api(Dependencies(**{**missing, "allowed_hosts": frozenset(), "edge": Edge()})).openapi()  # type: ignore[arg-type]


def routes() -> str:
    return _routes(lambda path: path.startswith("/v1/"))


def own_routes() -> str:
    return _routes(lambda path: not path.startswith("/v1/"))


def _routes(is_wanted: Callable[[str], bool]) -> str:
    rows = []
    for path, methods in _document()["paths"].items():
        for method, operation in methods.items() if is_wanted(path) else ():
            query = [f"`{p['name']}`" for p in operation.get("parameters", ()) if p.get("in") == "query"]
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            shape = body.get("schema", {}).get("$ref", "").rpartition("/")[2]
            rows.append((f"`{method.upper()} {path}`", f"`{shape}`" if shape else "", ", ".join(query)))
    return table(("route", "body", "query"), sorted(rows, key=lambda row: row[0].strip("`").split()[1]))


# -- models ----------------------------------------------------------------------------------------------


def models() -> str:
    import tomllib

    data = tomllib.loads((Path(inspect.getfile(ModelTable)).with_suffix(".toml")).read_text())
    rows = []
    for model in data["model"]:
        price = model.get("price", {})
        cost = (
            " / ".join(price.get(key, "?") for key in ("input", "output", "cache_read"))
            if price
            else "none"
        )
        size = f"{model['context_window']:,} / {model['max_output']:,}"
        rows.append((", ".join(f"`{name}`" for name in model["ids"]), size, cost))
    head = f"List prices as of {data['as_of']}."
    headings = ("model", "context / output tokens", "USD per million tokens: input / output / cache read")
    return f"{head}\n\n{table(headings, rows)}"


def providers() -> str:
    import tomllib

    data = tomllib.loads((Path(inspect.getfile(ModelTable)).with_suffix(".toml")).read_text())
    rows = [
        (", ".join(f"`{p}`" for p in provider["patterns"]), f"`{provider['name']}`")
        for provider in data["provider"]
    ]
    return table(("names", "provider"), rows)


def instruments() -> str:
    suffix = {"counter": "_total", "histogram": "_seconds", "gauge": ""}
    rows = []
    for name, each in metrics.INSTRUMENTS.items():
        ending = "" if name.endswith(suffix[each.kind]) else suffix[each.kind]
        labels = ", ".join(f"`{label}`" for label in each.labels)
        rows.append((f"`corral_{name}{ending}`", each.kind, labels, each.help))
    return table(("name", "kind", "labels", "what it says"), rows)


# -- conformance -----------------------------------------------------------------------------------------


def compatibility() -> str:
    cases = covered(CASES)
    rows = [
        (
            endpoint.group,
            f"`{endpoint.name}`",
            f"`{endpoint.sdk}`",
            ", ".join(name.replace("_", " ") for name in cases[endpoint.name]) or "**not there yet**",
        )
        for endpoint in SURFACE
    ]
    there = sum(bool(cases[endpoint.name]) for endpoint in SURFACE)
    types = len(EVENT_TYPES) + len(EVENT_TYPES_LATER)
    *some, last = sorted(set(EVENT_TYPES_LATER.values()))
    needed = f"{', '.join(some)} and {last}"
    proof = "[one test](../../tests/sdk/turns/test_event_types.py)"
    counts = (
        f"{there} of {len(SURFACE)} endpoints, {len(CASES)} cases.\n\n"
        f"{len(EVENT_TYPES)} of {types} event types, each received by an official client in {proof};"
        f" those of {needed} are not there yet.\n\n"
    )
    return counts + table(("group", "endpoint", "SDK method", "cases"), rows)


# -- sandboxes -------------------------------------------------------------------------------------------


def walls() -> str:
    """What each provider holds everywhere; what depends on the machine, `corral doctor` says."""
    modules = {name: "container" if name in ENGINES else name for name in PROVIDERS}
    gaps = {
        name: importlib.import_module(f"corral.hands.providers.{module}").GAPS
        for name, module in modules.items()
    }
    rows = [
        (
            f"`{wall}`",
            promise,
            *(f"**no**: {gaps[name][wall]}" if wall in gaps[name] else "yes" for name in gaps),
        )
        for wall, promise in WALLS.items()
    ]
    return table(("wall", "what it means", *(f"`{name}`" for name in gaps)), rows)


def attacks() -> str:
    """What is tried, by group: nothing of it is written twice."""
    known = {group: [attempt.title for attempt in attempts] for group, attempts in groups().items()}
    for name, scenario in SCENARIOS.items():
        known.setdefault(name.partition(".")[0], []).append(scenario.title)
    rows = [(f"`{group}`", str(len(titles)), "; ".join(titles[:3])) for group, titles in known.items()]
    total = sum(map(len, known.values()))
    return table(("group", "attempts", "such as: it ..."), [*rows, ("all", str(total), "")])


def attack_results() -> str:
    """Of the last run that was kept: `corral redteam --json docs/redteam.json`."""
    reports = json.loads((ROOT / "docs" / "redteam.json").read_text())
    rows = [
        (
            f"`{report['kind']}`",
            str(sum(report["counts"].values())),
            *(str(report["counts"].get(verdict, 0)) for verdict in ("held", "gap", "untried", "escaped")),
            f"{report['searches']:,}",
            str(len(report["hits"])),
        )
        for report in reports
        if not report["problem"]
    ]
    headings = ("sandbox", "attempts", "held", "gap", "not tried", "escaped", "searches", "leaked")
    return table(headings, rows)


def attack_gaps() -> str:
    reports = json.loads((ROOT / "docs" / "redteam.json").read_text())
    rows = [
        (f"`{report['kind']}`", f"`{finding['name']}`", f"it {finding['title']}")
        for report in reports
        for finding in report["findings"]
        if finding["verdict"] == "gap"
    ]
    return table(("sandbox", "attempt", "what worked, as the sandbox says of itself"), rows)


GENERATORS: Mapping[str, Callable[[], str]] = {
    "attacks": attacks,
    "attack-gaps": attack_gaps,
    "attack-results": attack_results,
    "settings": settings,
    "cli": cli,
    "exit-codes": exit_codes,
    "event-types": event_types,
    "status-diagram": status_diagram,
    "ports": ports,
    "errors": error_tree,
    "limits": all_limits,
    "routes": routes,
    "own-routes": own_routes,
    "models": models,
    "providers": providers,
    "metrics": instruments,
    "compatibility": compatibility,
    "walls": walls,
}


def main() -> None:
    for path in pages():
        before = path.read_text()
        after = rewritten(before)
        if after != before:
            path.write_text(after)
            print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
