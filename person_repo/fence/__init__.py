"""What the cache could not be told: kept in the database, known to every reader, delivered later."""
