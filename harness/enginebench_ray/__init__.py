"""Measures the cells of a plan on the machines of a Ray cluster."""
