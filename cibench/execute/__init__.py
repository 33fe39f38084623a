"""How cells are run: artifacts, cache keys, the order of work."""
