"""One folder a vendor; each SDK is imported in its own folder alone."""
