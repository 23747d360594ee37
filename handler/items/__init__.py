"""Items: a name, and a description that may be absent."""
