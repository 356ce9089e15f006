"""`python -m reland_features` is the `reland` command."""

from reland_features.cli import main

main()
