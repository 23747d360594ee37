"""The engine, its connections and the session of a request. It depends on no resource and can be reused as a whole."""
