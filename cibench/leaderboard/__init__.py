"""The leaderboard: reviewed records to boards, pages and figures; no torch."""
