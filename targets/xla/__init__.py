"""The xla target."""
