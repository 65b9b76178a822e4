"""`skysense view`: maps and scenes on one web page that needs no network, or served on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from skysense_cli import console
from skysense_cli.cli.options import DebugOption
from skysense_cli.errors import RecipeError

PlacesArgument = Annotated[list[Path], typer.Argument(metavar="DIR|FILE...", help="Rasters, and folders of them.")]
PageOption = Annotated[Path | None, typer.Option("--out", metavar="PAGE", help="The HTML page to write.")]
SizeOption = Annotated[int, typer.Option("--max-px", min=64, max=8192, help="Longer side of a layer on the page; larger ones are reduced.")]
ServeOption = Annotated[bool, typer.Option("--serve", help="Serve the page on 127.0.0.1, with tiles read on demand.")]
PortOption = Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Port to serve on; a free one by default.")]


def view(
    places: PlacesArgument,
    out: PageOption = None,
    max_px: SizeOption = 2048,
    serve: ServeOption = False,
    port: PortOption = None,
    debug: DebugOption = False,
) -> None:
    """Show maps and scenes on a web page: layers, legend with areas, values at a click, dates on a slider."""
    if serve == (out is not None):
        raise RecipeError("view: give either --out PAGE, for a page that holds everything, or --serve")
    if port is not None and not serve:
        raise RecipeError("view: --port goes with --serve")
    if out is not None:
        from skysense_cli.engine.viewer.page import write_page

        for line in write_page(places, out, max_px):
            console.say(line)
        return
    from skysense_cli.engine.viewer.serving import open_server

    with open_server(places, port or 0) as server:
        console.say(f"serving {server.count} layers on {server.address} (Ctrl+C ends it)")
        server.serve_forever()
