"""One process, one role. The exit code says whether starting it again can help."""

import sys

from corral.kernel.errors import CorralError
from corral.process import EXIT_FAILED, Start, begin, report_failed, report_ready


async def _hands(start: Start) -> None:
    from corral.hands.process import serve_hands
    from corral.hands.providers.bwrap import BwrapProvider

    await serve_hands(
        data_dir=start.config.data_dir,
        provider=lambda state_dir: BwrapProvider(state_dir=state_dir),
        on_ready=report_ready,
    )


async def _egress(start: Start) -> None:
    from corral.egress.process import serve_egress

    await serve_egress(data_dir=start.config.data_dir, on_ready=report_ready)


async def _server(start: Start) -> None:
    from corral.app.server import serve

    await serve(start)


_ROLES = {"server": _server, "hands": _hands, "egress": _egress}


def main() -> int:
    role = sys.argv[1]
    start = begin(role)  # type: ignore[arg-type]  # refuses a role that is not one
    try:
        if role == "egress":  # the smallest process: it has no use for a fast loop yet
            import asyncio

            asyncio.run(_ROLES[role](start))
        else:
            import uvloop

            uvloop.run(_ROLES[role](start))
    except CorralError as error:
        report_failed(str(error))
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
