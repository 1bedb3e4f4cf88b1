"""The command line: words, JSON and exit codes of the interface."""
