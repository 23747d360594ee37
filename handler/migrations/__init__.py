"""Alembic's environment and the schema's history, shipped with the function that applies them."""
