"""Weights as 4- or 8-bit codes in blocks, while activations stay in float: the grid, the methods, the pass."""
