"""Vectors made by the published modules: how their files are read, run and compared.

A test file `test_parity*.py` names the modules it covers, as literal keys, in `RUNNERS`: module name -> function
(vector, case) -> outputs by name. A test of it that takes `vector` then runs once per file of such a module, whatever the
file is called:

    def test_every_case_comes_out_the_same(vector):
        vector.check(RUNNERS[vector.module])

Runners are called without gradient; one that needs it enters `torch.enable_grad()`.
"""

import ast
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from skysense_cli.core.encoders.swin_v2 import SwinV2
from skysense_cli.core.encoders.vit import ViT

Runner = Callable[["Vector", dict], dict[str, Tensor]]


ARCHITECTURES = {  # embed_dims, depths, num_heads, extra_norm_every_n_blocks
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24), 0),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24), 0),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32), 0),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48), 0),
    "huge": (352, (2, 2, 18, 2), (8, 16, 32, 64), 6),
    "giant": (512, (2, 2, 42, 4), (16, 32, 64, 128), 6),
}
ARCHITECTURES |= {name[0]: sizes for name, sizes in ARCHITECTURES.items()}


class Settings:
    """Constructor arguments that must all be taken, so that an unknown one fails the test."""

    def __init__(self, values: dict) -> None:
        self.values = dict(values)

    def take(self, name: str, default=None):
        return self.values.pop(name, default)

    def expect(self, **fixed: object) -> None:
        """These arguments, where given, must have the value that the product always has."""
        for name, value in fixed.items():
            found = self.take(name, value)
            assert found == value, f"the product has no such module: {name} is {found}, it is always {value}"

    def ignore(self, *names: str) -> None:
        """These arguments change nothing in eval mode with given weights."""
        for name in names:
            self.take(name)

    def norm(self, default: float = 1e-5) -> float:
        """The epsilon of `norm_cfg`, which must ask for a layer norm."""
        config = Settings(self.take("norm_cfg", {"type": "LN"}))
        config.expect(type="LN")
        config.ignore("requires_grad")
        eps = config.take("eps", default)
        config.done()
        return eps

    def done(self) -> None:
        assert not self.values, f"arguments that this test does not understand: {self.values}"

    def swin(self) -> SwinV2:
        """The Swin Transformer V2 of these arguments."""
        arch = self.take("arch", "tiny")
        if isinstance(arch, str):
            dim, depths, heads, extra = ARCHITECTURES[arch]
        else:
            dim, depths, heads, extra = (arch[k] for k in ("embed_dims", "depths", "num_heads", "extra_norm_every_n_blocks"))
        size, window = self.take("img_size", 256), self.take("window_size", 8)
        positions = self.take("use_abs_pos_embed", False)
        eps = self.norm()
        assert eps == 1e-5, f"the product has no such module: Swin's norms have eps {eps}, it is always 1e-5"
        self.expect(drop_rate=0.0, act_cfg={"type": "GELU"})
        self.ignore("drop_path_rate", "frozen_stages", "norm_eval", "with_cp", "init_cfg")
        levels = self.take("out_indices", (3,))
        levels = [levels] if isinstance(levels, int) else levels
        return SwinV2(
            channels=self.take("in_channels", 3),
            dim=dim,
            depths=tuple(depths),
            heads=tuple(heads),
            window=window if isinstance(window, int) else tuple(window),
            patch=self.take("patch_size", 4),
            extra_norm_every=extra,
            pad_small_map=self.take("pad_small_map", False),
            absolute_position=(size if isinstance(size, int) else tuple(size)) if positions else 0,
            merge_norm=merge_norm_of(self.take("stage_cfgs") or {}),
            levels=tuple(levels),
            interpolate=self.take("interpolate_mode", "bicubic"),
            pretrained_windows=tuple(self.take("pretrained_window_sizes", [0] * len(depths))),
        )

    def vit(self, *, class_token: bool, class_position: bool = True) -> ViT:
        """The ViT of these arguments."""
        size = self.take("img_size", 224)
        self.expect(qkv_bias=True, act_cfg={"type": "GELU"}, drop_rate=0.0, patch_norm=False, num_fcs=2, use_ccd=False)
        self.ignore("norm_eval", "drop_path_rate", "attn_drop_rate", "with_cp", "init_cfg", "frozen_stages", "ccd_num", "pretrained")
        depth = self.take("num_layers", 12)
        taps = self.take("out_indices", -1)
        taps = [taps] if isinstance(taps, int) else taps
        return ViT(
            channels=self.take("in_channels", 3),
            dim=self.take("embed_dims", 768),
            depth=depth,
            heads=self.take("num_heads", 12),
            patch=self.take("patch_size", 16),
            size=size if isinstance(size, int) else tuple(size),
            taps=tuple(depth - 1 if tap == -1 else tap for tap in taps),
            mlp=self.take("mlp_ratio", 4),
            norm_eps=self.norm(),
            final_norm=self.take("final_norm", False),
            class_token=class_token,
            class_position=class_position,
            interpolate=self.take("interpolate_mode", "bicubic"),
            resize="length",
        )


