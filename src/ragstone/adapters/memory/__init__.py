"""Catalog and engine in memory, with the meaning that PostgreSQL gives them: for tests and benchmarks."""
