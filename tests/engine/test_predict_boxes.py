"""A detector whose answers are known goes through the command: every object once, in its place, however the scene is cut.

The detector is a head like any other: a file in `core/heads` of a copy of the package (`probe/head.py`).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely
from affine import Affine

import skysense_cli
from skysense_cli import sensors
from skysense_cli.geo.vector_files import read_tags

pytestmark = pytest.mark.slow

S2 = sensors.get("sentinel2_l2a")
SHAPE, LEFT, TOP, CRS = (150, 190), 574_680, 5_622_440, "EPSG:32631"
CLASSES = ("ship", "tank")
PROBE = Path(__file__).parent / "probe"
OVERLAP = 16  # px, of all cuts
CUTS = {
    "640": "{size_m: 640, overlap: 0.25, batch: 3}", "400": "{size_m: 400, overlap: 0.4, batch: 8}",
    "520": "{size_m: 520, overlap: 0.31, batch: 1}", "360": "{size_m: 360, overlap: 0.44, batch: 16}",
    "whole": "{size_m: 4000, overlap: 0.25}", "flips": "{size_m: 400, overlap: 0.4, batch: 8, flips: true}",
}  # fmt: skip
ENDS = ("gpkg", "parquet", "geojson")
TAKEN = {"counts": "a_counts.tif", "picture": "a.png"}
AREA_PX = (52.0, 33.0, 131.0, 108.0)  # left, top, right, bottom
AREA_CUTS = ("640", "400", "360")

DRIVER = """
import contextlib, io, json, sys
from dataclasses import replace
from pathlib import Path
from skysense_cli.cli.main import main

def write_bundle():
    from skysense_cli import sensors
    from skysense_cli.data.dataset import Input
    from skysense_cli.engine import bundle
    from skysense_cli.engine.assemble import build_model
    from skysense_cli.engine.spec import BundleSpec, ClassFact
    from skysense_cli.recipe.parts import bind
    from skysense_cli.recipe.schema.model import ModelSection
    sensor = sensors.get("sentinel2_l2a")
    inputs = {"s2": Input(sensor.name, sensor.band_names, 10.0, sensor.mean, sensor.std)}
    encoders = {"s2": bind("core/encoders", "probe", {"channels": 10})}
    section = ModelSection(cell_m=40.0, width=8, anchor="s2", encoders=encoders, fusion=bind("core/fusions", "mean"))
    spec = BundleSpec(
        stage="finetune", model=section, inputs=inputs, dates={"s2": 1}, size_m=(640.0, 640.0),
        classes=(ClassFact(name="ship", color=(200, 0, 0)), ClassFact(name="tank", color=(0, 0, 200))), head=bind("core/heads", "probe"),
    )
    tensors = {f"model.{name}": tensor for name, tensor in build_model(section, inputs).state_dict().items()}
    bundle.save(Path(sys.argv[2]), spec.to_plain(), tensors)

def in_pieces():
    '''Strips in three pieces each; two rows of tiles are there already.'''
    from skysense_cli.engine.assemble import load_bundle
    from skysense_cli.engine.parts import Parts
    from skysense_cli.engine.predict_map import open_prediction
    from skysense_cli.recipe.load import load_recipe
    from skysense_cli.recipe.resolved import digest
    recipe, output = load_recipe(Path(sys.argv[2]), "predict", ()), Path(sys.argv[3])
    prediction = open_prediction(recipe, load_bundle(recipe.bundle, "cpu"))
    job = prediction.product.job
    prediction = replace(prediction, product=replace(prediction.product, job=replace(job, plan=job.plan.in_blocks(3))))
    parts = Parts(output)
    parts.begin(prediction.state(digest(recipe)))
    prediction.compute(parts, range(2, 4))
    print(len(parts.finished()))
    prediction.write(output, digest(recipe))