class Vector:
    """One file: the module it came from, its constructor and cases, and tensors in full precision."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.name, self.module = path.stem, metadata["module"]
        self.constructor = json.loads(metadata["constructor"])
        self.cases = json.loads(metadata["cases"])
        whole = (torch.uint8, torch.int8, torch.int16, torch.int32)
        self.tensors = {
            name: t.float() if t.is_floating_point() else t.long() if t.dtype in whole else t  # int64 and bool stay
            for name, t in tensors.items()
        }

    def settings(self, case: dict) -> Settings:
        """The constructor's arguments in this case."""
        return Settings({**self.constructor, **case.get("overrides", {}), **case.get("constructor", {})})

    def state(self, prefix: str = "") -> dict[str, Tensor]:
        """The state dict, or the part of it below `prefix` by what follows that."""
        return self.several(f"state.{prefix}".rstrip("."))

    def given(self, case: dict) -> dict[str, Tensor]:
        """The inputs of the case by name."""
        return self.several(f"in.{case['name']}")

    def several(self, prefix: str) -> dict[str, Tensor]:
        """Tensors below `prefix`, by what follows it."""
        return {name.removeprefix(prefix + "."): t for name, t in self.tensors.items() if name.startswith(prefix + ".")}

    def load(self, module: nn.Module, unused: tuple[str, ...] = (), built: tuple[str, ...] = (), renamed: Mapping[str, str] | None = None):
        """`module` in eval mode with this file's state, names as in `renamed` (theirs -> ours) where they differ.

        Only state whose name begins as one of `unused` may be left over, and only `built` parameters may be missing.
        """
        state = {(renamed or {}).get(name, name): tensor for name, tensor in self.state().items()}
        missing, unexpected = module.load_state_dict(state, strict=False)
        assert [name for name in unexpected if not name.startswith(unused or ("-",))] == []
        assert sorted(missing) == sorted(built)
        return module.eval()

    def check(self, run: Runner, *, left_out: Iterable[str] = (), loose: Mapping[str, float] | None = None) -> None:
        """Run every case; outputs must have the same names and values.

        left_out: names of outputs that the product does not have      loose: name -> absolute tolerance instead of 1e-4
        """
        assert self.cases
        for case in self.cases:
            outputs = f"out.{case['name']}"
            expected = {name: value for name, value in self.several(outputs).items() if name not in left_out}
            if outputs in self.tensors:
                expected[""] = self.tensors[outputs]
            with torch.no_grad():
                found = run(self, case)
            assert sorted(found) == sorted(expected), f"{self.name} {case['name']}"
            for part, value in expected.items():
                at = f"{self.name} {case['name']} {part}"
                atol = (loose or {}).get(part, 1e-4) if value.is_floating_point() else 0
                torch.testing.assert_close(
                    found[part], value, atol=atol, rtol=1e-5 if atol else 0, check_dtype=False, msg=lambda text, at=at: f"{at}: {text}"
                )


def merge_norm_of(stages) -> str:
    """Where patch merging is normalised, from one configuration for all stages or one per stage."""
    found = set()
    for stage in stages if isinstance(stages, list) else [stages]:
        assert set(stage) <= {"downsample_cfg"}, f"stage_cfgs that this test does not understand: {stage}"
        merging = dict(stage.get("downsample_cfg", {}))
        found.add("post" if merging.pop("is_post_norm", True) else "pre")
        assert not merging, f"downsample_cfg that this test does not understand: {merging}"
    assert len(found) == 1, f"the product has no such module: stages with different merging {stages}"
    return found.pop()


def module_of(path: Path) -> str:
    """The published module that a file of vectors was made with."""
    with safe_open(path, "pt") as file:
        return file.metadata()["module"]


@pytest.fixture
def every_vector_module(parity_dir: Path) -> dict[str, str]:
    """File -> published module, of every file of vectors."""
    return {str(path.relative_to(parity_dir)): module_of(path) for path in sorted(parity_dir.rglob("*.safetensors"))}


@pytest.fixture
def covered() -> dict[str, str]:
    """Published module -> the test file beside this one that has a runner for it."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("test_parity*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RUNNERS":
                found.update({ast.literal_eval(key): path.name for key in node.value.keys})
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`vector`: one test per file whose module the test file has a runner for; all files if it has no RUNNERS."""
    if "vector_file" not in metafunc.fixturenames:
        return
    folder = metafunc.config.skysense_parity_dir  # type: ignore[attr-defined]
    files = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else [None]  # None: the fixture skips or fails
    runners = getattr(metafunc.module, "RUNNERS", None)
    chosen = [path for path in files if path is None or runners is None or module_of(path) in runners]
    metafunc.parametrize("vector_file", chosen, ids=[str(path.relative_to(folder).with_suffix("")) if path else "none" for path in chosen])


@pytest.fixture
def vector(vector_file: Path | None, parity_dir: Path) -> Vector:
    """A file of vectors made by a published module."""
    assert vector_file is not None, f"{parity_dir} was not there when the tests were collected"
    return Vector(vector_file)
