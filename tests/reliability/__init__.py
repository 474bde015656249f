"""Measured trials of what can go wrong: `make reliability` writes them up, `make test` runs a short form of each."""
