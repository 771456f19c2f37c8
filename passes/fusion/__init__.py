"""The fusion passes, one a file."""
