"""Never deployed: an embedded PostgreSQL and a local API Gateway, for `make run` and the tests."""
