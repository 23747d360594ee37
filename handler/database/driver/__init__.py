"""The PostgreSQL driver: pg8000 with one round trip per statement, and SQLAlchemy's dialect for it."""
