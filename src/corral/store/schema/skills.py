"""Skills, their versions, and which sessions have which. No foreign key between the first two: a version
outlives its skill while sessions have it."""

from sqlalchemy import Column, ForeignKey, Index, Integer, String, Table

from corral.store.schema.types import Moment, metadata

__all__ = ["session_skills", "skill_versions", "skills"]

skills = Table(
    "skills",
    metadata,
    Column("workspace_id", String, primary_key=True),
    Column("skill_id", String, primary_key=True),  # the operator's own have the prebuilt ids
    Column("source", String, nullable=False),  # custom | anthropic
    Column("display_name", String, nullable=False),
    Column("name", String, nullable=False),
    # the latest version; null if there is none
    Column("latest_version_id", String),
    Column("latest_created_at", Moment),
    Column("last_created_at", Moment, nullable=False),  # of the last version there ever was
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Index("skills_by_creation", "workspace_id", "created_at", "skill_id"),
    Index("skills_by_source", "workspace_id", "source", "created_at", "skill_id"),
)

skill_versions = Table(
    "skill_versions",
    metadata,
    Column("skill_version_id", String, primary_key=True),
    Column("workspace_id", String, nullable=False),
    Column("skill_id", String, nullable=False),
    Column("name", String, nullable=False),
    Column("description", String, nullable=False),
    Column("directory", String, nullable=False),
    Column("files", Integer, nullable=False),
    Column("blob_key", String),  # null: it is on its way
    Column("size_bytes", Integer, nullable=False),
    Column("sha256", String, nullable=False),
    Column("created_at", Moment, nullable=False),
    # null: it is there. Else since when it is deleted, or on its way.
    Column("gone_since", Moment),
)
Index(
    "skill_versions_by_creation",
    skill_versions.c.workspace_id,
    skill_versions.c.skill_id,
    skill_versions.c.created_at,
    unique=True,
    sqlite_where=skill_versions.c.gone_since.is_(None),
    postgresql_where=skill_versions.c.gone_since.is_(None),
)
Index(
    "skill_versions_to_forget",
    skill_versions.c.gone_since,
    sqlite_where=skill_versions.c.gone_since.is_not(None),
    postgresql_where=skill_versions.c.gone_since.is_not(None),
)

session_skills = Table(
    "session_skills",
    metadata,
    Column("session_id", ForeignKey("sessions.session_id", ondelete="CASCADE"), primary_key=True),
    Column("skill_version_id", String, primary_key=True),
    Column("workspace_id", String, nullable=False),
    Index("session_skills_by_version", "skill_version_id"),
)
