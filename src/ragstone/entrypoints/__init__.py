"""Where requests come in: command line, API, console."""
