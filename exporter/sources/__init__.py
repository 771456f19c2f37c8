"""Where a model comes from: one source a file."""
