"""SQLAlchemy's own tests, run with every engine and class covered."""