def resumed_in_ranks():
    '''Two rows of tiles are there already, the others are computed by two processes.'''
    from skysense_cli.engine.assemble import load_bundle
    from skysense_cli.engine.parts import Parts
    from skysense_cli.engine.predict_map import open_prediction
    from skysense_cli.recipe.load import load_recipe
    from skysense_cli.recipe.resolved import digest
    recipe, output = load_recipe(Path(sys.argv[2]), "predict", ()), Path(sys.argv[3])
    prediction, parts = open_prediction(recipe, load_bundle(recipe.bundle, "cpu")), Parts(output)
    parts.begin(prediction.state(digest(recipe)))
    prediction.compute(parts, range(2, 4))
    prediction.write(output, digest(recipe), ranks=2)

OWN = {"write_bundle": write_bundle, "in_pieces": in_pieces, "resumed_in_ranks": resumed_in_ranks}
for args in json.loads(sys.argv[1]):
    sys.argv[1:], out, err, code = args, io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            OWN.get(args[0], main)()
        except SystemExit as end:
            code = end.code or 0
    print(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue()}))
"""


def run_python(library, code, *args):
    environment = {**os.environ, "PYTHONPATH": str(library), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, env=environment, cwd=library, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def paint(path, boxes, kinds, scores):
    """A scene with boxes (N, 5) in pixels; returns them as polygons on the map."""
    pixels = np.full((10, *SHAPE), 1500, np.uint16)
    polygons = []
    for number, (box, kind, score) in enumerate(zip(boxes, kinds, scores)):
        cx, cy, w, h, angle = box
        flat = shapely.box(cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        shape = shapely.affinity.rotate(flat, -angle, origin=(cx, cy), use_radians=True)
        mask = rasterio.features.rasterize([shape], SHAPE).astype(bool)
        rows, columns = np.nonzero(mask)
        assert (pixels[0][mask] == 1500).all()
        offset = cx - columns.mean() - 0.5, cy - rows.mean() - 0.5
        values = [
            number,
            mask.sum(),
            w * 64,
            h * 64,
            (angle + 4) * 4000,
            (offset[0] + 10) * 1000,
            (offset[1] + 10) * 1000,
            kind,
            score * 10_000,
            200 * (rows - rows.min()) + columns - columns.min(),
        ]
        for band, value in enumerate(values):
            pixels[band, mask] = 2000 + np.round(value)
        polygons.append(shapely.affinity.affine_transform(shape, [10, 0, 0, -10, LEFT, TOP]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", driver="GTiff", height=SHAPE[0], width=SHAPE[1], count=10, dtype="uint16", crs=CRS,
                       transform=Affine(10, 0, LEFT, 0, -10, TOP), nodata=0) as out:  # fmt: skip
        out.write(pixels)
        out.descriptions = S2.band_names
    return np.array(polygons, dtype=object)


def scattered(count, seed):
    """Boxes that fit into the overlap, apart from each other; some on the very edge of the scene."""
    random, kept, shapes = np.random.default_rng(seed), [], []
    while len(kept) < count:
        w, h = random.integers(3 * 64, 11 * 64, 2) / 64
        angle = random.integers(-12_000, 12_000) / 4000
        x, y = random.uniform(8, SHAPE[1] - 8), random.uniform(8, SHAPE[0] - 8)
        flat = shapely.affinity.rotate(shapely.box(x - w / 2, y - h / 2, x + w / 2, y + h / 2), -angle, use_radians=True)
        left, bottom, right, top = flat.bounds
        if max(right - left, top - bottom) > OVERLAP or any(shape.distance(flat) < 2 for shape in shapes):
            continue
        kept.append((x, y, w, h, angle))
        shapes.append(flat)
    return np.array(kept)


def write_recipe(home, name, tiles, output, more="", scene="scene"):
    path = home / f"{name}.yaml"
    path.write_text(f"""
