"""What is proved rather than observed: pure numerics, no plugins."""
