"""Reads that are answered by the cache where it may answer."""
