"""A small SkySense++: prompts, completion, fusion and label decoder as one model."""

from dataclasses import replace

import pytest
import torch

from skysense_cli.core.batch import Batch, Prompt, SeriesBatch, Target
from skysense_cli.core.cells import Dated, filled
from skysense_cli.core.completion import Completion
from skysense_cli.core.encoders.swin_v2 import SwinV2
from skysense_cli.core.encoders.vit import ViT
from skysense_cli.core.fusions.temporal import Temporal
from skysense_cli.core.heads.in_context import InContext
from skysense_cli.core.losses import agreement, reconstruction
from skysense_cli.core.model import Lift, NoGeoContext, SkySense
from skysense_cli.core.prompting import PromptedEncoder

CHANNELS, SIDES, WIDTH, WORDS = {"hr": 3, "s2": 4, "s1": 2}, {"hr": 64, "s2": 16, "s1": 16}, 16, 5


def make_model(**options):
    """hr at stride 8, s2 and s1 at stride 4: 8 x 8 cells, one of them 8 px of hr and 2 px of the others."""
    torch.manual_seed(0)
    encoders = {
        "hr": SwinV2(channels=3, dim=8, depths=(1, 2), heads=(2, 2), window=4),
        "s2": ViT(channels=4, dim=8, depth=2, heads=2, size=16, class_position=False),
        "s1": ViT(channels=2, dim=8, depth=2, heads=2, size=16, class_position=False),
    }
    prompted = {m: PromptedEncoder(e, m, vocabulary=WORDS - 1, merge_after={"hr": 2, "s2": 1, "s1": 1}) for m, e in encoders.items()}
    lifts = {m: Lift(e.tap_channels[-1], WIDTH, 1 if m == "hr" else 2) for m, e in prompted.items()}
    fusion = Temporal(WIDTH, depth=2, heads=2, dim=8, dates=options.pop("dates", False))
    completion = Completion(WIDTH, tuple(encoders), codes=12, dim=6, hidden=6)
    model = SkySense(prompted, lifts, fusion, NoGeoContext(), anchor="hr", completion=completion, **options)
    return model.eval(), InContext(model.spec, WORDS, width=8, pool_scales=(1, 2)).eval()


def make_batch(count=2, dates=1, absent=(), seed=0, prompt=True):
    generator = torch.Generator().manual_seed(seed)
    series = {}
    for m, channels in CHANNELS.items():
        present = torch.full((count, dates), m not in absent)
        shape = (count, dates, channels, SIDES[m], SIDES[m])
        valid = present[..., None, None].expand(-1, -1, *shape[3:])
        series[m] = SeriesBatch(torch.randn(shape, generator=generator), torch.full((count, dates), 40), present, valid)
    labels = torch.randint(0, WORDS, (count, 64, 64), generator=generator)
    hidden = torch.rand(count, 4, 4, generator=generator) < 0.5
    frame = torch.eye(2, 3).expand(count, 2, 3)
    shown = Prompt(labels, hidden) if prompt else None
    return Batch(series, torch.zeros(count, dtype=torch.int64), torch.arange(count), frame, Target(raster=labels), shown)


def scores(model, head, batch):
    with torch.no_grad():
        return head(model(batch))


@pytest.mark.parametrize("absent", [("s2",), ("s1",), ("s2", "s1")])
def test_skipping_an_absent_modality_gives_the_same_bits_as_computing_it(absent, monkeypatch):
    model, head = make_model()
    batch = make_batch(absent=absent)
    skipped = scores(model, head, batch)
    runs = []

    def computed(m, series, prompt, size, wanted, encode=model._encode):
        """As the published model does: whatever stands in the place of an absent image runs through its encoder."""
        shown = encode(m, replace(series, present=torch.ones_like(series.present)), prompt, size, True)
        runs.append(m)
        return shown

    monkeypatch.setattr(model, "_encode", computed)
    assert scores(model, head, batch).equal(skipped)
    assert runs == list(CHANNELS)


def test_what_stands_in_the_place_of_an_absent_image_does_not_matter():
    model, head = make_model()
    batch = make_batch(absent=("s2",))
    other = replace(batch.series["s2"], pixels=torch.full_like(batch.series["s2"].pixels, 7))
    dropped = {m: series for m, series in batch.series.items() if m != "s2"}
    expected = scores(model, head, batch)
    assert scores(model, head, replace(batch, series={**batch.series, "s2": other})).equal(expected)
    assert scores(model, head, replace(batch, series=dropped)).equal(expected)


