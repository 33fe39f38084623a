"""Data shipped with the package; see ATTRIBUTION.md."""
