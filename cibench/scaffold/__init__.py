"""Templates of third-party packages, and how they are filled in."""
