import json

import pytest
import torch
from torch import nn

from skysense_cli.core.encoders import Encoder
from skysense_cli.core.encoders.swin_v2 import SwinV2
from skysense_cli.core.encoders.timm import Timm
from skysense_cli.core.encoders.vit import ViT
from skysense_cli.core.prompting import PromptedEncoder
from skysense_cli.errors import DataError, GridError, RecipeError
from skysense_cli.recipe import parts


class Flat(Encoder):
    """Gives back its embedding: `depth` units that change nothing, positions that add `shift`."""

    def __init__(self, dim=4, depth=3, patch=2, shift=0.0):
        super().__init__()
        self.channels, self.stride, self.patch, self.dim, self.shift = 1, patch, patch, dim, shift
        self.taps, self.ends = tuple(range(depth)), tuple(range(1, depth + 1))
        self.tap_channels = self.end_channels = (dim,) * depth
        self.tap_strides = (patch,) * depth
        self.layers = nn.ModuleList(nn.Identity() for _ in range(depth))

    @property
    def units(self):
        return list(self.layers)

    def embed(self, pixels):
        return nn.functional.avg_pool2d(pixels, self.patch).permute(0, 2, 3, 1).repeat(1, 1, 1, self.dim)

    def position(self, grid):
        return grid + self.shift


def swin(**options):
    return SwinV2(**{"channels": 3, "dim": 8, "depths": (1, 1, 2), "heads": (1, 2, 2), "window": 4, "patch": 2, **options})


def vit(**options):
    return ViT(**{"channels": 3, "dim": 8, "depth": 4, "heads": 2, "patch": 2, "size": 8, "class_position": False, **options})


def prompted(encoder, merge_after=2, bridges=(), **options):
    torch.manual_seed(0)
    model = PromptedEncoder(encoder, "m", **{"vocabulary": 5, "merge_after": {"m": merge_after}, "bridges": {"m": bridges}, **options})
    nn.init.normal_(model.vocabulary_weight)
    return model.eval()


