"""`python -m vlcore.cli` is `vlcore`."""

from vlcore.cli import main

main()
