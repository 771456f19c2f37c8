"""Frozen results to terminal, JSON, HTML and JUnit; the only place that formats."""
