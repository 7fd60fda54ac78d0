"""Counters, for the people who operate a service."""
