"""`python -m espalier`: what the Makefile calls."""

from espalier.host.cli import main

if __name__ == "__main__":
    main()
