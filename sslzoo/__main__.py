"""`python -m sslzoo` is the command line."""

import sys


def main() -> None:
    """The command line; Ctrl-C while it is still being imported ends it quietly, too."""
    try:
        from sslzoo import cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
