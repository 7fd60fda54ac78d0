"""Rows, sessions and engines: the repository that reads and writes the database."""
