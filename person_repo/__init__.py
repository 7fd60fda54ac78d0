"""A repository layer for SQLAlchemy whose cached reads are never stale once a commit was acknowledged."""
