"""The resource. Replace this package with your own; the rest of `handler/` stays."""
