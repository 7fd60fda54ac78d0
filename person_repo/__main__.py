"""``python -m person_repo``: the command line."""

from person_repo.cli.main import main

if __name__ == "__main__":
    main()
