"""What a file of weights is, told by its keys: the published SkySense files, our bundles; and its keys in our words.

A tensor has a *place* (`encoders.s2`, `lifts.s2`, `fusion`, `completion`, `geo_context`, `head`) and a *leaf*, its name
inside that place. Prompted and plain encoders share the leaves of the plain one, so either can start from the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from skysense_cli import sensors
from skysense_cli.data.dataset import Input
from skysense_cli.engine.checkpoint_file import WeightsFile
from skysense_cli.errors import BundleError

Family = Literal["skysense_v1", "skysense_pp"]
Address = tuple[str, str]  # place, leaf

PROJECTION = "patch_embed.projection.weight"
VOCABULARY = "vocabulary_token"  # what only a prompted encoder has
WRAPPER = re.compile(rf"(mask_token|{VOCABULARY}|vocabulary_weight|norm_attn|attn\d+)(\..*)?")  # leaves of a prompted encoder's own
DATES: Address = ("fusion", "date_embedding")
HR_GSD_M, SENTINEL_GSD_M = 0.3125, 10.0

# a file of one part: what one of its keys must begin with -> the place, {} being the modality
PARTS = (
    ("porj_linear.", "fusion"),
    ("psp_modules.", "head"),
    ("vae_", "completion"),
    ("decoder.0.", "lifts.{}"),
    ("patch_embed.projection.", "encoders.{}"),
)
# (modality, channels of its patch embedding) -> sensor and bands
BANDS: dict[tuple[str, int], tuple[str, tuple[str, ...]]] = {
    ("hr", 3): ("rgb", ("R", "G", "B")),
    ("hr", 4): ("rgbnir", ("R", "G", "B", "N")),
    ("s2", 10): ("sentinel2_l2a", ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")),
    ("s2", 4): ("sentinel2_l2a", ("B02", "B03", "B04", "B08")),
    ("s1", 2): ("sentinel1_grd", ("VV", "VH")),
}
OURS = re.compile(r"model\.(encoders\.\w+|lifts\.\w+|fusion|completion|geo_context)\.(.+)|(head)\.(.+)", re.DOTALL)
THEIRS = re.compile(r"backbone_(\w+?)\.(.+)|head_(\w+?)\.(.+)|modality_vae\.vae_(.+)|fusion\.(.+)", re.DOTALL)


@dataclass(frozen=True)
class Named:
    """A key of the file in our words. renamed: the leaf differs from the file's own"""

    key: str
    place: str
    leaf: str
    renamed: bool = False

    @property
    def address(self) -> Address:
        """Where it belongs."""
        return self.place, self.leaf


@dataclass(frozen=True, eq=False)
class Recognised:
    """A file whose keys are understood.

    what: in words      family: the published model it belongs to, None where its files are alike (lifts, fusion)
    strange: keys without a place      inputs: modality -> the bands its patch embedding was trained on
    """

    file: WeightsFile
    what: str
    family: Family | None
    names: tuple[Named, ...]
    strange: tuple[str, ...] = ()
    inputs: dict[str, Input] = field(default_factory=dict)

    @property
    def places(self) -> tuple[str, ...]:
        """The parts it holds, in the order of its keys. A date table alone is no fusion: the Sentinel-2 file carries one."""
        return tuple(dict.fromkeys(named.place for named in self.names if named.address != DATES))

    def prompted(self, place: str) -> bool:
        """Whether the encoder there has a label vocabulary."""
        return any(named.address == (place, VOCABULARY) for named in self.names)


def recognise(file: WeightsFile, modality: str | None = None) -> Recognised:
    """What `file` is. modality: whose weights a file of one part holds, where its keys cannot tell.

    Raises BundleError when no key is known, the modality stays open, or two keys mean the same tensor.
    """
    stripped = {key: _strip(key) for key in file.tensors}
    _refuse_doubles(file.path, stripped)
    if any(OURS.fullmatch(name) for name in stripped.values()):
        named = {key: ours(name) for key, name in stripped.items()}
    elif any(THEIRS.fullmatch(name) for name in stripped.values()):
        named = {key: _theirs(name) for key, name in stripped.items()}
    else:
        place = _part(file, stripped, modality)
        named = {key: _inside(place, name) for key, name in stripped.items()}
    names = tuple(_named(key, address) for key, address in named.items() if address is not None)
    strange = tuple(key for key, found in named.items() if found is None)
    return _described(file, names, strange)


def ours(name: str) -> Address | None:
    """Place and leaf of a name of our state dicts, with `model.` or `head.` before it; None if it is none.

    The leaves of an encoder inside a prompted one are those of the encoder.
    """
    match = OURS.fullmatch(name)
    if match is None:
        return None
    place, leaf = (match[1], match[2]) if match[1] else (match[3], match[4])
    return place, leaf.removeprefix("encoder.") if place.startswith("encoders.") else leaf


def known_input(modality: str, channels: int, where: str) -> Input:
    """The bands that an encoder of so many channels sees. Raises BundleError where no rule is known."""
    if (modality, channels) not in BANDS:
        known = ", ".join(f"{name} {count}" for name, count in BANDS)
        raise BundleError(
            f"{where}: {modality} has {channels} channels, and no rule says which bands they are (known: {known}); "
            "convert from a bundle, whose bands are written down"
        )
    sensor, bands = BANDS[modality, channels]
    mean, std = sensors.get(sensor).statistics(bands)
    return Input(sensor, bands, HR_GSD_M if modality == "hr" else SENTINEL_GSD_M, mean, std)


def _strip(key: str) -> str:
    """The key without the prefixes of wrappers around the whole model."""
    while key.startswith("module."):
        key = key.removeprefix("module.")
    return key.removeprefix("backbone.")


