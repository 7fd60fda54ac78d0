"""``person-repo`` and ``python -m person_repo``: the command line, where the extra ``cli`` is installed."""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> None:
    """Runs one call of the command line and exits; with code 2 if a package of the extra ``cli`` is missing."""
    missing = [package for package in ("click", "rich") if find_spec(package) is None]
    if missing:
        command_line = "pip install 'person-repo[cli]'"
        print(f"person-repo: the command line needs {' and '.join(missing)}; run: {command_line}", file=sys.stderr)
        sys.exit(2)

    from person_repo.cli.main import main as program

    program()


if __name__ == "__main__":
    main()
