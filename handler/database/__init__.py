"""The engine, its connections and the sessions of a request. Knows nothing of any resource: reuse it whole."""
