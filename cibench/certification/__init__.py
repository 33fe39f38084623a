"""What is certified of fitted defenses, and how that depends on their options."""
