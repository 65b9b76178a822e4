"""What an absent modality would have looked like, read from the code books of those that are there (SkySense++, Methods)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from skysense_cli.errors import GridError, RecipeError

SHARPNESS = 9.0  # factor of the logits before the softmax over codes
SHRINK = 4  # cells of the feature map per cell of the logits, along each side


@dataclass(frozen=True, eq=False)
class Completed:
    """Features of every modality, and all that the losses compare; each dict by modality, in the order of the names.

    features: (B, d, h, w), a sample's own where the modality is present, else what was decoded
    decoded: (B, d, h, w), and logits: (B, codes, h/4, w/4), of the modalities for which they were computed only.
    Rows of logits of samples that lack the modality are computed from what `given` holds there; the losses leave them out.
    given: (B, d, h, w) and present: (B,) bool, what came in; zeros and False for a modality that did not.
    """

    features: dict[str, Tensor]
    decoded: dict[str, Tensor]
    logits: dict[str, Tensor]
    given: dict[str, Tensor]
    present: dict[str, Tensor]


class SoftCodebook(nn.Module):
    """An autoencoder of feature maps whose middle is a soft choice of codes, at a quarter of the resolution.

    width: channels of the maps      codes, dim: rows and columns of the code book      hidden: channels of the convolutions
    Parameter names are those of the released weights.
    """

    def __init__(self, width: int, codes: int, dim: int, hidden: int) -> None:
        super().__init__()
        for number in range(1, 5):
            self.register_parameter(f"gamma_{number}", nn.Parameter(torch.full((1, hidden, 1, 1), 0.001)))
        self.codebook = nn.Embedding(codes, dim)
        self.activation = nn.LeakyReLU(0.01)
        self.conv1 = nn.Conv2d(width, hidden, 5, padding=2)
        self.enc_block1 = _block(hidden)
        self.enc_block2 = _block(hidden)
        self.logit_conv = nn.Conv2d(hidden, codes, 1)
        self.conv2 = nn.Conv2d(dim, hidden, 3, padding=1)
        self.dec_block1 = _block(hidden)
        self.dec_block2 = _block(hidden)
        self.rec_conv = nn.Conv2d(hidden, width, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(cast(Tensor, module.bias))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, width, h, w) -> the same shape: what the codes keep of the maps."""
        return self.decode(self.encode(maps))

    def encode(self, maps: Tensor) -> Tensor:
        """(B, width, h, w) -> logits (B, codes, h/4, w/4)."""
        x = self.activation(self.conv1(maps))
        x = functional.avg_pool2d(x + self.gamma_1 * self.enc_block1(x), 2)
        x = functional.avg_pool2d(x + self.gamma_2 * self.enc_block2(x), 2)
        return self.logit_conv(x)

    def shares(self, logits: Tensor) -> Tensor:
        """(B, codes, h, w) -> the share of each code in a cell, of sum 1 over the codes, in float32."""
        return torch.softmax(logits.float() * SHARPNESS, dim=1)

    def decode(self, logits: Tensor) -> Tensor:
        """Logits (B, codes, h/4, w/4) -> maps (B, width, h, w), from the mean of the code book that the shares weight."""
        book = self.codebook.weight
        mixed = self.shares(logits).to(book.dtype).flatten(2).transpose(1, 2) @ book  # (B, codes, h, w) -> (B, h*w, dim)
        x = mixed.transpose(1, 2).unflatten(2, logits.shape[2:])  # (B, h*w, dim) -> (B, dim, h, w)
        x = _doubled(self.activation(self.conv2(x)))
        x = _doubled(x + self.gamma_3 * self.dec_block1(x))
        return self.rec_conv(x + self.gamma_4 * self.dec_block2(x))


