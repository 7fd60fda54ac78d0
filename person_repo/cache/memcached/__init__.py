"""The lease contract in memcached, on several servers by fixed placement.

``items`` (states), ``wire`` (requests and replies as bytes) and ``placement`` are pure: another kind of channel can use
them. ``operations`` has the meaning of replies, ``connection`` exchanges bytes with one server, ``pool`` holds the
connections of all threads and a circuit breaker for each server, and ``backend`` is the contract. Another network cache
would have the same shape.
"""
