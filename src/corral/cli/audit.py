"""`corral audit`: what sandboxes asked for from the network, and what was decided."""

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Literal

from corral.cli.connect import Api
from corral.cli.outcome import Exit, Problem
from corral.cli.render import print_table

__all__ = ["Format", "Wanted", "export_audit", "list_audit"]

Format = Literal["jsonl", "csv"]
_COLUMNS: Final = (
    "created_at", "id", "workspace_id", "api_key_id", "agent_id", "session_id", "method", "host", "port",
    "decision", "reason", "detail", "credential_id", "sent_bytes", "received_bytes", "seconds", "failed",
)  # fmt: skip
_EVERYTHING: Final = 1_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """since, until: RFC 3339."""

    session_id: str | None = None
    agent_id: str | None = None
    api_key_id: str | None = None
    credential_id: str | None = None
    host: str | None = None
    decision: str | None = None
    since: str | None = None
    until: str | None = None

    def parameters(self) -> dict[str, str]:
        """Raises Problem."""
        for option, moment in (("--since", self.since), ("--until", self.until)):
            if moment is not None and not _is_moment(moment):
                wanted = "a moment with its time zone, such as 2026-01-31T00:00:00Z"
                raise Problem(f"{option}: {moment!r} is not {wanted}", exit=Exit.USAGE)
        names = {"since": "created_at[gte]", "until": "created_at[lt]"}
        return {names.get(name, name): value for name, value in asdict(self).items() if value is not None}


def list_audit(api: Api, wanted: Wanted, *, most: int, as_json: bool) -> None:
    """Newest first. Raises Problem."""
    found = list(_entries(api, wanted, most=most))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    rows = [
        (
            each["created_at"][:19],
            each["session_id"],
            each["method"],
            f"{each['host']}:{each['port']}",
            each["decision"],
            _traffic(each),
            each["reason"] or each["failed"] or _credential(each),
        )
        for each in found
    ]
    print_table(("when (UTC)", "session", "method", "host", "decision", "bytes out/in", "why"), rows)


def export_audit(api: Api, wanted: Wanted, *, format_: Format) -> None:
    """All of it to standard output, newest first, as it comes. Raises Problem."""
    entries = _entries(api, wanted, most=_EVERYTHING)
    if format_ == "jsonl":
        for each in entries:
            print(json.dumps(each))
        return
    writer = csv.DictWriter(sys.stdout, _COLUMNS, extrasaction="ignore")
    writer.writeheader()
    for each in entries:
        writer.writerow({name: _plain(value) for name, value in each.items()})


def _entries(api: Api, wanted: Wanted, *, most: int) -> Iterator[dict[str, Any]]:
    return api.pages("/corral/v1/audit", most=most, **wanted.parameters())


def _is_moment(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _traffic(entry: Mapping[str, Any]) -> str:
    if entry["sent_bytes"] is None:
        return "-"
    return f"{entry['sent_bytes']}/{entry['received_bytes']}"


def _credential(entry: Mapping[str, Any]) -> str:
    return f"with {entry['credential_id']}" if entry["credential_id"] else ""


def _plain(value: object) -> object:
    """A program that opens the file must not take what an agent wrote for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value
