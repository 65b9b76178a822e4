"""`python -m skysense_cli`: the same program as the `skysense` command (what torchrun starts)."""

from skysense_cli.cli.main import main

if __name__ == "__main__":
    main()
