"""The product's modules against vectors made by the published ones; each file's metadata says how it was made."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from skysense_cli.core.encoders.swin_v2 import SwinV2
from skysense_cli.core.encoders.vit import ViT
from skysense_cli.core.features import FeatureSpec
from skysense_cli.core.fusions.temporal import Temporal
from skysense_cli.core.heads.upernet import UPerNet
from skysense_cli.core.model import Lift

ARCHITECTURES = {  # embed_dims, depths, num_heads, extra_norm_every_n_blocks
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24), 0),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24), 0),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32), 0),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48), 0),
    "huge": (352, (2, 2, 18, 2), (8, 16, 32, 64), 6),
    "giant": (512, (2, 2, 42, 4), (16, 32, 64, 128), 6),
}
ARCHITECTURES |= {name[0]: sizes for name, sizes in ARCHITECTURES.items()}


class Vector:
    """One file: the module it came from, its constructor and cases, and tensors in full precision."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.module = metadata["module"]
        self.constructor = json.loads(metadata["constructor"])
        self.cases = json.loads(metadata["cases"])
        self.tensors = {name: t.float() if t.is_floating_point() else t.long() for name, t in tensors.items()}

    def state(self) -> dict[str, Tensor]:
        return {name.removeprefix("state."): t for name, t in self.tensors.items() if name.startswith("state.")}

    def one(self, name: str) -> Tensor:
        return self.tensors[name]

    def several(self, prefix: str) -> dict[str, Tensor]:
        """Tensors below `prefix`, by what follows it."""
        return {name.removeprefix(prefix + "."): t for name, t in self.tensors.items() if name.startswith(prefix + ".")}


class Settings:
    """Constructor arguments that must all be taken, so that an unknown one fails the test."""

    def __init__(self, values: dict) -> None:
        self.values = dict(values)

    def take(self, name: str, default=None):
        return self.values.pop(name, default)

    def expect(self, **fixed: object) -> None:
        """These arguments, where given, must have the value that the product always has."""
        for name, value in fixed.items():
            assert self.take(name, value) == value, f"{name} is not {value}: the product has no such module"

    def done(self) -> None:
        assert not self.values, f"arguments that this test does not understand: {self.values}"


def load(module: torch.nn.Module, state: dict[str, Tensor], unused: tuple[str, ...] = (), built: tuple[str, ...] = ()) -> None:
    """Load strictly: only `unused` state may be left over, and only `built` parameters may be missing."""
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert [name for name in unexpected if not name.startswith(unused or "-")] == []
    assert sorted(missing) == sorted(built)
    module.eval()


def swin(vector: Vector, case: dict) -> dict[str, Tensor]:
    settings = Settings({**vector.constructor, **case["overrides"]})
    arch = settings.take("arch")
    if isinstance(arch, str):
        dim, depths, heads, extra = ARCHITECTURES[arch]
    else:
        dim, depths, heads, extra = (arch[k] for k in ("embed_dims", "depths", "num_heads", "extra_norm_every_n_blocks"))
    size, window = settings.take("img_size", 256), settings.take("window_size", 8)
    positions = settings.take("use_abs_pos_embed", False)
    stages = settings.take("stage_cfgs", {})
    assert stages in ({}, {"downsample_cfg": {"is_post_norm": False}}, {"downsample_cfg": {"is_post_norm": True}})
    encoder = SwinV2(
        channels=settings.take("in_channels", 3),
        dim=dim,
        depths=tuple(depths),
        heads=tuple(heads),
        window=window if isinstance(window, int) else tuple(window),
        patch=settings.take("patch_size", 4),
        extra_norm_every=extra,
        drop_path=settings.take("drop_path_rate", 0.1),
        pad_small_map=settings.take("pad_small_map", False),
        absolute_position=(size if isinstance(size, int) else tuple(size)) if positions else 0,
        merge_norm="post" if stages.get("downsample_cfg", {}).get("is_post_norm", True) else "pre",
        levels=tuple(settings.take("out_indices", (len(depths) - 1,))),
        interpolate=settings.take("interpolate_mode", "bicubic"),
        pretrained_windows=tuple(settings.take("pretrained_window_sizes", [0] * len(depths))),
    )
    settings.expect(drop_rate=0.0)
    settings.done()
    load(encoder, vector.state())
    return {str(i): level for i, level in enumerate(encoder(vector.one(f"in.{case['name']}.x")))}


