"""The openvino target."""
