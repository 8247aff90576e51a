"""`python -m espalier`: what the Makefile calls."""

from espalier.cli import main

if __name__ == "__main__":
    main()