def _refuse_doubles(path: Path, stripped: Mapping[str, str]) -> None:
    seen: dict[str, str] = {}
    for key, name in stripped.items():
        name = name.replace(".Wqkv.", ".in_proj_")
        if name in seen:
            raise BundleError(f"{path}: {seen[name]} and {key} are the same tensor, {name}; a file must hold each once")
        seen[name] = key


def _theirs(name: str) -> Address | None:
    """Place and leaf of a key of the assembled published model."""
    match = THEIRS.fullmatch(name)
    if name == "ctpe":
        return DATES
    if match is None:
        return None
    encoder, encoder_leaf, head, head_leaf, completion, fusion = match.groups()
    if encoder:
        return f"encoders.{encoder}", encoder_leaf
    if head:
        return ("head", head_leaf) if head == "rec_hr" else (f"lifts.{head}", head_leaf)
    return ("completion", f"vaes.{completion}") if completion else ("fusion", fusion)


def _inside(place: str, name: str) -> Address:
    """Place and leaf of a key of a file that holds one part."""
    if name == "ctpe":
        return DATES
    return place, f"vaes.{name.removeprefix('vae_')}" if place == "completion" and name.startswith("vae_") else name


def _named(key: str, address: Address) -> Named:
    place, leaf = address
    wanted = leaf.replace(".Wqkv.", ".in_proj_")
    return Named(key, place, wanted, wanted != leaf or (address == DATES and not key.endswith(DATES[1])))


def _part(file: WeightsFile, stripped: Mapping[str, str], modality: str | None) -> str:
    """The place of a file of one part."""
    names = list(stripped.values())
    for beginning, place in PARTS:
        if any(name.startswith(beginning) for name in names):
            return place.format(modality or _modality(file, stripped)) if "{}" in place else place
    shown = ", ".join(list(file.tensors)[:3])
    raise BundleError(
        f"{file.path}: none of its {len(names)} keys is known (it begins with {shown}); known are the published files of SkySense and "
        "SkySense++, with or without the prefixes module. and backbone., and our bundles"
    )


def _modality(file: WeightsFile, stripped: Mapping[str, str]) -> str:
    """Whose encoder or lift it is: by its layers and channels, else by the file's name."""
    names = list(stripped.values())
    if any(name.startswith("stages.") for name in names):
        return "hr"
    channels = next((file.tensors[key].shape[1:2] for key, name in stripped.items() if name == PROJECTION), ())
    fits = [name for name, count in BANDS if (count,) == tuple(channels) and name != "hr"]
    words = set(re.split(r"[\W_]+", file.path.stem.lower()))
    fits = fits or [name for name in ("hr", "s2", "s1") if name in words]
    if len(fits) != 1:
        what = f"a patch embedding of {channels[0]} channels" if channels else "a lift, which is alike for s2 and s1"
        raise BundleError(f"{file.path}: holds {what}; say whose it is, e.g. s2={file.path}")
    return fits[0]


def _described(file: WeightsFile, names: tuple[Named, ...], strange: tuple[str, ...]) -> Recognised:
    places = list(dict.fromkeys(named.place for named in names if named.address != DATES))
    encoders = [place for place in places if place.startswith("encoders.")]
    own = {named.address for named in names}
    if file.spec is not None:
        return Recognised(file, f"bundle ({file.spec.stage})", None, names, strange, dict(file.spec.inputs))
    prompted = [place for place in encoders if (place, VOCABULARY) in own]
    plus = bool(prompted) or "completion" in places or "head" in places
    family: Family | None = "skysense_pp" if plus else "skysense_v1" if encoders or DATES in own else None
    inputs = {}
    for named in names:
        shape = file.tensors[named.key].shape
        if named.leaf == PROJECTION and named.place in encoders and len(shape) == 4:
            name = named.place.removeprefix("encoders.")
            inputs[name] = known_input(name, shape[1], f"{file.path}: {named.key}")
    return Recognised(file, _words(places, bool(prompted), DATES in own), family, names, strange, inputs)


def _words(places: Iterable[str], prompted: bool, dated: bool) -> str:
    """What a file holds, e.g. `encoders of hr, s2 (prompted) + lift of s2 + fusion`."""
    groups: dict[str, list[str]] = {}
    for place in places:
        part, _, modality = place.partition(".")
        groups.setdefault(part, []).append(modality)
    found = []
    for part, modalities in groups.items():
        name = part.removesuffix("s") if len(modalities) == 1 and modalities[0] else part
        of = f" of {', '.join(modalities)}" if modalities[0] else ""
        found.append(f"{name}{of}{' (prompted)' if part == 'encoders' and prompted else ''}")
    return " + ".join([*found, *(["date table"] if dated else [])])


def sources_of(paths: Iterable[str | Path]) -> list[tuple[Path, str | None]]:
    """(file, modality or None) of arguments such as `a.pth`, `s2=b.pth`, or a folder of files (a bundle is one source)."""
    found: list[tuple[Path, str | None]] = []
    for given in paths:
        match = re.fullmatch(r"([a-z][a-z0-9_]*)=(.+)", str(given))
        path = Path(match[2] if match and not Path(given).exists() else given)
        if path.is_dir() and not (path / "bundle.json").is_file():
            inside = sorted(item for item in path.iterdir() if item.suffix in (".pth", ".pt", ".ckpt", ".safetensors", ".bin"))
            if not inside:
                raise BundleError(f"{path}: neither a bundle nor a folder with files of weights (.pth, .pt, .ckpt, .bin, .safetensors)")
            found += [(item, None) for item in inside]
        else:
            found.append((path, match[1] if match and path != Path(given) else None))
    return found
