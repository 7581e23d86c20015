"""Which packages the environments of this machine's sandboxes can have."""

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path

from corral.catalog.packages import PACKAGE_MANAGERS
from corral.cli.finding import Finding
from corral.config import Config

__all__ = ["examine_packages"]


def examine_packages(config: Config) -> Finding:
    """Looks for the package managers in a sandbox, as they are looked for when packages are installed."""
    from corral.packages.installer import PackagesFailed

    try:
        with tempfile.TemporaryDirectory(prefix="corral-") as directory:
            Path(directory).chmod(0o711)  # a root user's sandboxes pass through with a uid of their own
            missing = asyncio.run(_missing(config, Path(directory)))
    except PackagesFailed as error:
        detail = error.detail or error.message
        remedy = "environments can have no packages until `sandbox` is mended"
        return Finding(name="packages", state="warning", detail=detail, remedy=remedy)
    present = [manager for manager in PACKAGE_MANAGERS if manager not in missing]
    detail = f"{', '.join(present) or 'no package manager'} can install"
    if not missing:
        return Finding(name="packages", state="ok", detail=detail)
    absent = ", ".join(f"{name} (no {missing[name]})" for name in PACKAGE_MANAGERS if name in missing)
    remedy = "install what is missing, for all users, if environments are to have such packages"
    state = "ok" if present else "warning"
    return Finding(name="packages", state=state, detail=f"{detail}; not {absent}", remedy=remedy)


async def _missing(config: Config, directory: Path) -> Mapping[str, str]:
    from corral.catalog.hosts import HostList
    from corral.hands.providers.system import System
    from corral.packages.installer import Installer

    system = System.at(config.sandbox_root)
    installer = Installer(directory / "packages", hosts=HostList(), egress=None, system=system)
    try:
        return await installer.missing()
    finally:
        await installer.aclose()
