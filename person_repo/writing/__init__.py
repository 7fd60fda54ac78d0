"""Writes on a covered engine: what a statement changed, and the two steps around its commit."""
