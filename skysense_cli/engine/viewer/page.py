"""The page itself: one HTML file with everything inside, or the same page for a server that gives the tiles."""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps

from skysense_cli import __version__, console
from skysense_cli.engine.viewer.layers import find_rasters, open_layer
from skysense_cli.engine.viewer.overlay import embed
from skysense_cli.engine.viewer.tracks import Track, make_tracks
from skysense_cli.files import write_text

HERE = Path(__file__).parent
SCRIPTS = ("canvas.js", "tracks.js", "legend.js", "answer.js", "swipe.js", "time.js", "main.js")  # one after the other, one scope
MOST_PAGE_PX = 48_000_000  # of all embedded layers together
UNSAFE = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}  # what could end or change the element that holds the data
RAMP = "".join("{:02x}{:02x}{:02x}".format(*(round(part * 255) for part in color[:3])) for color in colormaps["viridis"](range(256)))


def write_page(places: Sequence[Path], path: Path, max_px: int) -> list[str]:
    """Write the page of the rasters in `places` to `path`; whole or absent. Returns lines for the user.

    max_px: bound of the longer side of a layer on the page
    Raises DataError and GridError that name a file which cannot be shown.
    """
    tracks = make_tracks([open_layer(raster) for raster in find_rasters(places)])
    count = sum(len(track.layers) for track in tracks)
    longest = min(max_px, math.isqrt(MOST_PAGE_PX // count))
    told, coordinates, home = [], dict[str, Any](), None
    progress = iter(console.progress([layer for track in tracks for layer in track.layers], "layers"))
    reduced = 0
    for track in tracks:
        layers = []
        for _ in track.layers:
            layer = next(progress)
            facts, lattice = embed(layer, track, longest, home)
            home = facts["bounds"][0][1] if home is None else home
            key = hashlib.sha256(json.dumps(lattice).encode()).hexdigest()[:12]
            coordinates[key] = lattice
            layers.append(facts | {"coordinates": key})
            reduced += any(note.startswith("Reduced") for note in facts["notes"])
        told.append(describe_track(track, layers))
    text = page_text(page_title(tracks), told, {"coordinates": coordinates}, served=False)
    write_text(path, text)
    lines = [f"page: {path} ({count} layers, {len(text.encode()) / 2**20:.1f} MiB)"]
    if reduced:
        lines.append(f"{reduced} of {count} layers are larger than {longest} px and shown reduced; --max-px or --serve shows more")
    return lines


def describe_track(track: Track, layers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A track as the page gets it."""
    return {
        "title": track.title, "kind": track.kind, "what": track.what, "limits": track.limits, "visible": track.visible,
        "opacity": track.opacity, "layers": list(layers),
    }  # fmt: skip


def page_title(tracks: Sequence[Track]) -> str:
    """Of the map that the page is about."""
    chosen = next((track for track in reversed(tracks) if track.visible), tracks[0])
    return chosen.title


def page_text(title: str, tracks: Sequence[dict[str, Any]], more: dict[str, Any], *, served: bool) -> str:
    """The HTML. A policy inside it keeps the browser from asking anyone else for anything, and from running any other script."""
    style = _read("leaflet/leaflet.css") + _read("page.css")
    leaflet = re.sub(r"\n//# sourceMappingURL=.*", "", _read("leaflet/leaflet.js"))
    script = '"use strict";\n(() => {\n' + "\n".join(_read(name) for name in SCRIPTS) + "\n})();"
    data = {"title": title, "version": __version__, "served": served, "tracks": list(tracks), "ramp": RAMP, **more}
    own = " 'self'" if served else ""
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data: blob:{own};"
        + (" connect-src 'self';" if served else "")
        + f" script-src {_digest(leaflet)} {_digest(script)}; style-src {_digest(style)}"
    )
    parts = {
        "title": html.escape(title.encode("utf-8", "replace").decode()), "policy": policy, "style": style, "leaflet": leaflet,
        "script": script, "data": json.dumps(data, allow_nan=False, separators=(",", ":")).translate(UNSAFE),
    }  # fmt: skip
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _read("page.html"))


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """How a policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
