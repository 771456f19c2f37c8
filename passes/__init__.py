"""The floor of graphwright: the graph, the pass contract and the rewrites. Imports neither `targets` nor `exporter`."""
