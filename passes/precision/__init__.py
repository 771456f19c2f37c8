"""The precision passes, one a file."""
