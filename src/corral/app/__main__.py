"""One process, one role. The exit code says whether starting it again can help."""

import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, cast

from corral.kernel.errors import SandboxUnavailable
from corral.process import Role, Start, report_ready, run

if TYPE_CHECKING:
    from corral.config import Config
    from corral.hands.providers.choice import ProviderName


async def _hands(start: Start) -> None:
    from corral.app.mcp import open_mcp
    from corral.app.web import open_web
    from corral.hands.process import serve_hands
    from corral.hands.providers.choice import DEFAULT, provider_of
    from corral.hands.tls import ClusterTls
    from corral.hands.way_out import Egress

    config = start.config
    sandbox = config.sandbox or DEFAULT
    await _require_sandboxes(sandbox, config)
    tls = None
    if config.cluster_ca and config.cluster_cert and config.cluster_key:
        tls = ClusterTls(ca=config.cluster_ca, cert=config.cluster_cert, key=config.cluster_key)
    # The proxy of a node serves that node. Where there is none, sandboxes and web tools have no way out.
    egress = Egress(config.data_dir) if "egress" in config.roles else None
    await serve_hands(
        data_dir=config.data_dir,
        provider=lambda state_dir: provider_of(
            sandbox,
            state_dir=state_dir,
            egress=egress,
            root=config.sandbox_root,
            image=config.sandbox_image,
            choices=config.sandbox_choices,
        ),
        web=lambda state_dir: open_web(config, state_dir, egress),
        mcp=lambda: open_mcp(config),
        on_ready=report_ready,
        sandboxes_max=config.sandboxes_max,
        listen=config.hands_listen,
        tls=tls,
    )


async def _require_sandboxes(sandbox: "ProviderName", config: "Config") -> None:
    """Fail at once, with the remedy, where no sandbox can be made; while the server still imports."""
    from corral.hands.providers.choice import provider_of
    from corral.hands.providers.engines import ENGINES

    if config.sandbox_image is not None and not {sandbox, *config.sandbox_choices} & {*ENGINES}:
        raise SandboxUnavailable(
            "no sandbox can be made here",
            retryable=False,
            detail=f"{sandbox} has no images; leave --sandbox-image (CORRAL_SANDBOX_IMAGE) away, or name"
            " --sandbox docker or podman, or unpack the image for --sandbox-root",
        )
    state_dir = config.data_dir / "hands"
    state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    provider = provider_of(
        sandbox,
        state_dir=state_dir,
        is_warm=False,
        root=config.sandbox_root,
        image=config.sandbox_image,
    )
    try:
        probe = await provider.probe()
    finally:
        await provider.aclose()
    if not probe.is_available:
        who = f" (as user {config.user!r})" if config.user else ""
        raise SandboxUnavailable(
            f"no sandbox can be made here{who}", retryable=False, detail=f"{probe.report}; {probe.remedy}"
        )


async def _egress(start: Start) -> None:
    from corral.app.errands import errands_of
    from corral.daemon import Entrance
    from corral.egress.policy import OperatorHosts
    from corral.egress.process import serve_egress
    from corral.vault.ring import CommandKeys, FileKeys, Keys

    config = start.config
    keys: Keys | None = None
    if config.vault_key_command is not None:
        keys = CommandKeys(config.vault_key_command)
    elif config.vault_key_file is not None:
        keys = FileKeys(config.vault_key_file)
    given: Entrance | None = None
    if start.token is not None:
        sockets = [socket.socket(fileno=number) for number in start.sockets]
        given = Entrance(token=start.token.reveal(), sockets=sockets)
    await serve_egress(
        data_dir=config.data_dir,
        given=given,
        on_ready=report_ready,
        keys=keys,
        trusted=[each for each in (config.egress_ca, config.repository_ca) if each is not None],
        operator=OperatorHosts(
            denied=config.egress_denied_hosts,
            internal=config.egress_internal_hosts,
            packages=config.egress_package_hosts,
            servers=config.mcp_private_hosts,
            repositories=config.repository_private_hosts,
            errands=errands_of(config),
        ),
        authorities=config.mcp_ca,
    )


async def _server(start: Start) -> None:
    from corral.app.server import serve

    await serve(start)


def _prepare(roles: Sequence[str]) -> None:
    """Everything that a server with these roles imports, also late: a spare has the time."""
    from corral.app.prepare import prepare

    prepare(roles)


_ROLES: dict[Role, Callable[[Start], Coroutine[object, object, None]]] = {
    "server": _server,
    "hands": _hands,
    "egress": _egress,
}


def main() -> int:
    role = cast(Role, sys.argv[1])
    if role not in _ROLES:
        raise SystemExit(f"{role!r} is not one of {', '.join(_ROLES)}")
    return run(role, _ROLES[role], prepare=_prepare if role == "server" else None)


if __name__ == "__main__":
    sys.exit(main())
