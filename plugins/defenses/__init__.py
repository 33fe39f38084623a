"""Defenses: one method per file."""
