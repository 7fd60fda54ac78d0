"""The command line: a shell over the library's functions."""
