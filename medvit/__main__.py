"""``python -m medvit`` is the `medvit` command."""

from medvit.cli.app import main

if __name__ == "__main__":
    main()