def test_an_absent_modality_is_seen_as_imagined_and_a_present_one_as_it_is():
    model, _ = make_model()
    batch = make_batch()
    lacking = batch.series["s1"].present.clone()
    lacking[1] = False
    batch = replace(
        batch,
        series={**batch.series, "s1": replace(batch.series["s1"], present=lacking, valid=lacking[..., None, None].expand(-1, -1, 16, 16))},
    )
    with torch.no_grad():
        features, whole = model(batch), model(make_batch())
    torch.testing.assert_close(features.modal["s1"][0], whole.modal["s1"][0], atol=1e-6, rtol=0)
    assert features.modal["s1"][1, 0].equal(features.completed.features["s1"][1])
    assert not features.modal["s1"][1].equal(whole.modal["s1"][1])
    assert features.present["s1"].all() and features.seen["s1"].all()
    assert features.completed.present["s1"].tolist() == [True, False]


def test_an_absent_anchor_hands_its_imagined_map_to_the_head():
    model, head = make_model()
    with torch.no_grad():
        features = model(make_batch(absent=("hr",)))
    assert features.pyramid[-1][:, 0].equal(features.completed.features["hr"])
    assert (features.pyramid[0] == 0).all()
    assert torch.isfinite(head(features)).all()


def test_several_dates_are_imagined_from_their_mean():
    model, _ = make_model()
    batch = make_batch(dates=3, absent=("s1",))
    with torch.no_grad():
        features = model(batch)
    torch.testing.assert_close(features.completed.given["s2"], features.modal["s2"].mean(dim=1), atol=1e-6, rtol=1e-5)
    assert features.present["s1"].tolist() == [[True, False, False]] * 2


def test_an_imagined_date_is_seen_where_another_modality_is():
    seen = torch.tensor([[[[True, False]]]])
    part = Dated(torch.ones(1, 1, 2, 1, 2), torch.tensor([[9]]), torch.tensor([[True]]), seen)
    gone = Dated(torch.zeros(1, 1, 2, 1, 2), torch.tensor([[9]]), torch.tensor([[False]]), torch.zeros_like(seen))
    full = filled({"a": part, "b": gone}, {"a": torch.full((1, 2, 1, 2), 5.0), "b": torch.full((1, 2, 1, 2), 7.0)})
    assert full["a"].features.unique().item() == 1 and full["b"].features.unique().item() == 7
    assert full["b"].seen.equal(seen) and full["a"].seen.equal(seen)
    assert (full["a"].days.item(), full["b"].days.item()) == (9, -1)


def test_hidden_labels_do_not_matter_and_visible_ones_do():
    model, head = make_model()
    batch = make_batch()
    hidden = torch.zeros(2, 4, 4, dtype=torch.bool)
    hidden[:, 2:] = True  # the query below, as in one-shot prediction
    labels = batch.prompt.labels.clone()
    base = scores(model, head, replace(batch, prompt=Prompt(labels, hidden)))
    below, above = labels.clone(), labels.clone()
    below[:, 32:] = 0
    above[:, :32] = 0
    assert scores(model, head, replace(batch, prompt=Prompt(below, hidden))).equal(base)
    assert not scores(model, head, replace(batch, prompt=Prompt(above, hidden))).equal(base)


def test_no_prompt_is_a_prompt_with_everything_hidden():
    model, head = make_model()
    batch = make_batch()
    everything = Prompt(batch.prompt.labels, torch.ones(2, 4, 4, dtype=torch.bool))
    expected = scores(model, head, replace(batch, prompt=everything))
    torch.testing.assert_close(scores(model, head, replace(batch, prompt=None)), expected, atol=1e-6, rtol=0)


def test_only_the_named_modalities_are_dated():
    shifted = make_batch()
    shifted = replace(shifted, series={**shifted.series, "s1": replace(shifted.series["s1"], days=torch.full((2, 1), 300))})
    for dated, same in ((("s2",), True), (None, False), (("s1",), False)):
        model, head = make_model(dates=True, dated=dated)
        assert scores(model, head, shifted).equal(scores(model, head, make_batch())) == same


def test_the_first_level_has_the_channels_of_both_halves():
    model, _ = make_model()
    assert model.spec.pyramid == (16, 16)  # 8 of the image and 8 of the labels, then merged


def test_a_small_model_learns_to_fill_hidden_labels():
    model, head = make_model()
    batch = make_batch(absent=("s1",))
    labels = (batch.series["hr"].pixels[:, 0].mean(dim=1) > 0).long() + 1
    labels = labels[:, ::8, ::8].repeat_interleave(8, 1).repeat_interleave(8, 2)
    batch = replace(batch, prompt=Prompt(labels, batch.prompt.hidden), target=Target(raster=labels))
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    found = []
    model.train()
    for _ in range(12):
        features = model(batch)
        named = {
            **head.loss(head(features), batch.target),
            "rec": reconstruction(features.completed),
            "agree": agreement(features.completed),
        }
        loss = sum(named.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.8 * found[0]
    untouched = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    # of s1 nothing ran; class tokens are in the released weights without a use
    assert {name.split(".")[1] for name in untouched if not name.endswith("cls_token")} == {"s1"}
