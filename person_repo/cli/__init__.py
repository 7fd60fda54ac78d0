"""The command line: a shell over the library's functions.

``main`` is the program and turns errors into messages and exit codes. ``call`` has the options of a call and opens the
database they name; ``output`` prints. The commands: ``schema`` (upgrade, current, check), ``people`` (add, get, list,
find, update, delete), ``csv`` (import, export), ``demo`` and ``torture``.

Modules with commands import SQLAlchemy and rich inside the functions that need them, so that ``--help`` is quick.
"""
