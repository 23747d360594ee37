"""Programs for a deployment: build the artifact, fetch the CA bundle, test a deployed service, run `sam local`.

This package is not deployed itself.
"""
