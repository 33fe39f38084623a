"""Attacks: one method per file."""
