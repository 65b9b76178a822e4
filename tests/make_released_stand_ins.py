"""Files with the names, keys and shapes of the published SkySense and SkySense++ weights, but no values: a few kB each.

    python tests/make_released_stand_ins.py FOLDER [KEYS.json]

makes `FOLDER/v1` (six files), `FOLDER/pp` (one checkpoint) and `FOLDER/pp_parts` (one file per part) to try `skysense weights inspect`
on. Every tensor is a single zero that is repeated (stride 0). KEYS.json lists keys, shapes and types of the published modules;
by default it is looked for beside the parity vectors (SKYSENSE_PARITY_DIR).
"""

import argparse
import json
import os
import sys
from pathlib import Path

import torch

SHARED = Path(__file__).parents[2] / "shared" / "reference" / "parity"
MODULES = ("backbone_hr", "backbone_s2", "backbone_s1", "head_s2", "head_s1", "fusion", "head_rec_hr", "modality_vae")
PLAIN = {"hr": "plain_swinv2_huge(out_indices=0-3)", "s2": "plain_vit_l_s2(img_size=64)", "s1": "plain_vit_l_s1(img_size=64)"}
ONE = {name: torch.zeros(1, dtype=getattr(torch, name)) for name in ("float32", "float16", "int64")}


def keys_file():
    """Where the list of keys lies."""
    return Path(os.environ.get("SKYSENSE_PARITY_DIR", SHARED)).parent / "upstream_state_dict_keys.json"


def stand_in(shape, dtype="float32"):
    """A tensor of this shape that takes four bytes."""
    return ONE[dtype].expand(shape) if shape else ONE[dtype][0]


def module(keys, name):
    """The state dict of one published module."""
    found = next(part[name] for part in (keys, *(value for value in keys.values() if isinstance(value, dict))) if name in part)
    return {key: stand_in(fact["shape"], fact["dtype"]) for key, fact in found["state_dict"].items()}


def prefixed(prefix, state):
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def fused_names(state):
    """With the names of attention weights that a fused implementation leaves behind."""
    return {key.replace(".in_proj_", ".Wqkv."): tensor for key, tensor in state.items()}


def v1(keys):
    """File name -> content, as SkySense was published."""
    hr = module(keys, PLAIN["hr"]) | {"mask_token": stand_in((1, 1, 352))}
    return {
        "skysense_model_backbone_hr.pth": prefixed("backbone.", hr),
        "skysense_model_backbone_s2.pth": module(keys, PLAIN["s2"]) | {"ctpe": stand_in((1, 365, 2816))},
        "skysense_model_backbone_s1.pth": module(keys, PLAIN["s1"]),
        "skysense_model_head_s2.pth": prefixed("backbone.", module(keys, "head_s2")),
        "skysense_model_head_s1.pth": {"state_dict": module(keys, "head_s1")},
        "skysense_model_fusion.pth": prefixed("backbone.", module(keys, "fusion")),
    }


def assembled(keys):
    """The state dict of SkySense++ as a whole, 1570 entries."""
    return {key: tensor for name in MODULES for key, tensor in prefixed(f"{name}.", module(keys, name)).items()}


def pp(keys):
    """File name -> content, as SkySense++ was published: a trainer's checkpoint, and files of its parts."""
    whole = fused_names(prefixed("module.", assembled(keys)))
    moments = {0: {"step": torch.tensor(30_000.0), "exp_avg": stand_in((352,)), "exp_avg_sq": stand_in((352,))}}
    trainer = {
        "optimizer": {"state": moments, "param_groups": [{"lr": 0.0, "params": [0]}]},
        "lr_scheduler": {"last_epoch": 30_000, "base_lrs": [2e-4]},
        "current_iteration": 30_000, "current_epoch": 1, "best_metric_value": None,
    }  # fmt: skip
    return {"skysensepp_release.ckpt": {"model": whole, **trainer}}


def pp_parts(keys):
    """File name -> content: SkySense++ in one file per part."""
    names = {"hr": "backbone_hr", "s2": "backbone_s2", "s1": "backbone_s1", "head_s2": "head_s2", "head_s1": "head_s1",
             "fusion": "fusion", "rec": "head_rec_hr", "vae": "modality_vae"}  # fmt: skip
    return {f"skysensepp_release_{word}.pth": fused_names(module(keys, name)) for word, name in names.items()}


def write(folder, contents):
    """Save each content under its name; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        torch.save(content, folder / name)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("keys", type=Path, nargs="?", default=keys_file())
    asked = parser.parse_args()
    known = json.loads(asked.keys.read_text())
    for name, contents in (("v1", v1(known)), ("pp", pp(known)), ("pp_parts", pp_parts(known))):
        write(asked.folder / name, contents)
        sys.stdout.write(f"{asked.folder / name}: {', '.join(contents)}\n")
