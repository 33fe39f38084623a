"""Plugins that do what plugins should not: for tests of the grid engine."""
