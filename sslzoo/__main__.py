"""`python -m sslzoo` is the command line."""

from sslzoo.cli import main

if __name__ == "__main__":
    main()