recipe: predict
version: 1
bundle: {home}/bundle
scene: {{s2: ['{home}/{scene}/20210401.tif']}}
output: {home}/{output}
tiles: {tiles}
{more}
""")
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A package with the probe, its bundle, a painted scene; and what the command makes of it, cut in several ways."""
    home = tmp_path_factory.mktemp("boxes")
    library = home / "library"
    shutil.copytree(Path(skysense_cli.__file__).parent, library / "skysense_cli")
    for kind in ("head", "encoder"):
        shutil.copy(PROBE / f"{kind}.py", library / f"skysense_cli/core/{kind}s/probe.py")
    random = np.random.default_rng(3)
    boxes = scattered(45, 0)
    kinds, scores = random.integers(0, 2, 45), random.integers(3000, 10_000, 45) / 10_000
    polygons = paint(home / "scene/20210401.tif", boxes, kinds, scores)
    paint(home / "large/20210401.tif", [(60, 60, 30, 8, 0.5), (150, 100, 8, 8, 0), (30, 120, 8, 26, 0.1)], [0, 1, 0], [0.9, 0.8, 0.7])
    commands = [["write_bundle", home / "bundle"]]
    commands += [["predict", write_recipe(home, f"cut_{name}", tiles, f"cut_{name}/found.gpkg")] for name, tiles in CUTS.items()]
    corners = [LEFT + 10 * AREA_PX[0], TOP - 10 * AREA_PX[3], LEFT + 10 * AREA_PX[2], TOP - 10 * AREA_PX[1]]
    (home / "area.geojson").write_text(geopandas.GeoSeries([shapely.box(*corners)], crs=CRS).to_crs(4326).to_json())
    more = f"area: {home}/area.geojson\nwrite: {{boxes: {{counts_m: 200}}}}"
    commands += [["predict", write_recipe(home, f"area_{name}", CUTS[name], f"area_{name}/found.gpkg", more)] for name in AREA_CUTS]
    more = "write: {boxes: {min_score: 0.5, counts_m: 400}}"
    for end in ENDS:
        commands.append(["predict", write_recipe(home, f"one_{end}", CUTS["400"], f"one/{end}.{end}", more)])
    commands += [
        ["predict", home / "one_gpkg.yaml"],
        *(["predict", write_recipe(home, f"two_{end}", CUTS["400"], f"two/{end}.{end}", more), "--ranks", "2"] for end in ENDS),
        ["predict", write_recipe(home, "large", CUTS["640"], "large.gpkg", scene="large")],
        ["predict", write_recipe(home, "bad_name", CUTS["640"], "made.tif")],
        ["predict", write_recipe(home, "bad_polygons", CUTS["640"], "made.gpkg", "write: {polygons: {}}")],
        *(["predict", write_recipe(home, f"taken_{end}", CUTS["640"], f"taken_{end}/a.gpkg", more)] for end in TAKEN),
        ["predict", write_recipe(home, "bad_what", CUTS["640"], "made.gpkg", "write: {what: [class, features]}")],
        ["predict", write_recipe(home, "dry", CUTS["640"], "dry.gpkg"), "--dry-run"],
        ["predict", home / "bundle", home / "scene/20210401.tif", "--out", home / "bare"],
        [
            "predict",
            home / "bundle",
            home / "scene/20210401.tif",
            home / "large/20210401.tif",
            "--out",
            home / "mix.tif",
            "--mosaic",
            "feather",
        ],
        *(["in_pieces", home / f"one_{end}.yaml", home / f"three/{end}.{end}"] for end in ENDS),
        ["resumed_in_ranks", home / "one_parquet.yaml", home / "four/parquet.parquet"],
    ]
    for end, name in TAKEN.items():
        (home / f"taken_{end}").mkdir()
        (home / f"taken_{end}" / name).write_text("theirs")
    commands = [[str(part) for part in command] for command in commands]
    said = [json.loads(line) for line in run_python(library, DRIVER, json.dumps(commands)).splitlines()]
    names = [Path(command[1]).stem for command in commands]
    names[len(CUTS) + len(AREA_CUTS) + 4] = "one_gpkg_again"
    names[-6:] = ["bare", "bare_mosaic", *(f"three_{end}" for end in ENDS), "four_parquet"]
    runs = dict(zip(names, said, strict=True))
    return home, polygons, kinds, scores, runs


def read(path):
    return geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path)


