"""PostgreSQL with pgvector: the catalog and the first search engine."""
