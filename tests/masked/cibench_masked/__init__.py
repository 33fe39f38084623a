"""Defenses that look robust because they blind an attack: for tests of the flags."""
