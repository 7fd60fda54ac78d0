"""A mapped class: its columns and keys, and its entities as bytes in a cache. Pure: nothing here does I/O."""
