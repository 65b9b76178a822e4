"""`skysense weights`: what released files and bundles hold, conversion between them, export."""

import typer

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True, help="Inspect, convert and export weights.")
