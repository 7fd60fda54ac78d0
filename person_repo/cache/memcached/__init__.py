"""The lease contract in memcached, on several servers by fixed placement."""
