"""Which sessions have which versions of skills: their packages stay for as long as the sessions."""

from sqlalchemy import Connection, insert

from corral.session.record import SessionRecord
from corral.store.schema import session_skills

__all__ = ["keep_skills"]


def keep_skills(connection: Connection, record: SessionRecord) -> None:
    """In the transaction that makes the session. Its rows go with it."""
    if record.skills:
        connection.execute(
            insert(session_skills),
            [
                {
                    "session_id": record.session_id,
                    "skill_version_id": skill["version"],
                    "workspace_id": record.workspace_id,
                }
                for skill in record.skills
            ],
        )
