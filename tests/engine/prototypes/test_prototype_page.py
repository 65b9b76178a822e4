"""The page of a prototype map: self-contained, bounded, safe with any text, and alive in a real browser."""

import base64
import html
import json
import re
import shutil
import subprocess
import zlib

import numpy as np
import pytest
import rasterio

from skysense_cli.engine import prototype_page
from skysense_cli.engine.prototype_page import embedded

EVIL = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)>"
ASK = """<script>
const timer = setInterval(() => {
  if (!document.body.dataset.ready) return;
  clearInterval(timer);
  const say = (name, value) => document.body.setAttribute("data-" + name, value);
  const pixels = () => new Uint32Array(document.querySelector(".map canvas").getContext("2d").getImageData(0, 0, 35, 25).data.buffer);
  const all = pixels().slice(), cards = [...document.querySelectorAll(".card")];
  say("cards", cards.length);
  say("colours", new Set(all).size);
  cards[0].click();
  say("pressed", cards[0].getAttribute("aria-pressed"));
  say("kept", pixels().reduce((count, one, at) => count + (one === all[at]), 0));
  say("rings", document.querySelectorAll(".ring").length);
  document.getElementById("clear").click();
  say("back", pixels().every((one, at) => one === all[at]));
  const map = document.querySelector(".map").getBoundingClientRect();
  const at = {clientX: map.left + map.width * 3.5 / 35, clientY: map.top + map.height * 2.5 / 25, bubbles: true};
  document.querySelector(".map").dispatchEvent(new MouseEvent("mousemove", at));
  say("tip", document.getElementById("tip").textContent);
  document.getElementById("order").value = "similarity";
  document.getElementById("order").dispatchEvent(new Event("change"));
  say("first", document.querySelector(".card").dataset.prototype);
  say("classes", [...document.querySelectorAll(".class")].map(one => one.textContent).join("|"));
}, 20);
</script></body>"""


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """The output folder of a scene of 25 x 35 cells, compared with classes of which one has a wicked name."""
    home = tmp_path_factory.mktemp("page")
    world.write_bundle(home / "bundle", [world.here()])
    scene = world.write_scene(home / "a.tif", 50, 70)
    codes = np.repeat([1, 2], 35)[None].repeat(50, 0).astype(np.uint8)
    with rasterio.open(scene) as file:
        profile = {**file.profile, "count": 1, "dtype": "uint8"}
    with rasterio.open(home / "truth.tif", "w", **profile) as file:
        file.write(codes, 1)
    name = EVIL.replace('"', '""')
    (home / "classes.csv").write_text(f'code,name\n1,"{name}"\n2,water\n')
    more = f"compare: {{raster: {home}/truth.tif, classes: {home}/classes.csv, tiles_m: 80}}"
    return world.map_prototypes(home, scene, more=more)


def data_of(folder):
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', (folder / "legend.html").read_text(), re.DOTALL)[1]
    return json.loads(text)


def test_the_page_asks_for_nothing_outside_of_it(made):
    page = (made / "legend.html").read_text()
    assert not re.search(r"https?:|//[a-z]+\.|@import|<link|fetch\(|XMLHttpRequest", re.sub(r'"image":"[^"]*"|"codes64":"[^"]*"', "", page))
    assert "default-src 'none'" in page and page.count("<script") == 2


def test_texts_from_files_cannot_end_the_data(made):
    assert EVIL not in (made / "legend.html").read_text()
    names = {one.get("class") for one in data_of(made)["entries"]}
    assert EVIL in names
    assert json.loads(embedded({"a": "</script>&<!--\u2028"})) == {"a": "</script>&<!--\u2028"}
    assert not set("<>&") & set(embedded({"a": "</script>&<!--"}))


def test_the_map_of_the_page_is_that_of_the_raster(made):
    data = data_of(made)
    (sheet,) = data["sheets"]
    numbers = np.frombuffer(zlib.decompress(base64.b64decode(sheet["codes64"])), "<u2").reshape(sheet["height"], sheet["width"])
    with rasterio.open(made / "prototypes.tif") as file:
        index, affine = file.read(1), file.transform
    prototypes = np.array([-1] + [one["prototype"] for one in data["entries"]])
    np.testing.assert_array_equal(prototypes[numbers], index)
    assert (sheet["x"], sheet["y"], sheet["dx"], sheet["dy"]) == (affine.c, affine.f, affine.a, affine.e)
    for one in data["entries"]:
        assert one["cells"] == (index == one["prototype"]).sum()


def test_patches_lie_where_the_prototype_is_and_are_pictures(made):
    with rasterio.open(made / "prototypes.tif") as file:
        index = file.read(1)
    for one in data_of(made)["entries"]:
        assert 1 <= len(one["patches"]) <= 6
        for patch in one["patches"]:
            assert index[patch["row"], patch["column"]] == one["prototype"]
            assert base64.b64decode(patch["image"].split(",")[1])[:3] == b"\xff\xd8\xff"
            assert all(0 < part < 1 for part in patch["at"])


def test_the_page_is_bounded(world, tmp_path, monkeypatch):
    monkeypatch.setattr(prototype_page, "MOST_SHOWN", 1)
    world.write_bundle(tmp_path / "bundle", [world.here()])
    folder = world.map_prototypes(tmp_path, world.write_scene(tmp_path / "a.tif", 50, 70))
    data = data_of(folder)
    assert sum(bool(one["patches"]) for one in data["entries"]) == 1 < len(data["entries"])
    assert f"of the 1 prototypes with most cells; legend.csv lists all {len(data['entries'])}" in data["rest"]


def test_the_page_answers_in_a_browser(made, tmp_path):
    browser = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    page = tmp_path / "asked.html"
    page.write_text((made / "legend.html").read_text().replace("</body>", ASK))
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1400,1000",
        "--virtual-time-budget=10000",
        "--timeout=60000",
    ]
    done = subprocess.run(
        [browser, *options, f"--user-data-dir={tmp_path}/profile", "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=240
    )
    body = re.search(r"<body([^>]*)>", done.stdout)[1]
    found = {name: html.unescape(value) for name, value in re.findall(r'data-(\w+)="([^"]*)"', body)}
    with rasterio.open(made / "prototypes.tif") as file:
        index, affine = file.read(1), file.transform
    legend = json.loads((made / "legend.json").read_text())["prototypes"]
    by_area = sorted(legend, key=lambda one: -one["cells"])
    assert int(found["cards"]) == int(found["colours"]) == len(legend)
    assert found["pressed"] == "true" and int(found["kept"]) == by_area[0]["cells"] and int(found["rings"]) == len(by_area[0]["typical"])
    assert found["back"] == "true"
    x, y = affine * (3.5, 2.5)
    assert f"Prototype {index[2, 3]}" in found["tip"] and f"{x:,.0f}, {y:,.0f} (EPSG:32631)" in found["tip"]
    assert int(found["first"]) == max(legend, key=lambda one: one["mean_similarity"])["prototype"]
    assert EVIL in found["classes"] and "<title>What the encoder tells apart</title>" in done.stdout
