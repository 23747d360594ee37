"""The migrations of the database schema, and what applies them. They ship with the function."""

from pathlib import Path

SCRIPTS = Path(__file__).parent  # Alembic's script location
