"""Sources on this machine: a folder, a single file, a JSONL file."""
