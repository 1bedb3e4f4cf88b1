"""One pure parser a format: text in, title and blocks out."""
