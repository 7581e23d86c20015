"""Skills, their versions, and which sessions have which."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

# Ids are ordered by code point on every engine and in every locale, as Python orders them.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
_THERE, _GONE = sa.text("gone_since IS NULL"), sa.text("gone_since IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "skills",
        sa.Column("workspace_id", _TEXT, nullable=False),
        sa.Column("skill_id", _TEXT, nullable=False),
        sa.Column("source", _TEXT, nullable=False),
        sa.Column("display_name", _TEXT, nullable=False),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("latest_version_id", _TEXT, nullable=True),
        sa.Column("latest_created_at", sa.BigInteger(), nullable=True),
        sa.Column("last_created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "skill_id"),
    )
    op.create_index("skills_by_creation", "skills", ["workspace_id", "created_at", "skill_id"])
    op.create_index("skills_by_source", "skills", ["workspace_id", "source", "created_at", "skill_id"])
    op.create_table(
        "skill_versions",
        sa.Column("skill_version_id", _TEXT, nullable=False),
        sa.Column("workspace_id", _TEXT, nullable=False),
        sa.Column("skill_id", _TEXT, nullable=False),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("description", _TEXT, nullable=False),
        sa.Column("directory", _TEXT, nullable=False),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.Column("blob_key", _TEXT, nullable=True),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("sha256", _TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("gone_since", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("skill_version_id"),
    )
    op.create_index(
        "skill_versions_by_creation",
        "skill_versions",
        ["workspace_id", "skill_id", "created_at"],
        unique=True,
        sqlite_where=_THERE,
        postgresql_where=_THERE,
    )
    op.create_index(
        "skill_versions_to_forget",
        "skill_versions",
        ["gone_since"],
        sqlite_where=_GONE,
        postgresql_where=_GONE,
    )
    op.create_table(
        "session_skills",
        sa.Column("session_id", _TEXT, nullable=False),
        sa.Column("skill_version_id", _TEXT, nullable=False),
        sa.Column("workspace_id", _TEXT, nullable=False),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.session_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("session_id", "skill_version_id"),
    )
    op.create_index("session_skills_by_version", "session_skills", ["skill_version_id"])
    op.add_column("session_details", sa.Column("skills", sa.LargeBinary(), nullable=True))
