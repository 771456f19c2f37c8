"""The tensorrt target."""
