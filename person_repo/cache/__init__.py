"""The lease contract, and each kind of cache that speaks it. Nothing here knows of tables.

A new backend goes beside ``memory`` as a module, or beside ``memcached`` as a folder of the same shape. It must
subclass ``contract.LeaseBackend`` and pass ``testing.LeaseContract`` in ``tests/cache/test_contract.py``. Give it a
scheme in ``urls.KNOWN_SCHEMES``, a line in ``region._BACKENDS`` and an entry point in pyproject.toml. A backend in
another package needs only ``person_repo.backends``.
"""
