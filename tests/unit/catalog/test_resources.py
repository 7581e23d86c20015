"""What a session can have mounted together."""

import pytest

from corral.catalog.resources import check_together
from corral.kernel.errors import InvalidRequest
from corral.kernel.limits import REPOSITORIES_PER_SESSION_MAX


def test_repositories_are_bounded_and_files_are_not_counted_among_them() -> None:
    """Each is a clone before the first turn, also when all are of one URL."""
    files = [{"type": "file", "mount_path": f"/mnt/session/uploads/{n}"} for n in range(100)]
    repositories = [
        {"type": "github_repository", "mount_path": f"/workspace/{n}"}
        for n in range(REPOSITORIES_PER_SESSION_MAX + 1)
    ]
    allowed = files + repositories[1:]
    check_together(allowed, where=[""] * len(allowed))
    with pytest.raises(InvalidRequest, match=f"at most {REPOSITORIES_PER_SESSION_MAX} repositories"):
        check_together(repositories, where=[""] * len(repositories))
