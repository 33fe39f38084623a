"""Submissions: bundles of records and witnesses, and what can be verified of them."""
