"""Small models written as the published files are, converted to bundles: the same outputs, and what is missing is said."""

import json

import pytest
import torch

from skysense_cli.core.batch import Batch, SeriesBatch
from skysense_cli.engine import bundle, convert
from skysense_cli.engine.assemble import build_head, load_bundle
from skysense_cli.engine.checkpoint_file import open_weights
from skysense_cli.engine.released import ours
from skysense_cli.errors import BundleError
from skysense_cli.files import sha256
from skysense_cli.recipe.load import load_model

PARTS = """
cell_m: 10
width: 32
anchor: hr
encoders:
  hr: {kind: swin_v2, channels: 3, dim: 4, depths: [1, 2, 2, 1], heads: [1, 1, 2, 2], window: 4, extra_norm_every: 2}
  s2: {kind: vit, channels: 10, dim: 16, depth: 4, heads: 2, size: 16, taps: [1, 3]SPARE}
  s1: {kind: vit, channels: 2, dim: 16, depth: 4, heads: 2, size: 16, taps: [1, 3]SPARE}
"""
V1 = PARTS.replace("SPARE", "") + "fusion: {kind: temporal, depth: 2, heads: 2, dim: 16}\nprototypes: {regions: 64, per_region: 4}\n"
PP = (
    PARTS.replace("SPARE", ", class_position: false")
    + """
prompting: {vocabulary: 6, merge_after: {hr: 2, s2: 2, s1: 2}, bridges: {hr: [[4, 2], [8, 2], [8, 2]]}}
completion: {codes: 8, dim: 4, hidden: 4}
fusion: {kind: temporal, depth: 2, heads: 2, dim: 16, dates: false}
head: {kind: in_context, width: 8}
"""
)


def fused_names(state):
    return {key.replace(".in_proj_", ".Wqkv."): tensor for key, tensor in state.items()}


def prefixed(prefix, state):
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


class Published:
    """A model with random weights, and its tensors under the published names."""

    def __init__(self, folder, text, name):
        (folder / name).write_text(text)
        self.recipe = str(folder / name)
        self.spec = convert._spec(load_model(self.recipe), [])
        torch.manual_seed(5)
        self.model = convert.build_model(self.spec.model, self.spec.inputs).eval()
        self.head = build_head(self.spec, self.model)
        for part in (self.model, self.head):
            for parameter in part.parameters() if part is not None else ():
                parameter.data.add_(torch.randn_like(parameter) * 0.05)
        self.modules = {}
        state = prefixed("model.", self.model.state_dict()) | prefixed("head.", self.head.state_dict() if self.head else {})
        for key, tensor in state.items():
            place, leaf = ours(key)
            part, _, modality = place.partition(".")
            if part == "completion":
                leaf = "vae_" + leaf.removeprefix("vaes.")
            name = {"encoders": f"backbone_{modality}", "lifts": f"head_{modality}", "head": "head_rec_hr", "completion": "modality_vae"}
            self.modules.setdefault(name.get(part, part), {})[leaf] = tensor.clone()
        self.dates = self.modules["fusion"].pop("date_embedding", None)

    @property
    def assembled(self):
        return {key: tensor for name, state in self.modules.items() for key, tensor in prefixed(f"{name}.", state).items()}

    def features(self, model, names=("hr", "s2", "s1")):
        torch.manual_seed(1)
        series = {}
        for name, channels, size in (("hr", 3, 256), ("s2", 10, 8), ("s1", 2, 8)):
            pixels = torch.randn(2, 1 if name == "hr" else 3, channels, size, size)
            count = pixels.shape[1]
            days = torch.arange(count).expand(2, -1) * 40
            if name in names:
                series[name] = SeriesBatch(
                    pixels, days, torch.ones(2, count, dtype=torch.bool), torch.ones(2, count, size, size, dtype=torch.bool)
                )
        number = torch.arange(2)
        with torch.no_grad():
            return model(Batch(series=series, region=number * 0, frame=torch.eye(2, 3).expand(2, 2, 3), place=number))


@pytest.fixture(scope="module")
def v1(tmp_path_factory):
    """The model, and a folder with its six files as SkySense was published."""
    folder = tmp_path_factory.mktemp("v1")
    made = Published(folder, V1, "v1.yaml")
    parts = made.modules
    files = {
        "backbone_hr": prefixed("backbone.", parts["backbone_hr"] | {"mask_token": torch.ones(1, 1, 4)}),
        "backbone_s2": parts["backbone_s2"] | {"ctpe": made.dates.unsqueeze(0)},
        "backbone_s1": fused_names(parts["backbone_s1"]),
        "head_s2": prefixed("module.backbone.", parts["head_s2"]),
        "head_s1": {"state_dict": parts["head_s1"]},
        "fusion": {"model": {"state_dict": prefixed("backbone.", fused_names(parts["fusion"]))}, "epoch": 3},
    }
    (folder / "files").mkdir()
    for name, content in files.items():
        torch.save(content, folder / "files" / f"skysense_model_{name}.pth")
    made.files = folder / "files"
    return made


