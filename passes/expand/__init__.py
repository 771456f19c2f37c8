"""The expand passes, one a file."""
