"""``python -m person_repo``: the command line."""

from person_repo.cli import main

if __name__ == "__main__":
    main()
