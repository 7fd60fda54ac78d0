"""The lease contract, and each kind of cache that speaks it. Nothing here knows of tables.

A new backend goes beside ``memory`` as a module, or beside ``memcached`` as a folder of the same shape. It subclasses
``contract.LeaseBackend``; it has a scheme in ``urls.KNOWN_SCHEMES``, a line in ``region._BACKENDS`` and an entry point
in pyproject.toml; and it passes ``testing.LeaseContract`` in ``tests/cache/test_contract.py``. A backend of another
package needs ``person_repo.backends`` alone.
"""