def assert_same_bytes(folder, other, end):
    """What one process wrote at once is what another run wrote: objects, counts and what lies beside them."""
    for name in (f"{end}.{end}", f"{end}_counts.tif", f"{end}.png", f"{end}.stac.json"):
        assert (folder / "one" / name).read_bytes() == (folder / other / name).read_bytes(), name


def match(frame, polygons):
    """For each row the painted polygon it is: every one once, and in its place to two centimetres."""
    assert len(frame) == len(polygons)
    tree = shapely.STRtree(polygons)
    which = tree.nearest(frame.geometry.centroid.values)
    assert sorted(which) == list(range(len(polygons)))
    assert shapely.hausdorff_distance(frame.geometry.values, polygons[which]).max() < 0.02
    return which


@pytest.mark.parametrize("name", CUTS)
def test_every_painted_object_comes_once_and_in_its_place(home, name):
    folder, polygons, kinds, scores, runs = home
    run = runs[f"cut_{name}"]
    assert run["code"] == 0 and "warning: an object" not in run["err"], run
    frame = read(folder / f"cut_{name}/found.gpkg")
    which = match(frame, polygons)
    assert frame.crs == CRS
    np.testing.assert_array_equal(frame["class_id"], kinds[which])
    assert frame["class"].tolist() == [CLASSES[kind] for kind in kinds[which]]
    np.testing.assert_allclose(frame["score"], scores[which], atol=1e-6)
    names = {"found.gpkg", "found.png", "found.stac.json", "found.recipe.yaml", "found.environment.json"}
    assert {path.name for path in (folder / f"cut_{name}").iterdir()} == names


@pytest.mark.parametrize("name", AREA_CUTS)
def test_of_an_area_come_the_objects_whose_centre_lies_in_it(home, name):
    folder, polygons, *_, runs = home
    assert runs[f"area_{name}"]["code"] == 0, runs[f"area_{name}"]
    left, top, right, bottom = AREA_PX
    x, y = (shapely.get_x(shapely.centroid(polygons)) - LEFT) / 10, (TOP - shapely.get_y(shapely.centroid(polygons))) / 10
    assert min(np.abs(x - left).min(), np.abs(x - right).min(), np.abs(y - top).min(), np.abs(y - bottom).min()) > 0.1
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    assert 5 < inside.sum() < len(polygons) / 2
    frame = read(folder / f"area_{name}/found.gpkg")
    match(frame, polygons[inside])
    with rasterio.open(folder / f"area_{name}/found_counts.tif") as file:
        counts, (across, down) = file.read(masked=True), ~file.transform * (LEFT + 10 * x[inside], TOP - 10 * y[inside])
    assert counts.shape == (2, 4, 4) and not counts.mask.any()
    expected = np.histogram2d(down, across, [np.arange(5)] * 2)[0]
    np.testing.assert_array_equal(counts.sum(axis=0), expected)


def test_a_bundle_and_a_scene_are_enough(home):
    folder, polygons, *_, runs = home
    assert runs["bare"]["code"] == 0, runs["bare"]
    match(read(folder / "bare/20210401.gpkg"), polygons)
    assert runs["bare_mosaic"]["code"] == 2 and "--mosaic puts maps together" in runs["bare_mosaic"]["err"]


@pytest.mark.parametrize("end", ENDS)
def test_two_ranks_write_the_bytes_of_one_process(home, end):
    folder, *_, runs = home
    assert runs[f"one_{end}"]["code"] == runs[f"two_{end}"]["code"] == 0, runs[f"two_{end}"]
    assert_same_bytes(folder, "two", end)


@pytest.mark.parametrize("end", ENDS)
def test_pieces_of_strips_and_a_run_that_goes_on_change_no_byte(home, end):
    folder, *_, runs = home
    assert runs[f"three_{end}"] == {"code": 0, "out": "6\n", "err": runs[f"three_{end}"]["err"]}
    assert_same_bytes(folder, "three", end)


def test_a_run_that_goes_on_in_ranks_changes_no_byte(home):
    folder, *_, runs = home
    assert runs["four_parquet"]["code"] == 0, runs["four_parquet"]
    assert_same_bytes(folder, "four", "parquet")


