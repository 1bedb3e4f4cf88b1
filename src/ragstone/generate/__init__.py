"""Passages to a cited answer, or an honest abstention."""
