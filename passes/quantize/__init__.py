"""int8 by explicit Q/DQ: calibrated ranges, a scheme derived from Capabilities, and the passes that place the nodes."""
