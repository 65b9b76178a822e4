"""Exported files compute what the model computes, say what they take, and are whole or absent."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from skysense_cli import sensors
from skysense_cli.data.dataset import Input
from skysense_cli.engine.assemble import LoadedBundle, build_model
from skysense_cli.engine.export import check_format, read_contract, sized, write
from skysense_cli.engine.graphs import DenseTemporal, Graph, Normalise, encoder_graph, model_graph
from skysense_cli.engine.spec import BundleSpec
from skysense_cli.errors import BundleError, RecipeError

BOTH = ("torch-export", "onnx")
SUFFIX = {"torch-export": ".pt2", "onnx": ".onnx"}
MODEL = {
    "cell_m": 20.0,
    "width": 16,
    "anchor": "s2",
    "encoders": {
        "s2": {"kind": "vit", "channels": 10, "dim": 16, "depth": 2, "heads": 2, "patch": 4, "size": 16},
        "s1": {"kind": "vit", "channels": 2, "dim": 8, "depth": 1, "heads": 2, "patch": 2, "size": 4},
        "hr": {
            "kind": "swin_v2", "channels": 3, "dim": 16, "depths": [2, 1], "heads": [2, 4], "window": 4, "patch": 4, "extra_norm_every": 2,
        },
    },
    "fusion": {"kind": "temporal", "depth": 2, "heads": 2, "dim": 16},
    "prototypes": {"regions": 64, "per_region": 4},
}  # fmt: skip
SLOTS = (("s2", "sentinel2_l2a", 10.0), ("s1", "sentinel1_grd", 20.0), ("hr", "rgb", 2.5))


def made(head="fcn", **changes):
    """A model with random weights, prototypes of three regions, and a head for three classes unless `head` is None."""
    inputs = {}
    for name, sensor, gsd_m in SLOTS:
        bands = sensors.get(sensor).band_names
        inputs[name] = Input(sensor, bands, gsd_m, *sensors.get(sensor).statistics(bands))
    classes = [{"name": name, "color": (0, 0, 0)} for name in ("water", "wheat", "maize")]
    part = None if head is None else {"kind": head} | ({} if head == "linear" else {"width": 8})
    spec = BundleSpec.model_validate(
        {
            "stage": "finetune", "model": MODEL | changes, "inputs": inputs, "dates": {}, "size_m": (80.0, 80.0),
            "classes": tuple(classes), "head": part,
        },
        strict=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = build_model(spec.model, spec.inputs)
    if spec.model.prototypes is not None:
        model.geo_context.resize(3)
        model.geo_context.slot_regions.copy_(torch.tensor([3, 5, 9]))
        model.geo_context.prototypes.normal_()
    built = None
    if spec.head is not None:
        built = spec.head.build(model.spec, 3).eval().requires_grad_(False)
        for weights in built.parameters():
            weights.add_(0.1 * torch.randn_like(weights))  # as if trained: scores that tell classes apart
    return LoadedBundle(Path("b"), spec, model.eval().requires_grad_(False), built, {"weights.safetensors": {"sha256": "5e"}})


@pytest.fixture(scope="module")
def loaded():
    return made()


SHAPES = [("s2", (16, 16)), ("s2", (24, 12)), ("hr", (32, 32)), ("hr", (72, 40))]  # the tables' size and another; whole windows and padded


@pytest.mark.parametrize(
    ("modality", "size", "format_"),
    [(m, size, f) for m, size in SHAPES for f in BOTH if (m, f) != ("hr", "onnx")]
    + [pytest.param("hr", size, "onnx", marks=pytest.mark.slow) for size in ((32, 32), (72, 40))],
)
def test_an_encoder_computes_the_same_for_any_batch(loaded, tmp_path, modality, size, format_):
    graph = encoder_graph(loaded, modality, size, batch=None, normalised=False)
    exported = write(graph, tmp_path / f"e{SUFFIX[format_]}", format_, verify=True)
    assert [found.axes for found in exported.differences] == [{"batch": 1}, {"batch": 3}]
    assert all(found.share < 0.5 for found in exported.differences)
    assert [path.name for path in tmp_path.iterdir()] == [exported.path.name]


@pytest.mark.parametrize("format_", ["torch-export", pytest.param("onnx", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("head", "size"), [("fcn", (16, 16)), pytest.param("upernet", (32, 24), marks=pytest.mark.slow)])
def test_encoder_and_head_compute_the_same_for_any_samples_dates_and_holes(tmp_path, format_, head, size):
    graph = model_graph(made(head), "s2", size, batch=None, dates=None, normalised=False)
    exported = write(graph, tmp_path / f"m{SUFFIX[format_]}", format_, verify=True)
    assert [found.axes for found in exported.differences] == [{"batch": 1, "dates": 1}, {"batch": 3, "dates": 4}]
    contract = read_contract(exported.path)
    assert contract["classes"] == ["water", "wheat", "maize"]
    assert {entry["name"]: entry["shape"] for entry in contract["inputs"]} == {
        "pixels": ["batch", "dates", 10, *size], "days": ["batch", "dates"], "valid": ["batch", "dates", *size], "region": ["batch"],
    }  # fmt: skip
    assert contract["outputs"] == [{"name": "logits", "shape": ["batch", 3, *size], "type": "float32"}]


def test_dates_that_the_model_does_not_read_are_not_read_by_the_file(tmp_path):
    graph = model_graph(made(date_modalities=("s1",)), "s2", (16, 16), batch=1, dates=2, normalised=False)
    exported = write(graph, tmp_path / "m.pt2", "torch-export", verify=True)
    pixels, days, valid, region = graph.example({}, 3)
    run = torch.export.load(exported.path).module()
    assert torch.equal(run(pixels, days, valid, region)[0], run(pixels, (days + 100) % 365, valid, region)[0])


def test_the_mean_fusion_without_geo_context_can_be_exported_at_fixed_numbers(tmp_path):
    graph = model_graph(made(fusion={"kind": "mean"}, prototypes=None), "s2", (16, 16), batch=2, dates=3, normalised=True)
    exported = write(graph, tmp_path / "m.pt2", "torch-export", verify=True)
    assert [found.axes for found in exported.differences] == [{}, {}]
    assert [entry["shape"] for entry in read_contract(exported.path)["inputs"]] == [[2, 3, 10, 16, 16], [2, 3], [2, 3, 16, 16]]


@pytest.mark.parametrize("format_", BOTH)
def test_a_file_says_what_it_takes(loaded, tmp_path, format_):
    graph = encoder_graph(loaded, "s1", (4, 8), batch=None, normalised=False)
    contract = read_contract(write(graph, tmp_path / f"s1{SUFFIX[format_]}", format_, verify=False).path)
    assert contract["what"] == "encoder" and contract["modality"] == "s1" and contract["sensor"] == "sentinel1_grd"
    assert contract["bands"] == list(sensors.get("sentinel1_grd").band_names)
    assert (contract["gsd_m"], contract["size_px"], contract["strides"]) == (20.0, [4, 8], [2])
    assert (contract["units"], contract["nodata"], contract["weights_sha256"]) == ("stored units: sigma0 dB", "nan", "5e")
    assert contract["inputs"] == [{"name": "pixels", "shape": ["batch", 2, 4, 8], "type": "float32"}]
    assert contract["outputs"] == [{"name": "map_1", "shape": ["batch", 8, 2, 4], "type": "float32"}]


def test_weights_of_onnx_may_lie_beside_it(loaded, tmp_path):
    import onnx
    import onnxruntime

    graph = encoder_graph(loaded, "s1", (4, 4), batch=None, normalised=False)
    exported = write(graph, tmp_path / "here" / "s1.onnx", "onnx", verify=True, one_file_bytes=0)
    assert [path.name for path in exported.files] == ["s1.onnx", "s1.onnx.data"]
    moved = (tmp_path / "here").rename(tmp_path / "there")  # the two files find each other anywhere
    onnx.checker.check_model(moved / "s1.onnx")
    session = onnxruntime.InferenceSession(moved / "s1.onnx", providers=["CPUExecutionProvider"])
    assert [(entry.name, entry.shape) for entry in session.get_inputs()] == [("pixels", ["batch", 2, 4, 4])]
    assert [(entry.name, entry.shape) for entry in session.get_outputs()] == [("map_1", ["batch", 8, 2, 2])]


def test_a_relative_bias_kept_from_older_weights_is_not_exported(tmp_path):
    loaded = made()
    graph = encoder_graph(loaded, "hr", (32, 32), batch=1, normalised=True)
    inputs = graph.example({}, 0)
    before = graph.reference(*inputs)[0]  # fills the caches
    for name, weights in loaded.model.encoders["hr"].named_parameters():
        if "cpb_mlp" in name:
            weights.mul_(3)
    exported = write(graph, tmp_path / "hr.pt2", "torch-export", verify=True)
    after = torch.export.load(exported.path).module()(*inputs)[0]
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(loaded.model.encoders["hr"](*inputs)[0], after)  # tracing left nothing in the model


def test_missing_data_becomes_zero_as_in_samples():
    optical = Normalise(Input("sentinel2_l2a", ("B02", "B03"), 10.0, (100.0, 200.0), (10.0, 20.0)))
    pixels = torch.tensor([[0.0, 0.0, 110.0], [0.0, 240.0, 200.0]])[:, None]  # (2, 1, 3): no data, one band dark, data
    assert optical(pixels)[:, 0].tolist() == [[0.0, -10.0, 1.0], [0.0, 2.0, 0.0]]
    radar = Normalise(Input("sentinel1_grd", ("VV", "VH"), 10.0, (-10.0, -20.0), (2.0, 4.0)))
    assert radar(torch.tensor([[-8.0, np.nan], [np.nan, -16.0]])[:, None])[:, 0].tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_the_dense_fusion_equals_the_packed_one():
    fusion = made().model.fusion
    torch.manual_seed(1)
    tokens, days = torch.randn(7, 5, 16), torch.randint(-1, 365, (7, 5))
    seen = torch.rand(7, 5) > 0.5
    seen[0], seen[1] = False, True
    torch.testing.assert_close(DenseTemporal(fusion)(tokens, days, seen), fusion(tokens, days, seen), atol=1e-5, rtol=1e-5)
    assert not DenseTemporal(fusion)(tokens, days, seen)[0].any()


def graph_of(function, reference=None):
    """A graph of one operation on (batch, 4, 4)."""

    class Operation(nn.Module):
        def forward(self, x):
            return (function(x),)

    def example(axes, seed):
        return (torch.rand(axes["batch"], 4, 4, generator=torch.Generator().manual_seed(seed)),)

    return Graph(Operation(), {"x": ("batch", 4, 4)}, ("y",), lambda x: ((reference or function)(x),), example, {})


@pytest.mark.parametrize(
    ("function", "reference", "format_", "message"),
    [
        (
            lambda x: x * 2 if bool((x > 0.5).any()) else x,
            None,
            "torch-export",
            "torch.export cannot hold .*try fixed numbers with --batch",
        ),
        (lambda x: x.view(2, -1), None, "torch-export", "torch.export cannot hold this model: .*try fixed numbers with --batch"),
        (lambda x: torch.linalg.eigvals(x).real, None, "onnx", "ONNX cannot hold this model: "),
        (lambda x: x, lambda x: x + 1, "torch-export", r"what would be exported is not what the model computes \(.* times the tolerance\)"),
        (lambda x: x, lambda x: x + (x.shape[0] == 3), "torch-export", "by 1, .* times what is allowed .*; not written"),
        (lambda x: x, lambda x: x / (x.shape[0] != 3), "onnx", "differs from the model by inf.*; not written"),
        (lambda x: x, lambda x: x + torch.nan, "torch-export", r"not what the model computes \(inf times"),
    ],
)
def test_what_fails_says_so_in_one_line_and_leaves_nothing(tmp_path, function, reference, format_, message):
    path = tmp_path / f"x{SUFFIX[format_]}"
    with pytest.raises(BundleError, match=message) as caught:
        write(graph_of(function, reference), path, format_, verify=True)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("head", "modality", "size", "message"),
    [
        (None, "s2", (16, 16), "b has no head .*leave --with-head out"),
        ("linear", "s2", (16, 16), "b has a table head; only heads that label pixels"),
        ("fcn", "hr", (32, 32), "b has a head that reads s2, not hr"),
        ("fcn", "s3", (16, 16), "--modality s3: b has s2, s1, hr"),
        ("fcn", "s2", (18, 17), r"--size 18x17: the s2 encoder takes whole steps of 4 px \(nearest: 16x16\)"),
        ("fcn", "s2", (0, 16), r"--size 0x16: .*\(nearest: 4x16\)"),
    ],
)
def test_what_does_not_fit_is_refused(head, modality, size, message):
    with pytest.raises(RecipeError, match=message):
        model_graph(made(head), modality, size, batch=None, dates=None, normalised=False)


def test_a_suffix_of_another_format_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"--out e.pt: a file of format torch-export ends in .pt2"):
        check_format("torch-export", Path("e.pt"), verify=False)
    (tmp_path / "e.onnx").mkdir()
    with pytest.raises(RecipeError, match="ends in .onnx, this is a folder"):
        check_format("onnx", tmp_path / "e.onnx", verify=False)


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"needs onnx, onnxscript: pip install 'skysense-cli\[export\]'"):
        check_format("onnx", Path("e.onnx"), verify=False)
    with pytest.raises(RecipeError, match="needs onnx, onnxscript, onnxruntime:"):
        check_format("onnx", Path("e.onnx"), verify=True)
    check_format("torch-export", Path("e.pt2"), verify=True)


def test_several_sizes_have_names_of_their_own():
    assert sized(Path("a/e.onnx"), (16, 8), [(16, 8)]) == Path("a/e.onnx")
    assert sized(Path("a/e.onnx"), (16, 8), [(16, 8), (8, 8)]) == Path("a/e-16x8.onnx")


def test_exporting_again_replaces_the_file(loaded, tmp_path):
    (tmp_path / "e.pt2").write_text("older")
    graph = encoder_graph(loaded, "s1", (4, 4), batch=None, normalised=False)
    write(graph, tmp_path / "e.pt2", "torch-export", verify=False)
    assert json.dumps(read_contract(tmp_path / "e.pt2"))