@pytest.fixture(scope="module")
def pp(tmp_path_factory):
    """The model, and its checkpoint as SkySense++ was published."""
    folder = tmp_path_factory.mktemp("pp")
    made = Published(folder, PP, "pp.yaml")
    made.files = folder / "skysensepp_release.ckpt"
    torch.save({"model": prefixed("module.", fused_names(made.assembled)), "optimizer": {}, "current_iteration": 30_000}, made.files)
    return made


def same(found, model, published):
    """Bit for bit the same weights, and so the same outputs but for the order in which a kernel adds."""
    state = published.model.state_dict()
    assert model.state_dict().keys() == state.keys() and all(
        torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items()
    )
    wanted = published.features(published.model)
    assert all(torch.equal(found.modal[name], wanted.modal[name]) for name in wanted.modal)
    assert torch.allclose(found.fused, wanted.fused, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(found.pyramid, wanted.pyramid, strict=True))


def test_six_files_make_one_bundle_with_the_same_outputs(v1, tmp_path):
    group = convert.convert([v1.files], tmp_path / "bundle", load_model, v1.recipe)
    assert {name.split(".")[1] for name in group.missing} == {"geo_context"}
    loaded = load_bundle(tmp_path / "bundle")
    assert torch.equal(loaded.model.fusion.date_embedding, v1.dates)
    v1.model.dated = ("s2",)  # as published
    same(v1.features(loaded.model), loaded.model, v1)


def test_the_bundle_says_where_it_comes_from(v1, tmp_path):
    convert.convert([v1.files], tmp_path / "bundle", load_model, v1.recipe)
    spec = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    assert (spec["stage"], spec["size_m"], spec["dates"]) == ("released", [640, 640], {"hr": 1, "s2": 20, "s1": 10})
    assert spec["model"]["date_modalities"] == ["s2"] and spec["inputs"]["hr"]["gsd_m"] == 0.3125
    assert (spec["inputs"]["hr"]["sensor"], spec["inputs"]["s2"]["sensor"], spec["inputs"]["s1"]["sensor"]) == (
        "rgb", "sentinel2_l2a", "sentinel1_grd",
    )  # fmt: skip
    assert {fact["name"]: fact["sha256"] for fact in spec["sources"]} == {path.name: sha256(path) for path in v1.files.iterdir()}
    assert str(v1.files) not in (tmp_path / "bundle" / "bundle.json").read_text()


def test_equal_files_make_equal_bundles(v1, tmp_path):
    for name in ("a", "b"):
        convert.convert([v1.files], tmp_path / name, load_model, v1.recipe)
    assert (tmp_path / "a" / "manifest.json").read_text() == (tmp_path / "b" / "manifest.json").read_text()


def test_a_checkpoint_of_the_whole_second_stage(pp, tmp_path):
    group = convert.convert([pp.files], tmp_path / "bundle", load_model, pp.recipe)
    assert not group.missing
    loaded = load_bundle(tmp_path / "bundle")
    assert (loaded.spec.size_m, dict(loaded.spec.dates)) == ((320, 160), {"hr": 1, "s2": 1, "s1": 1})
    same(pp.features(loaded.model), loaded.model, pp)
    assert all(torch.equal(tensor, pp.head.state_dict()[name]) for name, tensor in loaded.head.state_dict().items())


def test_sentinel_2_alone_makes_a_usable_model(v1, tmp_path):
    names = [v1.files / f"skysense_model_{name}.pth" for name in ("backbone_s2", "head_s2", "fusion")]
    group = convert.convert(names, tmp_path / "bundle", load_model, v1.recipe, only=True)
    assert not group.missing
    loaded = load_bundle(tmp_path / "bundle")
    assert list(loaded.inputs) == ["s2"] and loaded.spec.model.anchor == "s2" and loaded.spec.model.prototypes is None
    found, wanted = v1.features(loaded.model, ("s2",)), v1.features(v1.model)
    assert torch.equal(found.modal["s2"], wanted.modal["s2"])


