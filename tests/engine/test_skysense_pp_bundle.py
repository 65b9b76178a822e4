"""A SkySense++ bundle: written, read, embedded without prompts, fine-tuned without its wrappers; what it is no good for is said."""

import pytest
import torch

from skysense_cli import sensors
from skysense_cli.cli.finetune import run as finetune
from skysense_cli.cli.options import Options, load
from skysense_cli.cli.predict import run as predict
from skysense_cli.cli.pretrain import run as pretrain
from skysense_cli.core.heads.in_context import InContext
from skysense_cli.core.prompting import PromptedEncoder
from skysense_cli.data.dataset import Input
from skysense_cli.engine import bundle
from skysense_cli.engine.assemble import build_head, build_model, load_bundle
from skysense_cli.engine.embed import vectors
from skysense_cli.engine.scoring import subject
from skysense_cli.engine.spec import BundleSpec
from skysense_cli.errors import BundleError, GridError, RecipeError
from skysense_cli.recipe.load import load_model, load_recipe

PROMPTED = """
prompting: {vocabulary: 8, merge_after: {s2: 1, s1: 1}, bridges: {s2: [[0, 2]]}}
completion: {codes: 12, dim: 6, hidden: 6}
date_modalities: [s2]
head: {kind: in_context, width: 8, pool_scales: [1, 2]}
"""
MODEL = """
cell_m: 20
width: 16
anchor: s2
encoders:
  s2: {kind: vit, channels: 10, dim: 16, depth: 2, heads: 2, patch: 2, size: 8, class_position: false}
  s1: {kind: vit, channels: 2, dim: 16, depth: 1, heads: 2, patch: 1, size: 4, class_position: false}
fusion: {kind: temporal, depth: 1, heads: 2, dim: 16}
prototypes: null
"""


@pytest.fixture(scope="module")
def prompted(tmp_path_factory):
    """A bundle with random weights of a prompted model with completion and label decoder."""
    folder = tmp_path_factory.mktemp("pp")
    (folder / "model.yaml").write_text(MODEL + PROMPTED)
    section = load_model(str(folder / "model.yaml"))
    inputs = {}
    for name, sensor, gsd_m in (("s2", sensors.get("sentinel2_l2a"), 10.0), ("s1", sensors.get("sentinel1_grd"), 20.0)):
        inputs[name] = Input(sensor.name, sensor.band_names, gsd_m, sensor.mean, sensor.std)
    spec = BundleSpec(stage="pretrain", model=section, inputs=inputs, dates={"s2": 1, "s1": 1}, size_m=(80.0, 80.0))
    torch.manual_seed(0)
    model = build_model(section, inputs)
    head = build_head(spec, model)
    tensors = {f"{name}.{key}": value for name, part in (("model", model), ("head", head)) for key, value in part.state_dict().items()}
    bundle.save(folder / "bundle", spec.to_plain(), tensors)
    return folder / "bundle"


def test_it_comes_back_with_its_decoder_and_embeds_without_prompts(prompted, dataset):
    loaded = load_bundle(prompted)
    assert isinstance(loaded.head, InContext) and loaded.head.conv_seg.out_channels == 9
    assert all(isinstance(encoder, PromptedEncoder) for encoder in loaded.model.encoders.values())
    assert loaded.model.dated == ("s2",)
    found = vectors(loaded, sorted((dataset.folder / "samples").glob("*.npz")))
    assert found.shape == (6, 16)
    assert bool(torch.isfinite(torch.from_numpy(found)).all())  # of the samples without s1 too: it is imagined


def test_fine_tuning_takes_the_plain_encoders(prompted, dataset, tmp_path, write_finetune, capsys):
    recipe = write_finetune(tmp_path, dataset, f"start_from: {prompted}", modalities="[s2, s1]", dates="{s2: 4, s1: 2}")
    finetune(load(recipe, "finetune", Options()), Options())
    assert "model.encoders.s2.mask_token" in capsys.readouterr().out  # not used, and said
    tuned, before = load_bundle(tmp_path / "finetune" / "bundle"), load_bundle(prompted)
    assert tuned.spec.model.prompting is None and tuned.spec.model.head is None
    assert tuned.spec.model.completion is not None and tuned.spec.model.date_modalities == ("s2",)
    own = dict(before.model.encoders["s2"].encoder.named_parameters())
    changed = [float((value - own[name]).abs().max()) for name, value in tuned.model.encoders["s2"].named_parameters()]
    assert max(changed) < 0.01  # four steps away from where it started


def test_pretraining_without_labels_leaves_the_prompts_out_and_says_so(dataset, tmp_path, write_pretrain, capsys):
    recipe = write_pretrain(tmp_path, dataset, steps=1)
    (tmp_path / "model.yaml").write_text(MODEL + PROMPTED)
    with pytest.raises(GridError, match="must be multiples of 80 m"):  # the completion works on squares of 4 x 4 cells of 20 m
        pretrain(load(recipe, "pretrain", Options(sets=("data.crop_m=40",))), Options())
    recipe.write_text(recipe.read_text().replace("crop_m: 40", "crop_m: 80"))
    pretrain(load(recipe, "pretrain", Options()), Options())
    assert "multi_granularity shows the model no labels; model.prompting and model.head are left out" in capsys.readouterr().err
    loaded = load_bundle(tmp_path / "pretrain" / "bundle")
    assert loaded.spec.model.prompting is None and loaded.spec.model.completion is not None


def test_no_classes_can_be_asked_of_a_vocabulary(prompted, dataset, tmp_path):
    reason = "bundle has a head that answers prompts and knows no classes; fine-tune it first"
    (tmp_path / "evaluate.yaml").write_text(
        f"recipe: evaluate\nversion: 1\noutput: {tmp_path}/scores\nbundle: {prompted}\ndata: {{index: {dataset.index}, dates: {{s2: 2}}}}\n"
    )
    with pytest.raises(RecipeError, match=reason):
        subject(load_recipe(tmp_path / "evaluate.yaml", "evaluate"), "cpu")
    (tmp_path / "predict.yaml").write_text(
        f"recipe: predict\nversion: 1\noutput: {tmp_path}/map.tif\nbundle: {prompted}\nscene: {{s2: [nowhere.tif]}}\n"
    )
    with pytest.raises(BundleError, match=reason):
        predict(load_recipe(tmp_path / "predict.yaml", "predict"), Options())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("head: {kind: fcn}", "head: needs prompting, whose vocabulary it speaks"),
        ("date_modalities: [hr]", r"date_modalities: 'hr' is none of the encoders \(s2, s1\)"),
        ("prompting: {merge_after: {hr: 1}}", r"prompting.merge_after.hr: 'hr' is none of the encoders"),
    ],
)
def test_model_sections_that_contradict_themselves_are_refused(tmp_path, change, message):
    (tmp_path / "model.yaml").write_text(MODEL + change + "\n")
    with pytest.raises(RecipeError, match=message):
        load_model(str(tmp_path / "model.yaml"))
