"""The catalog and the engine in memory, with the meaning that PostgreSQL gives them: for tests and benchmarks."""