@pytest.mark.parametrize("end", ENDS)
def test_files_say_from_what_they_are_made(home, end):
    tags = read_tags(home[0] / f"one/{end}.{end}")
    assert tags["SKYSENSE_SCENES_S2"] == "20210401" and tags["SKYSENSE_WHAT"] == "objects" and len(tags["SKYSENSE_BUNDLE_SHA256"]) == 64


def test_low_scores_are_left_out_and_the_rest_is_counted_per_cell(home):
    folder, polygons, kinds, scores, _ = home
    high = scores >= 0.5
    frame = read(folder / "one/gpkg.gpkg")
    match(frame, polygons[high])
    with rasterio.open(folder / "one/gpkg_counts.tif") as file:
        counts = file.read(masked=True)
        assert file.transform == Affine(400, 0, LEFT, 0, -400, TOP) and file.descriptions == CLASSES
    assert counts.shape == (2, 4, 5) and not counts.mask.any()
    x, y = shapely.get_x(shapely.centroid(polygons)), shapely.get_y(shapely.centroid(polygons))
    for kind in range(2):
        mine = high & (kinds == kind)
        expected = np.histogram2d(TOP - y[mine], x[mine] - LEFT, [np.arange(5) * 400, np.arange(6) * 400])[0]
        np.testing.assert_array_equal(counts[kind], expected)


def test_all_formats_hold_the_same_objects(home):
    folder = home[0]
    one, two, three = (read(folder / f"one/{end}.{end}") for end in ("gpkg", "parquet", "geojson"))
    assert one.drop(columns="geometry").equals(two.drop(columns="geometry")) and one.geometry.geom_equals(two.geometry).all()
    assert one["score"].tolist() == three["score"].tolist()
    assert shapely.hausdorff_distance(one.geometry.values, three.to_crs(CRS).geometry.values).max() < 0.05


def test_the_item_beside_names_the_files(home):
    folder = home[0]
    item = json.loads((folder / "one/parquet.stac.json").read_text())
    assets = item["assets"]
    assert set(assets) == {"objects", "counts", "preview"} and assets["preview"]["href"] == "./parquet.png"
    assert assets["objects"]["href"] == "./parquet.parquet"
    assert assets["objects"]["type"] == "application/vnd.apache.parquet" and assets["objects"]["file:size"] > 1000


def test_a_finished_run_is_not_done_again(home):
    run = home[-1]["one_gpkg_again"]
    assert run["code"] == 0 and "one/gpkg.gpkg: already complete" in run["out"]


def test_an_object_larger_than_the_overlap_is_warned_about_once(home):
    run = home[-1]["large"]
    assert run["code"] == 0 and run["err"].count("warning: an object") == 1
    assert "px wide and tiles overlap by 16 px: what is larger than the overlap may be cut or found twice" in run["err"]


def test_what_does_not_go_with_boxes_is_refused(home):
    folder, *_, runs = home
    for name, message in {
        "bad_name": "made.tif: this bundle finds objects; give a name that ends in .gpkg, .parquet, .geojson",
        "bad_what": "write.what is class, features, but this bundle finds objects; leave it out",
        "bad_polygons": "write.polygons is for class maps, this bundle finds objects",
    }.items():
        assert runs[name]["code"] == 2 and message in runs[name]["err"], runs[name]
    assert not list(folder.glob("made*"))


@pytest.mark.parametrize("end", TAKEN)
def test_a_file_of_another_beside_the_objects_is_refused(home, end):
    run, name = home[-1][f"taken_{end}"], TAKEN[end]
    assert run["code"] == 2 and f"{name} exists and is not skysense's; move it, or choose another --out" in run["err"]
    assert [path.name for path in (home[0] / f"taken_{end}").iterdir()] == [name]


def test_the_plan_says_how_large_objects_may_be(home):
    assert "objects found whole  up to 16 px (160 in map units), the overlap of tiles" in home[-1]["dry"]["out"]
    assert not (home[0] / "dry.gpkg").exists()
