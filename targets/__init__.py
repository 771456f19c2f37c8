"""The runtimes that graphwright lowers to, one folder each. Imports `passes`, never `exporter`."""
