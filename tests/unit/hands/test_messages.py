"""The message of an error may be shown to anybody, so none repeats what somebody else wrote: the text of
another exception, or a path of the machine. Those are for its detail, which is for the log."""

import ast
from collections.abc import Iterator
from pathlib import Path

import corral.hands
from corral.hands import ports
from corral.kernel import errors

SOURCES = Path(corral.hands.__file__).parent
AT_START = {"tls.py"}  # read by whoever starts the process, of files that they named
WORDS = {"message", "strerror"}  # of another error, that are safe: ours, and the operating system's
PLACES = {"path", "home", "workspace", "folder", "socket_path", "state_dir", "data_dir", "address"}
KINDS = {
    name
    for module in (errors, ports)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, (errors.CallerError, errors.WorldError))
} | {"CannotWork"}


def messages(tree: ast.AST) -> Iterator[ast.expr]:
    """What errors are made with, for anybody."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
            yield from node.args[:1]


def repeated(message: ast.expr, caught: set[str]) -> list[str]:
    """Names in a message whose whole text it would show."""
    safe = {
        inner
        for node in ast.walk(message)
        if (isinstance(node, ast.Attribute) and node.attr in WORDS)
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type")
        for inner in ast.walk(node)
    }
    return [
        node.id
        for node in ast.walk(message)
        if isinstance(node, ast.Name) and node not in safe and node.id in caught | PLACES
    ]


def found_in(source: str) -> list[str]:
    tree = ast.parse(source)
    caught = {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name}
    return [name for message in messages(tree) for name in repeated(message, caught)]


def test_what_is_looked_for_is_found() -> None:
    start = "try:\n  f()\nexcept OSError as e:\n  raise "
    assert found_in(start + "SandboxUnavailable(f'no: {e}')") == ["e"]
    assert found_in(start + "HandsUnavailable(str(e))") == ["e"]
    assert found_in(start + "InvalidRequest(f'{e!r}')") == ["e"]
    assert found_in("raise SandboxUnavailable(f'{workspace} is full')") == ["workspace"]
    assert found_in(start + "SandboxUnavailable(f'{e.strerror}, {type(e).__name__}', detail=str(e))") == []


def test_no_message_repeats_what_somebody_else_wrote() -> None:
    seen = 0
    for path in sorted(SOURCES.rglob("*.py")):
        if path.name in AT_START or "sandbox_agent" in path.parts:
            continue
        source = path.read_text()
        seen += len(list(messages(ast.parse(source))))
        assert found_in(source) == [], path.name
    assert seen > 40
