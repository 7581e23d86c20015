"""Every request that changes something goes through `OnceOnly`, or is named here with a reason."""

import ast
import re
from pathlib import Path

import corral.api.routes

EXCEPTIONS = {
    "create_environment_key": "a key is refused: the answer holds a secret that is stored nowhere",
    "revoke_environment_key": "safe to repeat as it is",
    "archive_thread": "always refused: only primary threads exist",
    "count_tokens": "changes nothing",
    "create_key": "a key is refused: the answer holds a secret that is stored nowhere",
    "revoke_key": "safe to repeat as it is",
    "rotate_vault_key": "safe to repeat: a rotation that was asked for is asked for",
    "validate_credential": "changes nothing",
    "update_environment_sandbox": "safe to repeat as it is: the same bounds are set",
    "evict_sandbox": "safe to repeat as it is: what is evicted stays evicted",
    "kill": "an emergency stop: repeated, it stops again",
    "install_skill": "an operator's command: repeated, the same package is installed as a newer version",
    "uninstall_skill": "an operator's command: repeated, it is gone already",
    "import_workspace": "a PUT: repeated, it puts the same files there",
}
CHANGES = {"post", "put", "patch", "delete"}


def changing_routes() -> dict[str, str]:
    """The source of each handler of a request that changes something, by name."""
    found: dict[str, str] = {}
    for path in Path(next(iter(corral.api.routes.__path__))).glob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.AsyncFunctionDef) and any(
                isinstance(call, ast.Call) and getattr(call.func, "attr", "") in CHANGES
                for call in node.decorator_list
            ):
                assert node.name not in found
                wrapped = [ast.unparse(each) for each in node.decorator_list]
                found[node.name] = "\n".join([*wrapped, ast.get_source_segment(text, node) or ""])
    return found


def test_every_change_takes_effect_once_per_key() -> None:
    routes = changing_routes()
    assert len(routes) > 12
    assert set(EXCEPTIONS) <= set(routes)
    for name, source in routes.items():
        is_once = (
            re.search(
                r"^once\.per_key$|await once\.replay\(request, (?:upload\.)?digest\)", source, re.MULTILINE
            )
            is not None
            and "await once.perform(" in source
        )
        assert is_once != (name in EXCEPTIONS), name
