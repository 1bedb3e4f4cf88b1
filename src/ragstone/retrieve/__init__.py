"""Question to passages with reasons: legs, fusion, selection."""
