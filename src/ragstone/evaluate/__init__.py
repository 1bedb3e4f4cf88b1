"""Records and judgements to verdicts: retrieval metrics, runs, error rates."""
