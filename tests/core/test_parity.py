"""The product's modules against vectors made by the published ones; each file's metadata says how it was made."""

import torch
from torch import Tensor

from skysense_cli.core.features import FeatureSpec
from skysense_cli.core.fusions.temporal import Temporal
from skysense_cli.core.heads.upernet import UPerNet
from skysense_cli.core.model import Lift


def swin(vector, case) -> dict[str, Tensor]:
    settings = vector.settings(case)
    encoder = settings.swin()
    settings.done()
    vector.load(encoder)
    return {str(i): level for i, level in enumerate(encoder(vector.given(case)["x"]))}


def vit(vector, case) -> dict[str, Tensor]:
    settings = vector.settings(case)
    with_vector = settings.take("output_cls_token", False)
    encoder = settings.vit(class_token=settings.take("with_cls_token", True))
    settings.done()
    vector.load(encoder, unused=() if hasattr(encoder, "ln1") else ("ln1.",))
    pixels = vector.given(case)["x"]
    if not with_vector:
        return {str(i): level for i, level in enumerate(encoder(pixels))}
    pairs = enumerate(encoder.with_class(pixels))
    return {f"{i}.{k}": part for i, pair in pairs for k, part in enumerate(pair)}


def lift(vector, case) -> dict[str, Tensor]:
    settings = vector.settings(case)
    module = Lift(settings.take("in_dim"), settings.take("out_dim"), settings.take("up_scale"))
    settings.done()
    assert len(module.decoder), f"the product has no such module: a lift that changes nothing is no convolution ({vector.constructor})"
    vector.load(module)
    return {"": module(vector.given(case)["x"])}


def fusion(vector, case) -> dict[str, Tensor]:
    settings = vector.settings(case)
    eps = settings.norm()
    assert eps == 1e-5, f"the product has no such module: the fusion's norms have eps {eps}, it is always 1e-5"
    settings.expect(qkv_bias=True, act_cfg={"type": "GELU"}, num_fcs=2, drop_rate=0.0)
    settings.ignore("norm_eval", "drop_path_rate", "attn_drop_rate", "with_cp", "init_cfg", "batch_first")
    module = Temporal(
        settings.take("input_dims"),
        depth=settings.take("num_layers"),
        heads=settings.take("num_heads"),
        dim=settings.take("embed_dims"),
        mlp=settings.take("mlp_ratio", 4),
        dates=False,
    )
    extra, only_extra = settings.take("with_cls_token", True), settings.take("output_cls_token", True)
    settings.done()
    vector.load(module)
    wanted = dict(case.get("forward_kwargs", {}))
    two, every = wanted.pop("require_two", False), wanted.pop("require_feat", False)
    assert not wanted, f"forward arguments that this test does not understand: {wanted}"
    inputs = vector.given(case)["inputs"]
    if extra and only_extra and not two and not every:
        count = inputs.shape[:2]
        return {"": module(inputs, torch.full(count, -1), torch.ones(count, dtype=torch.bool))}

    # the product never needs the whole sequence: run its layers by hand
    x = module.porj_linear(inputs)
    x = torch.cat([module.cls_token.expand(len(x), -1, -1), x], dim=1) if extra else x
    outputs = []
    for layer in module.layers:
        x = layer(x)
        outputs.append(x)
    asked = x if not only_extra else x[:, :2] if two else x[:, 0]
    return {"0": asked, **{f"1.{i}": x for i, x in enumerate(outputs)}} if every else {"": asked}


def uperhead(vector, case) -> dict[str, Tensor]:
    settings = vector.settings(case)
    channels = settings.take("in_channels")
    norm = settings.take("norm_cfg", {"type": "SyncBN"})
    assert norm["type"] in ("BN", "SyncBN") and norm.get("eps", 1e-5) == 1e-5, f"the product has no such module: norm_cfg {norm}"
    chosen = settings.take("in_index", range(len(channels)))
    settings.expect(align_corners=False, act_cfg={"type": "ReLU"}, input_transform="multiple_select")
    settings.ignore("dropout_ratio", "loss_decode", "ignore_index", "init_cfg", "sampler")
    spec = FeatureSpec(pyramid=tuple(channels[:-1]), strides=(), fused_mm=channels[-1], fused=channels[-1], cell_px=1)
    classes, width, scales = (settings.take(name) for name in ("num_classes", "channels", "pool_scales"))
    settings.done()
    given = vector.several(f"in.{case['name']}.inputs")
    levels = [given[str(i)] for i in chosen]
    found = {}
    for name, rounded in (("logits_no_bf16", False), ("logits", True)):
        head = vector.load(UPerNet(spec, classes, width=width, pool_scales=tuple(scales or (1, 2, 3, 6)), rounded=rounded))
        found[name] = head.decode(levels)
    return found


RUNNERS = {
    "lib.models.backbones.swin_v2.SwinTransformerV2": swin,
    "lib.models.backbones.vit.VisionTransformer": vit,
    "lib.models.heads.up_head.UPHead": lift,
    "lib.models.necks.transformer_encoder.TransformerEncoder": fusion,
    "lib.models.heads.uper_head.UPerHead": uperhead,
}
ROUNDED = {"logits": 5e-3}  # rounded to bfloat16 on the way, where the last bit of float32 can tip a step


def test_every_case_of_a_published_module_comes_out_the_same(vector):
    vector.check(RUNNERS[vector.module], loose=ROUNDED)


def test_every_file_of_vectors_has_a_runner(every_vector_module, covered):
    assert every_vector_module
    assert {name: module for name, module in every_vector_module.items() if module not in covered} == {}
