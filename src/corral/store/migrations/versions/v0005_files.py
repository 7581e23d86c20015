"""Files, the blobs that they name, and the resources of a session."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

# Ids are ordered by code point on every engine and in every locale, as Python orders them.
_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("file_id", _TEXT, nullable=False),
        sa.Column("workspace_id", _TEXT, nullable=False),
        sa.Column("scope_id", _TEXT, nullable=True),
        sa.Column("origin", _TEXT, nullable=False),
        sa.Column("downloadable", sa.Boolean(), nullable=False),
        sa.Column("filename", _TEXT, nullable=False),
        sa.Column("mime_type", _TEXT, nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", _TEXT, nullable=False),
        sa.Column("blob_key", _TEXT, nullable=True),
        sa.Column("output_path", _TEXT, nullable=True),
        sa.Column("output_hash", _TEXT, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("file_id"),
    )
    op.create_index("files_by_creation", "files", ["workspace_id", "created_at", "file_id"], unique=False)
    for name, columns, is_unique, where in (
        ("files_by_scope", ["scope_id", "created_at", "file_id"], False, "scope_id IS NOT NULL"),
        ("files_by_output", ["scope_id", "output_hash"], True, "output_hash IS NOT NULL"),
        ("files_due", ["due_at"], False, "due_at IS NOT NULL"),
    ):
        op.create_index(
            name,
            "files",
            columns,
            unique=is_unique,
            sqlite_where=sa.text(where),
            postgresql_where=sa.text(where),
        )
    op.create_table(
        "file_blobs",
        sa.Column("blob_key", _TEXT, nullable=False),
        sa.Column("state", _TEXT, nullable=False),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.Column("give_up_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("blob_key"),
    )
    unneeded = sa.text("state != 'kept'")
    op.create_index(
        "file_blobs_unneeded",
        "file_blobs",
        ["state", "give_up_at", "blob_key"],
        unique=False,
        sqlite_where=unneeded,
        postgresql_where=unneeded,
    )
    op.create_table(
        "file_usage",
        sa.Column("workspace_id", _TEXT, nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id"),
    )
    op.add_column("session_details", sa.Column("resources", sa.LargeBinary(), nullable=True))