class Completion(nn.Module):
    """Fills in the feature map of every modality that a sample lacks, from the codes of those that it has.

    width: channels d of the feature maps      names: the modalities, each with an autoencoder and a code book of its own
    codes: entries of a code book      dim: length of an entry      hidden: channels inside the autoencoders

    The missing modality is decoded from the *sum* of the logits of those present: the released code's choice, where
    agreeing modalities sharpen each other. A sample without any modality is decoded from equal shares of all codes.
    """

    def __init__(self, width: int, names: Sequence[str], /, *, codes: int = 8192, dim: int = 256, hidden: int = 256) -> None:
        super().__init__()
        for name, value in (("codes", codes), ("dim", dim), ("hidden", hidden)):
            if value < 1:
                raise RecipeError(f"completion: {name} {value} must be 1 or more")
        self.codes = codes
        self.vaes = nn.ModuleDict({name: SoftCodebook(width, codes, dim, hidden) for name in names})

    def forward(self, given: dict[str, Tensor], present: dict[str, Tensor]) -> Completed:
        """The features of all modalities of `names`, present or not.

        given: (B, d, h, w) by modality, h and w multiples of 4      present: (B,) bool by modality
        A modality that `given` lacks is absent in all samples. In training everything is computed, so that all ranks have
        gradients for the same parameters. Otherwise only what is needed: a modality that no sample has is not encoded,
        one that all samples have is not decoded, and where nothing is decoded nothing is encoded.
        Raises GridError for another number of cells.
        """
        given, present = self._all(given, present)
        everything = self.training and torch.is_grad_enabled()
        missing = [name for name in given if everything or not present[name].all()]
        useful = [name for name in given if everything or (missing and present[name].any())]
        logits = {name: self._vae(name).encode(given[name]) for name in useful}
        decoded = {name: self._vae(name).decode(self.choose(name, logits, given[name], present)) for name in missing}
        features = {
            name: torch.where(_wide(present[name]), maps, decoded[name].to(maps.dtype)) if name in decoded else maps
            for name, maps in given.items()
        }
        return Completed(features, decoded, logits, given, present)

    def choose(self, name: str, logits: dict[str, Tensor], maps: Tensor, present: dict[str, Tensor]) -> Tensor:
        """The logits (B, codes, h/4, w/4) to decode `name` from: its own, else the sum of those of the modalities present.

        logits: as in `Completed`; zeros where one lacks      maps: (B, d, h, w), for its size
        """
        b, _, h, w = maps.shape
        total = torch.zeros(b, self.codes, h // SHRINK, w // SHRINK, device=maps.device)
        for other, values in logits.items():
            if other != name:
                total = total + torch.where(_wide(present[other]), values.float(), 0)
        return torch.where(_wide(present[name]), logits[name].float(), total) if name in logits else total

    def _all(self, given: dict[str, Tensor], present: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Both inputs with an entry for each name; raises GridError where the cells do not divide."""
        unknown = [name for name in given if name not in self.vaes]
        if unknown or not given:
            raise ValueError(f"completion: given {list(given)}, made for {list(self.vaes)}")
        for name, maps in given.items():
            h, w = maps.shape[-2:]
            if h % SHRINK or w % SHRINK:
                fits = " or ".join(f"{_multiple(h, up)} x {_multiple(w, up)}" for up in (0, 1) if up or min(h, w) >= SHRINK)
                raise GridError(
                    f"completion: the feature map of {name!r} has {h} x {w} cells, both must be multiples of {SHRINK};"
                    f" choose tiles or crops of {fits} cells"
                )
        like = next(iter(given.values()))
        nowhere = torch.zeros(len(like), dtype=torch.bool, device=like.device)
        maps_of = {name: given[name] if name in given else torch.zeros_like(like) for name in self.vaes}
        return maps_of, {name: present[name] if name in given else nowhere for name in self.vaes}

    def _vae(self, name: str) -> SoftCodebook:
        return cast(SoftCodebook, self.vaes[name])


def _block(hidden: int) -> nn.Sequential:
    layers = [nn.Conv2d(hidden, hidden, 3, padding=1), nn.LeakyReLU(0.01), nn.Conv2d(hidden, hidden, 3, padding=1), nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers)


def _doubled(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, 2h, 2w), bilinear, in float32 whatever the autocast."""
    return functional.interpolate(x.float(), scale_factor=2, mode="bilinear", align_corners=False).to(x.dtype)


def _wide(flags: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return flags[:, None, None, None]


def _multiple(cells: int, up: int) -> int:
    """The largest multiple of SHRINK not above `cells`, or with `up` 1 the least one not below."""
    return (cells + up * (SHRINK - 1)) // SHRINK * SHRINK


build = Completion
