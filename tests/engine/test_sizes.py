"""Counting with shapes alone equals counting what a model does."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from skysense_cli.core.batch import Batch, SeriesBatch
from skysense_cli.engine.assemble import build_model
from skysense_cli.engine.released import known_input
from skysense_cli.engine.sizes import measure
from skysense_cli.errors import GridError, RecipeError
from skysense_cli.recipe.load import load_model
from skysense_cli.recipe.schema.model import ModelSection

SMALL = {
    "cell_m": 40.0,
    "width": 12,
    "anchor": "hr",
    "encoders": {
        "hr": {"kind": "swin_v2", "channels": 3, "dim": 8, "depths": [2, 2], "heads": [1, 2], "window": 4, "patch": 4},
        "s2": {"kind": "vit", "channels": 10, "dim": 8, "depth": 2, "heads": 2, "patch": 4, "size": 16},
    },
    "fusion": {"kind": "temporal", "depth": 2, "heads": 2, "dim": 16},
}


def small():
    return ModelSection.model_validate(SMALL, strict=False)


def work(parts):
    return {part.name: part.flops for part in parts}


def test_work_from_shapes_is_the_work_that_is_done():
    found = measure(small(), size_m=(160, 320), dates={"s2": 3})
    assert found.pixels == {"hr": (1, 32, 64), "s2": (3, 16, 32)}  # 5 m make one cell of 8 px, 10 m one of 4 px
    inputs = {"hr": replace(known_input("hr", 3, ""), gsd_m=5.0), "s2": known_input("s2", 10, "")}
    model = build_model(small(), inputs)
    channels = {"hr": 3, "s2": 10}
    series = {
        m: SeriesBatch(
            torch.rand(1, t, channels[m], h, w),
            torch.zeros(1, t, dtype=torch.int64),
            torch.ones(1, t).bool(),
            torch.ones(1, t, h, w).bool(),
        )
        for m, (t, h, w) in found.pixels.items()
    }
    one = torch.zeros(1, dtype=torch.int64)
    batch = Batch(series, one, one, torch.eye(2, 3)[None])
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.eval()(batch)
    assert counter.get_total_flops() == found.total.flops


def test_a_layer_costs_what_its_products_cost():
    found = work(measure(small(), size_m=(160, 160), dates={"s2": 1}).parts)
    tokens, dim, pixels = 16, 8, 16 * 16
    layer = 2 * tokens * (12 * dim**2 + 2 * tokens * dim)
    assert found["encoders.s2"] == 2 * pixels * 10 * dim + 2 * layer


def test_weights_are_counted_without_being_made():
    found = {part.name: part for part in measure(small()).parts}
    assert found["lifts.s2"].parameters == 8 * 12 + 12
    assert found["lifts.s2"].entries == 2 and found["lifts.s2"].bytes == 4 * (8 * 12 + 12)
    assert sum(part.parameters for part in found.values()) == measure(small()).total.parameters


@pytest.mark.parametrize(
    ("name", "known"),
    [
        (
            "skysense_v1",
            {
                "encoders.hr": (655_079_632, 483),
                "encoders.s2": (302_738_432, 292),
                "lifts.s1": (46_182_400, 2),
                "fusion": (305_195_008 + 365 * 2816, 292),  # and the date table
            },
        ),
        ("skysense_pp", {"total": (1_809_455_265, 1570)}),
    ],
)
def test_the_released_sizes_have_the_released_numbers(name, known):
    found = measure(load_model(f"models/{name}"), size_m=(160, 160), dates={"s2": 1, "s1": 1})
    sizes = {size.name: (size.parameters, size.entries) for size in (*found.parts, found.total)}
    assert known.items() <= sizes.items()


def test_prototypes_count_as_if_every_region_had_been_seen():
    section = ModelSection.model_validate({**SMALL, "prototypes": {"regions": 64, "per_region": 10}}, strict=False)
    found = measure(section, size_m=(160, 160)).parts[-1]
    assert (found.name, found.parameters, found.bytes) == ("prototypes", 0, 64 * 10 * 16 * 4)


def test_ground_that_no_encoder_step_divides_and_unknown_modalities_are_refused():
    with pytest.raises(GridError, match="multiples of 40 m"):
        measure(small(), size_m=(100, 160))
    with pytest.raises(RecipeError, match="--dates s1=2: the model has hr, s2, each with 1 date or more"):
        measure(small(), dates={"s1": 2})