def test_what_no_file_gives_starts_fresh_and_is_listed(v1, tmp_path):
    group = convert.convert([v1.files / "skysense_model_backbone_s1.pth"], tmp_path / "bundle", load_model, v1.recipe)
    assert (
        group.missing["model.fusion.date_embedding"] == "waves of the year" and group.missing["model.lifts.s2.decoder.0.weight"] == "random"
    )
    assert not any(name.startswith("model.encoders.s1.") for name in group.missing)
    loaded = load_bundle(tmp_path / "bundle")
    assert loaded.spec.model.date_modalities is None and loaded.model.fusion.date_embedding.std() > 0.2
    norm = loaded.model.encoders["s2"].layers[0].ln1
    assert norm.weight.min() == 1 and norm.bias.abs().max() == 0 and loaded.model.encoders["hr"].norm0.weight.min() == 1


def test_prompted_and_plain_encoders_start_from_each_other(v1, pp, tmp_path):
    convert.convert([v1.files], tmp_path / "prompted", load_model, pp.recipe)
    prompted = load_bundle(tmp_path / "prompted").model.encoders["hr"].encoder.state_dict()
    plain = v1.model.encoders["hr"].state_dict()
    assert prompted.keys() == plain.keys() and all(torch.equal(prompted[name], plain[name]) for name in plain)
    group = convert.convert([pp.files], tmp_path / "plain", load_model, v1.recipe)
    words = [fate.word for fate in group.accounts[0].fates if fate.key.endswith("pos_embed")]
    assert words == ["reshaped", "reshaped"]  # without and with a row for the class token
    table = load_bundle(tmp_path / "plain").model.encoders["s2"].pos_embed
    assert torch.equal(table[:, 1:], pp.model.encoders["s2"].encoder.pos_embed) and not table[:, 0].any()


