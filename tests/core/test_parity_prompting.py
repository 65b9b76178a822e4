"""Prompted encoders and the mapping of label colours against vectors made by the published ones."""

import torch
from torch import Tensor

from skysense_cli.core.prompting import PromptedEncoder
from skysense_cli.core.vocabulary import pack_rgb, to_vocabulary

HR = "hr"
RELEASED_BRIDGES = ((256, 16), (512, 16), (1024, 16))  # of the Swin Transformer, where `_attn` names no others
RELEASED_HEADS = 16  # of the ViT's
BRIDGES = ("attn1.", "attn2.", "attn3.", "norm_attn.")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def swin(vector, case) -> dict[str, Tensor]:
    settings = vector.settings(case)
    bridged = settings.take("use_attn", False)
    bridges = settings.take("_attn") or RELEASED_BRIDGES
    return outputs(
        vector,
        case,
        settings,
        bridges=tuple(tuple(sizes) for sizes in bridges) if bridged else (),
        half_positions=settings.take("with_cls_pos", False),
        encoder=settings.swin(),
    )


def vit(vector, case) -> dict[str, Tensor]:
    settings = vector.settings(case)
    bridged = settings.take("use_attn", False)
    heads = settings.take("_attn_heads") or RELEASED_HEADS
    settings.expect(with_cls_token=False, output_cls_token=False)
    final_norm = settings.take("final_norm", False)
    if not bridged:
        settings.values["final_norm"] = final_norm  # the released model leaves it out where there are bridges
    encoder = settings.vit(class_token=False, class_position=False)
    return outputs(vector, case, settings, bridges=((0, heads),) * 3 if bridged else (), half_positions=False, encoder=encoder)


def outputs(vector, case, settings, *, bridges, half_positions, encoder) -> dict[str, Tensor]:
    merge_after = settings.take("merge_stage", 0)
    model = PromptedEncoder(
        encoder,
        HR,
        vocabulary=settings.take("vocabulary_size", 128),
        merge_after={HR: merge_after},
        bridges={HR: bridges},
        half_positions=half_positions,
    )
    settings.done()
    plain = set(encoder.state_dict())
    unused = (*(() if bridges else BRIDGES), *(() if hasattr(encoder, "ln1") else ("ln1.",)))
    vector.load(model, unused=unused, renamed={name: f"encoder.{name}" for name in plain})
    given = vector.given(case)
    pixels = given["hr_img"] if "hr_img" in given else given["x"]
    labels = given["anno_img"] if "anno_img" in given else given["y"]
    maps = model(pixels, labels, given["mask"].bool() if "mask" in given else None)
    doubled = [channels != single for channels, single in zip(model.tap_channels, encoder.tap_channels, strict=True)]
    return {str(i): side_by_side(level) if double else level for i, (level, double) in enumerate(zip(maps, doubled, strict=True))}


def side_by_side(level: Tensor) -> Tensor:
    """(N, 2 C, h, w) -> (N, C, h, 2 w), as the released modules give it."""
    return torch.cat(level.chunk(2, dim=1), dim=3)


def mapping(vector, case) -> dict[str, Tensor]:
    """All pictures of the case as one sample: the released mapping ranks the colours of the whole batch."""
    given = vector.given(case)
    assert set(given) == {"targets", "vocabulary_order"}, f"inputs that this test does not understand: {sorted(given)}"
    scaled = (given["targets"] * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255
    codes = pack_rgb(scaled.long())  # fractions are cut off, as released
    ids, tables = to_vocabulary(codes.flatten(0, 1)[None], case["vocabulary_size"], order=given["vocabulary_order"])
    return {"mapped": ids[0].view(codes.shape), "idx_2_color": torch.tensor(sorted(tables[0].items()))}


RUNNERS = {
    "lib.models.backbones.swin_v2.SwinTransformerV2MSL": swin,
    "lib.models.backbones.vit.VisionTransformerMSL": vit,
    "SkySensePP.convert_target": mapping,
}


def test_every_case_of_a_published_module_comes_out_the_same(vector):
    vector.check(RUNNERS[vector.module])
