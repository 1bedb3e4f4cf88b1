"""Ragstone: a RAG system that does not degrade in silence."""

__version__ = "0.1.0"
