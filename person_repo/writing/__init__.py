"""Writes on a covered engine: ``coverage`` has the steps."""
