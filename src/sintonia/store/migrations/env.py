"""Runs the migrations on the connection that ``Database.migrate`` hands over.

The connection is inside a transaction already: a crash leaves the schema as it was.
"""

from __future__ import annotations

from alembic import context

from sintonia.store.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,
)
context.run_migrations()
