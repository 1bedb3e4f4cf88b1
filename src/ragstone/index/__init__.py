"""Chunks to a searchable corpus version: rows, postings, Merkle tree, manifest, publish."""