def vit(vector: Vector, case: dict) -> dict[str, Tensor]:
    settings = Settings({**vector.constructor, **case["overrides"]})
    size, final_norm, with_class = settings.take("img_size", 224), settings.take("final_norm", False), settings.take("with_cls_token", True)
    settings.expect(qkv_bias=True, act_cfg={"type": "GELU"}, drop_rate=0.0, patch_norm=False)
    encoder = ViT(
        channels=settings.take("in_channels", 3),
        dim=settings.take("embed_dims"),
        depth=settings.take("num_layers"),
        heads=settings.take("num_heads"),
        patch=settings.take("patch_size"),
        size=size if isinstance(size, int) else tuple(size),
        taps=tuple(settings.take("out_indices")),
        mlp=settings.take("mlp_ratio", 4),
        drop_path=settings.take("drop_path_rate", 0.0),
        norm_eps=settings.take("norm_cfg", {"type": "LN"}).get("eps", 1e-5),
        final_norm=final_norm,
        class_token=with_class,
        interpolate=settings.take("interpolate_mode", "bicubic"),
        resize="length",
    )
    with_vector = settings.take("output_cls_token", False)
    settings.done()
    load(encoder, vector.state(), unused=() if final_norm else ("ln1.",))
    pixels = vector.one(f"in.{case['name']}.x")
    if not with_vector:
        return {str(i): level for i, level in enumerate(encoder(pixels))}
    pairs = enumerate(encoder.with_class(pixels))
    return {f"{i}.{k}": part for i, pair in pairs for k, part in enumerate(pair)}


def lift(vector: Vector, case: dict) -> dict[str, Tensor]:
    settings = Settings({**vector.constructor, **case.get("overrides", {})})
    module = Lift(settings.take("in_dim"), settings.take("out_dim"), settings.take("up_scale"))
    settings.done()
    load(module, vector.state())
    return {"": module(vector.one(f"in.{case['name']}.x"))}


def fusion(vector: Vector, case: dict) -> dict[str, Tensor]:
    settings = Settings({**vector.constructor, **case["overrides"]})
    settings.expect(qkv_bias=True, norm_cfg={"type": "LN"}, act_cfg={"type": "GELU"}, num_fcs=2, norm_eval=False, drop_rate=0.0)
    module = Temporal(
        settings.take("input_dims"),
        depth=settings.take("num_layers"),
        heads=settings.take("num_heads"),
        dim=settings.take("embed_dims"),
        mlp=settings.take("mlp_ratio", 4),
        drop_path=settings.take("drop_path_rate", 0.0),
    )
    extra, only_extra = settings.take("with_cls_token", True), settings.take("output_cls_token", True)
    settings.done()
    load(module, vector.state(), built=("date_embedding",))
    wanted = dict(case["forward_kwargs"])
    two, every = wanted.pop("require_two", False), wanted.pop("require_feat", False)
    assert not wanted, f"forward arguments that this test does not understand: {wanted}"
    inputs = vector.one(f"in.{case['name']}.inputs")
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


def uperhead(vector: Vector, case: dict) -> dict[str, Tensor]:
    settings = Settings({**vector.constructor, **case.get("overrides", {})})
    channels = settings.take("in_channels")
    settings.expect(in_index=list(range(len(channels))), norm_cfg={"type": "SyncBN", "requires_grad": True}, align_corners=False)
    spec = FeatureSpec(pyramid=tuple(channels[:-1]), strides=(), fused_mm=channels[-1], fused=channels[-1], cell_px=1)
    head = UPerNet(
        spec,
        settings.take("num_classes"),
        width=settings.take("channels"),
        pool_scales=tuple(settings.take("pool_scales", (1, 2, 3, 6))),
        dropout=settings.take("dropout_ratio", 0.1),
    )
    settings.done()
    load(head, vector.state())
    levels = vector.several(f"in.{case['name']}.inputs")
    return {"logits_no_bf16": head.decode([levels[str(i)] for i in range(len(levels))])}


FILES = {
    "swinv2_plain": ("lib.models.backbones.swin_v2.SwinTransformerV2", swin),
    "swinv2_abspos": ("lib.models.backbones.swin_v2.SwinTransformerV2", swin),
    "vit_plain": ("lib.models.backbones.vit.VisionTransformer", vit),
    "uphead": ("lib.models.heads.up_head.UPHead", lift),
    "fusion_encoder": ("lib.models.necks.transformer_encoder.TransformerEncoder", fusion),
    "uperhead": ("lib.models.heads.uper_head.UPerHead", uperhead),
}
ROUNDED = "logits"  # made with a rounding to bfloat16 that the product leaves out


@pytest.mark.parametrize("name", FILES)
def test_every_case_of_a_published_module_comes_out_the_same(name, parity_dir):
    vector = Vector(parity_dir / f"{name}.safetensors")
    module, run = FILES[name]
    assert vector.module == module
    assert vector.cases
    for case in vector.cases:
        outputs = f"out.{case['name']}"
        expected = vector.several(outputs) or {"": vector.one(outputs)}
        expected.pop(ROUNDED, None)
        with torch.no_grad():
            found = run(vector, case)
        assert sorted(found) == sorted(expected), case["name"]
        for part, value in expected.items():
            torch.testing.assert_close(
                found[part], value, atol=1e-4, rtol=1e-5, msg=lambda text, at=f"{name} {case['name']} {part}": f"{at}: {text}"
            )
