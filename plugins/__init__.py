"""Plugins shipped with cibench, loaded only through their entry points."""
