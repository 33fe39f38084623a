"""The leaderboard as one HTML file that needs neither a network nor a server."""

from __future__ import annotations

from .page import site_html

__all__ = ["site_html"]