def test_another_image_size_resizes_the_position_table(v1, tmp_path):
    (tmp_path / "large.yaml").write_text(V1.replace("size: 16", "size: 32"))
    group = convert.convert([v1.files], tmp_path / "bundle", load_model, str(tmp_path / "large.yaml"))
    notes = [fate.note for one in group.accounts for fate in one.fates if fate.word == "reshaped"]
    assert notes == ["1 + 4 x 4 -> 1 + 8 x 8 positions, bicubic"] * 2
    old = v1.model.encoders["s2"].pos_embed
    image = old[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(image, size=(8, 8), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    found = load_bundle(tmp_path / "bundle").model.encoders["s2"].pos_embed
    assert torch.equal(found[:, 1:], wanted) and torch.equal(found[:, :1], old[:, :1])


def test_another_window_gets_its_own_tables(v1, tmp_path):
    (tmp_path / "wide.yaml").write_text(V1.replace("window: 4", "window: 8"))
    group = convert.convert([v1.files], tmp_path / "bundle", load_model, str(tmp_path / "wide.yaml"))
    assert group.accounts[0].counts["recomputed"] == 12
    swin = load_bundle(tmp_path / "bundle").model.encoders["hr"]
    assert swin.stages[0].blocks[0].attn.w_msa.relative_coords_table.shape == (1, 15, 15, 2)


def test_four_bands_and_near_infrared(v1, tmp_path):
    (tmp_path / "four.yaml").write_text(V1.replace("channels: 10", "channels: 4").replace("channels: 3", "channels: 4"))
    group = convert.convert([v1.files], tmp_path / "bundle", load_model, str(tmp_path / "four.yaml"))
    assert sum(one.counts["adapted"] for one in group.accounts) == 2
    loaded = load_bundle(tmp_path / "bundle")
    assert loaded.inputs["s2"].bands == ("B02", "B03", "B04", "B08") and loaded.inputs["hr"].sensor == "rgbnir"
    old = v1.modules["backbone_s2"]["patch_embed.projection.weight"]
    assert torch.equal(loaded.model.encoders["s2"].patch_embed["projection"].weight, old[:, [0, 1, 2, 6]] * 2.5)


def test_half_precision_files_become_single(v1, tmp_path):
    half = {key: tensor.bfloat16() for key, tensor in v1.modules["backbone_s1"].items()}
    torch.save(half, tmp_path / "x_s1.pth")
    group = convert.convert([tmp_path / "x_s1.pth"], tmp_path / "bundle", load_model, v1.recipe, only=True)
    assert {fate.note for fate in group.accounts[0].fates if fate.key} == {"bfloat16 -> float32"}
    assert {str(tensor.dtype) for tensor in bundle.read(tmp_path / "bundle").tensors.values()} == {"torch.float32"}


def test_a_bundle_is_a_source_too(v1, tmp_path):
    convert.convert([v1.files], tmp_path / "one", load_model, v1.recipe)
    group = convert.convert([tmp_path / "one"], tmp_path / "two", load_model)
    assert {fate.word for fate in group.accounts[0].fates} == {"loaded", "recomputed"}
    assert (tmp_path / "one" / "weights.safetensors").read_bytes() == (tmp_path / "two" / "weights.safetensors").read_bytes()
    found = convert.inspect([tmp_path / "one"], load_model)
    assert not found.problems and not found.groups[0].missing


def test_a_bundle_that_lacks_a_part_of_its_model(v1, tmp_path):
    convert.convert([v1.files], tmp_path / "one", load_model, v1.recipe)
    stored = bundle.read(tmp_path / "one")
    kept = {name: tensor for name, tensor in stored.tensors.items() if not name.startswith("model.geo_context")}
    bundle.save(tmp_path / "less", stored.spec, kept)
    (problem,) = convert.inspect([tmp_path / "less"], load_model).problems
    assert problem.endswith("model.geo_context.prototypes is missing in the bundle, whose model has that part (and 2 more)")


def test_nothing_is_written_when_a_key_is_unexplained(v1, tmp_path):
    torch.save(v1.modules["backbone_s1"] | {"layers.9.ln1.bias": torch.ones(16)}, tmp_path / "x_s1.pth")
    with pytest.raises(BundleError, match="x_s1.pth: layers.9.ln1.bias is unexplained"):
        convert.convert([tmp_path / "x_s1.pth"], tmp_path / "bundle", load_model, v1.recipe)
    assert not (tmp_path / "bundle").exists()


def test_only_needs_an_encoder(v1, tmp_path):
    with pytest.raises(BundleError, match="--only: none of the files holds an encoder"):
        convert.convert([v1.files / "skysense_model_fusion.pth"], tmp_path / "bundle", load_model, v1.recipe, only=True)


def test_files_of_two_models_need_a_choice(v1, pp, tmp_path):
    with pytest.raises(BundleError, match=r"belong to different models \(.* to skysense_v1, .* to skysense_pp\); choose one with --model"):
        convert.convert([v1.files / "skysense_model_backbone_s1.pth", pp.files], tmp_path / "bundle", load_model)


def test_one_flipped_byte_of_an_archive_is_found(v1, tmp_path):
    path = tmp_path / "x_s1.pth"
    path.write_bytes((v1.files / "skysense_model_backbone_s1.pth").read_bytes())
    data = bytearray(path.read_bytes())
    tensor = open_weights(path).tensors["layers.0.ffn.layers.0.0.weight"]
    place = data.find(bytes(tensor.contiguous().view(torch.uint8).flatten()[:64].tolist()))
    data[place] ^= 1
    path.write_bytes(data)
    open_weights(path)  # torch does not notice
    with pytest.raises(BundleError, match=r"x_s1.pth: damaged: .*data/\d+.* differs from its checksum; fetch it again"):
        convert.convert([path], tmp_path / "bundle", load_model, v1.recipe)


def test_prototypes_keep_their_regions(v1, tmp_path):
    convert.convert([v1.files], tmp_path / "one", load_model, v1.recipe)
    stored = bundle.read(tmp_path / "one")
    grown = {"model.geo_context.prototypes": torch.ones(3, 4, 16), "model.geo_context.slot_regions": torch.tensor([1, 5, 9])}
    bundle.save(tmp_path / "grown", stored.spec, stored.tensors | grown | {"model.geo_context.used": torch.ones(3, 4, dtype=torch.int64)})
    convert.convert([tmp_path / "grown"], tmp_path / "two", load_model)
    assert load_bundle(tmp_path / "two").model.geo_context.slot_regions.tolist() == [1, 5, 9]
    torch.save({"model.geo_context.prototypes": torch.zeros(1).expand(10**9, 4, 16)}, tmp_path / "endless.pth")
    (problem,) = convert.inspect([tmp_path / "endless.pth"], load_model, v1.recipe).problems
    assert "model.geo_context.prototypes has shape 1000000000 x 4 x 16" in problem


def test_what_a_bundle_says_beside_its_model_stays(v1, tmp_path):
    convert.convert([v1.files], tmp_path / "one", load_model, v1.recipe)
    stored = bundle.read(tmp_path / "one")
    bundle.save(tmp_path / "other", stored.spec | {"size_m": [320, 320], "dates": {"hr": 1, "s2": 7, "s1": 3}}, stored.tensors)
    convert.convert([tmp_path / "other"], tmp_path / "two", load_model)
    spec = load_bundle(tmp_path / "two").spec
    assert spec.size_m == (320, 320) and spec.dates["s2"] == 7
