"""Lambda events in, Lambda responses out: what holds for every request, whichever event source sent it."""
