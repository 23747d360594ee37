"""Build the artifact, fetch the CA bundle, smoke test a deployed service, run `sam local`. Never deployed."""
