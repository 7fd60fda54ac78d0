"""The lease contract, and who speaks it: one module for each kind of cache. Nothing here knows of tables."""