def prompt(h=16, w=24, patch=2, n=2):
    torch.manual_seed(1)
    return torch.randn(n, 3, h, w), torch.randint(0, 6, (n, h, w)), torch.rand(n, h // patch, w // patch) < 0.5


def slow_tokens(model, labels, hidden):
    """Pixel by pixel."""
    patch = model.patch
    weight = model.vocabulary_weight.softmax(1).view(patch, patch) * patch**2
    out = torch.empty(*hidden.shape, model.dim)
    for n in range(hidden.shape[0]):
        for y in range(hidden.shape[1]):
            for x in range(hidden.shape[2]):
                total = torch.zeros(model.dim)
                for dy in range(patch):
                    for dx in range(patch):
                        total += weight[dy, dx] * model.vocabulary_token[labels[n, y * patch + dy, x * patch + dx]]
                out[n, y, x] = model.mask_token[0, 0] if hidden[n, y, x] else total / patch**2
    return out.permute(0, 3, 1, 2)


@torch.no_grad()
def test_before_the_halves_are_averaged_a_map_is_the_image_and_then_the_labels():
    model = prompted(Flat(), merge_after=3)
    pixels, labels, hidden = prompt(6, 10)
    pixels = pixels[:, :1]
    image, label = model.encoder.embed(pixels).permute(0, 3, 1, 2), slow_tokens(model, labels, hidden)
    maps = model(pixels, labels, hidden)
    assert model.tap_channels == (8, 8, 4)
    assert hidden.any() and not hidden.all()
    for level in maps[:2]:
        torch.testing.assert_close(level, torch.cat([image, label], dim=1))
    torch.testing.assert_close(maps[2], (image + label) / 2)


@torch.no_grad()
def test_merged_after_0_the_first_unit_sees_the_mean_with_positions():
    model = prompted(Flat(shift=10.0), merge_after=0)
    pixels, labels, hidden = prompt(6, 10)
    pixels = pixels[:, :1]
    image, label = model.encoder.embed(pixels).permute(0, 3, 1, 2), slow_tokens(model, labels, hidden)
    assert model.tap_channels == model.encoder.tap_channels
    torch.testing.assert_close(model(pixels, labels, hidden)[0], (image + label) / 2 + 10)


@torch.no_grad()
def test_half_positions_come_on_top_of_those_of_both_halves():
    pixels, labels, _ = prompt(6, 10)
    plain, twice = (prompted(Flat(shift=10.0), half_positions=half)(pixels[:, :1], labels)[0] for half in (False, True))
    torch.testing.assert_close(twice, plain + 10)


@torch.no_grad()
@pytest.mark.parametrize("merge_after", [0, 1, 2, 3])
@pytest.mark.parametrize("make", [swin, vit])
def test_maps_are_as_large_and_as_wide_as_announced(make, merge_after):
    model = prompted(make(), merge_after)
    pixels, labels, hidden = prompt()
    for level, channels, stride in zip(model(pixels, labels, hidden), model.tap_channels, model.tap_strides, strict=True):
        assert level.shape == (2, channels, 16 // stride, 24 // stride)
    doubled = [c != s for c, s in zip(model.tap_channels, model.encoder.tap_channels, strict=True)]
    assert doubled == [i < merge_after - 1 for i in range(len(doubled))]


@torch.no_grad()
@pytest.mark.parametrize(("make", "bridges"), [(swin, ((4, 2), (8, 4))), (vit, ((0, 2), (0, 4), (0, 2)))])
def test_a_hidden_label_does_not_matter_and_a_shown_one_does(make, bridges):
    model = prompted(make(), bridges=bridges)
    pixels, labels, hidden = prompt()
    first = model(pixels, labels, hidden)
    at_pixels = hidden.repeat_interleave(2, 1).repeat_interleave(2, 2)
    other = torch.where(at_pixels, (labels + 1) % 6, labels)
    assert all(torch.equal(a, b) for a, b in zip(model(pixels, other, hidden), first, strict=True))
    shown = torch.where(at_pixels, labels, (labels + 1) % 6)
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(model(pixels, shown, hidden), first, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("make", [swin, vit])
def test_without_labels_everything_is_hidden(make):
    model = prompted(make())
    pixels, labels, hidden = prompt()
    for alone, blind in zip(model(pixels), model(pixels, labels, torch.ones_like(hidden)), strict=True):
        assert torch.equal(alone, blind)
    nothing_hidden = model(pixels, labels, torch.zeros_like(hidden))
    assert all(torch.equal(a, b) for a, b in zip(model(pixels, labels), nothing_hidden, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("width", [0, 6])
def test_bridges_add_attention_over_the_whole_map_and_the_last_one_is_normalised(width):
    model = prompted(Flat(dim=4), merge_after=1, bridges=((width, 2), (width, 2)))
    reference = nn.MultiheadAttention(width or 4, 2, batch_first=True)
    pixels, labels, hidden = prompt(6, 10)
    pixels = pixels[:, :1]
    x = (model.encoder.embed(pixels) + slow_tokens(model, labels, hidden).permute(0, 2, 3, 1)) / 2
    maps = model(pixels, labels, hidden)
    for number, bridge in enumerate((model.attn1, model.attn2)):
        attention = bridge.attn["attn"] if width else bridge.attn
        reference.load_state_dict(attention.state_dict())
        tokens = bridge.proj_in(x.flatten(1, 2)) if width else x.flatten(1, 2)
        tokens = tokens + reference(tokens, tokens, tokens)[0]
        x = x + (bridge.proj_out(tokens) if width else tokens).view(x.shape)
        x = nn.functional.layer_norm(x, x.shape[-1:], model.norm_attn.weight, model.norm_attn.bias) if number else x
        torch.testing.assert_close(maps[number], x.permute(0, 3, 1, 2))
    torch.testing.assert_close(maps[2], maps[1])  # the norm changed what goes on, not only what is kept


@pytest.mark.parametrize("merge_after", [0, 2])
@pytest.mark.parametrize(("make", "bridges"), [(swin, ((4, 2), (8, 4))), (vit, ((0, 2), (0, 4), (0, 2)))])
def test_every_parameter_learns(make, bridges, merge_after):
    model = prompted(make(), merge_after, bridges).train()
    model(*prompt())[-1].square().mul(torch.arange(8.0 if make is vit else 32.0).view(1, -1, 1, 1)).sum().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    untapped = ("encoder.norm0", "encoder.norm1", "encoder.cls_token")  # taps that the loss does not see; no class token is used
    assert [name for name in still if not name.startswith(untapped)] == []


def test_units_are_those_of_the_encoder_and_the_bridges():
    model = prompted(swin(), bridges=((4, 2),))
    assert model.units == [*model.encoder.units, model.attn1]


def test_equal_names_as_a_plain_encoder_below_encoder():
    encoder = swin()
    names = [f"encoder.{name}" for name in encoder.state_dict()]
    model = prompted(encoder, bridges=((4, 2),))
    assert [name for name in model.state_dict() if name.startswith("encoder.")] == names
    assert {name.split(".")[0] for name in model.state_dict()} == {
        "encoder", "mask_token", "vocabulary_token", "vocabulary_weight", "attn1", "norm_attn",
    }  # fmt: skip


def released_s2():
    encoder = ViT(channels=10, dim=1024, depth=24, heads=16, patch=4, size=16, class_position=False)
    return PromptedEncoder(encoder, "s2", vocabulary=64, merge_after={"s2": 4})


def released_hr():
    encoder = SwinV2(channels=3, dim=352, depths=(2, 2, 18, 2), heads=(8, 16, 32, 64), window=8, extra_norm_every=6)
    return PromptedEncoder(encoder, "hr", merge_after={"hr": 2}, bridges={"hr": ((256, 16), (512, 16), (1024, 16))})


@pytest.mark.parametrize(
    ("make", "module", "count"), [(released_s2, "backbone_s2", 302_559_248), (released_hr, "backbone_hr", 664_406_848)]
)
def test_released_sizes_have_the_published_parameters(make, module, count, parity_dir):
    with torch.device("meta"):
        model = make()
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    path = parity_dir.parent / "upstream_state_dict_keys.json"
    if not path.exists():
        pytest.skip(f"{path} is not there: the names of the published state dict")
    published = json.loads(path.read_text())[module]["state_dict"]
    found = {name.removeprefix("encoder."): list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert found == {name: shape_of(entry) for name, entry in published.items()}


def shape_of(entry):
    return list(entry["shape"] if isinstance(entry, dict) else entry[0] if isinstance(entry[0], list) else entry)


def test_a_recipe_can_say_all_of_it():
    part = parts.bind("core", "prompting", {"merge_after": {"hr": 2, "s2": 4}, "bridges": {"hr": ((4, 2), (8, 4))}})
    assert part.options["vocabulary"] == 64
    model = part.build(swin(), "hr")
    assert (model.attn2.attn["attn"].heads, model.tap_channels) == (4, (16, 16, 32))
    assert not [name for name in part.build(vit(), "s2").state_dict() if name.startswith(("attn", "norm"))]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (swin, {"merge_after": {"s2": 1}}, "prompting: merge_after has no entry for m (has: s2)"),
        (swin, {"merge_after": {"m": 4}}, "prompting: merge_after.m is 4, its encoder has 0..3"),
        (swin, {"merge_after": {"m": -1}}, "prompting: merge_after.m is -1, its encoder has 0..3"),
        (swin, {"vocabulary": 0}, "prompting: vocabulary 0 must be 1 or more"),
        (swin, {"bridges": {"m": ((4, 2),) * 4}}, "prompting: bridges.m has 4 entries, its encoder has 3 stages or layers"),
        (swin, {"bridges": {"m": ((4, 3),)}}, "prompting: bridges.m has (4, 3): 4 channels do not split into 3 heads"),
        (vit, {"bridges": {"m": ((0, 3),)}}, "prompting: bridges.m has (0, 3): 8 channels do not split into 3 heads"),
        (
            lambda: vit(final_norm=True),
            {"bridges": {"m": ((0, 2),)}},
            "prompting: the encoder of m has both final_norm and bridges, which end in a norm; set final_norm: false",
        ),
        (
            lambda: vit(class_token=True, class_position=True),
            {},
            "prompting: the encoder of m has a class token, which has no place on a map of two halves; set it to false",
        ),
        (
            lambda: Timm(channels=3, name="resnet18"),
            {},
            "prompting: the encoder of m has no map of positions before its units; choose swin_v2 or vit",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(make, options, message):
    with pytest.raises(RecipeError) as caught:
        PromptedEncoder(make(), "m", **{"merge_after": {"m": 1}, **options})
    assert str(caught.value) == message


def test_a_class_token_needs_its_position():
    with pytest.raises(RecipeError, match="class_token needs a row of the position table; set class_position: true"):
        vit(class_token=True)


@pytest.mark.parametrize(
    ("size", "labels", "hidden", "message"),
    [
        ((16, 24), (2, 16, 20), None, "labels of 2 x 16 x 20 for images of 2 x 16 x 24 (samples, rows, columns)"),
        ((16, 24), (1, 16, 24), None, "labels of 1 x 16 x 24 for images of 2 x 16 x 24 (samples, rows, columns)"),
        ((16, 23), (2, 16, 23), None, "both must be equal, with sides in multiples of 2 px"),
        ((16, 24), (2, 16, 24), (2, 8, 11), "hidden is 2 x 8 x 11, but the labels make 2 x 8 x 12 patches"),
        ((16, 12), (2, 16, 12), None, "a map of image and label side by side is 3 positions wide"),
    ],
)
def test_maps_that_do_not_meet_are_refused(size, labels, hidden, message):
    model = prompted(swin(window=2), merge_after=3)
    with pytest.raises(GridError) as caught:
        model(torch.rand(2, 3, *size), torch.zeros(labels, dtype=torch.int64), None if hidden is None else torch.zeros(hidden).bool())
    assert message in str(caught.value)


@pytest.mark.parametrize("value", [-1, 6])
def test_ids_outside_the_vocabulary_are_refused(value):
    pixels, labels, hidden = prompt()
    labels[1, 3, 4] = value
    with pytest.raises(DataError, match="the vocabulary has 0..5; map them with to_vocabulary"):
        prompted(vit())(pixels, labels, hidden)
