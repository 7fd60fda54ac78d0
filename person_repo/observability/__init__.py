"""What happened, for the one who runs it."""
