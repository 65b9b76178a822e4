"""`skysense weights`: what released files and bundles hold, conversion between them, export."""

import typer

from skysense_cli.cli import weights_export, weights_inspect, weights_table

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True, help="Inspect, convert and export weights.")
app.command("export")(weights_export.export)
app.command("inspect")(weights_inspect.inspect)
app.command("convert")(weights_inspect.convert)
app.command("table")(weights_table.table)
