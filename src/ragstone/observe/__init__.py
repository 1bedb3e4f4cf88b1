"""Records to evidence, ledger lines, and pages for people."""
