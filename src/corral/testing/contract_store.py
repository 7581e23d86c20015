"""What every store must do. Run `CHECKS` on yours: each is an async function of a fresh `Stores`.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    async def test_contract(check, stores):
        await check(stores)

The random comparison with `testing.oracle` is in tests/property.
"""

from corral.testing import (
    contract_audit,
    contract_budgets,
    contract_catalog,
    contract_files,
    contract_log,
    contract_memory,
    contract_memory_mounts,
    contract_memory_versions,
    contract_sessions,
    contract_skills,
    contract_vaults,
    contract_work,
)
from corral.testing.stores import Check

CHECKS: tuple[Check, ...] = (
    *contract_log.CHECKS,
    *contract_sessions.CHECKS,
    *contract_budgets.CHECKS,
    *contract_catalog.CHECKS,
    *contract_files.CHECKS,
    *contract_memory.CHECKS,
    *contract_memory_mounts.CHECKS,
    *contract_memory_versions.CHECKS,
    *contract_skills.CHECKS,
    *contract_vaults.CHECKS,
    *contract_audit.CHECKS,
    *contract_work.CHECKS,
)
