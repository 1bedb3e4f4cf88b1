"""Source object to versioned, validated chunks."""
