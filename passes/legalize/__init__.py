"""Rewrites to operators that only some runtimes have; each asks the target's kernel table first."""
