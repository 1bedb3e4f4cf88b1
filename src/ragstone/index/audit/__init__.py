"""Everything that a version holds, compared with what it was made of: manifests, sources, documents, postings."""
