"""The migrations of the database schema, and the code that runs them. They are deployed with the function."""

from pathlib import Path

SCRIPTS = Path(__file__).parent  # Alembic's script location
