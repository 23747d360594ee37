"""Probes and their readings: the resource of the tests, independent of the resources that the service ships.

It differs from the example resource on purpose: a UUID as key, a unique column, an enum, a decimal, a timestamp that
clients set, and a relationship to rows that have no version. It is written as the documentation of FastAPI and
SQLAlchemy writes a resource, so it also shows that the conventions of `handler/api/` suit another resource.
"""
