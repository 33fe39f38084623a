"""Reports of a run: tables, figures, HTML; functions of records, no torch."""
