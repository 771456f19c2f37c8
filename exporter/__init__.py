"""Trace, optimize, quantize, lower and verify trained models: the package that users import."""
