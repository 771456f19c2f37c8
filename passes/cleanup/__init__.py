"""The cleanup passes, one a file."""
