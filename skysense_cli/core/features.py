"""What an encoder hands to a head, with tensors (`Features`) and without (`FeatureSpec`)."""

from dataclasses import dataclass

from torch import Tensor

from skysense_cli.core.completion import Completed


@dataclass(frozen=True, eq=False)
class Features:
    """All stages of `SkySense.forward`; always the same fields, whatever the model has.

    modal: modality -> F_i, (B, T_i, d, h, w)                                  SkySense Eq. 1
    fused_mm: F_fus^mm, (B, d', h, w)                                          SkySense Eq. 2
    fused: F_fus, (B, d'', h, w); d'' = 2 d' with geo-context, else d'         SkySense Eq. 3
    pyramid: of the anchor modality, fine to coarse, each (B, T, C_k, H_k, W_k)
    present: modality -> (B, T_i) bool, as in the batch, and the one date that was imagined where a modality is absent
    seen: modality -> (B, T_i, h, w) bool; present and at least a quarter of the cell is valid
    completed: how absent modalities were imagined; None without a completion
    A cell that no date of any modality sees has zeros in fused_mm and fused.
    """

    modal: dict[str, Tensor]
    fused_mm: Tensor
    fused: Tensor
    pyramid: list[Tensor]
    present: dict[str, Tensor]
    seen: dict[str, Tensor]
    anchor: str
    completed: Completed | None = None

    @property
    def seen_any(self) -> Tensor:
        """(B, h, w) bool: some date of some modality sees the cell."""
        found = [flags.any(dim=1) for flags in self.seen.values()]
        total = found[0]
        for flags in found[1:]:
            total = total | flags
        return total


@dataclass(frozen=True)
class FeatureSpec:
    """The shapes a head is built from.

    pyramid: channels of each level, fine to coarse      strides: anchor pixels per position of each level
    fused_mm, fused: channels                            cell_px: anchor pixels per shared cell (may be < 1)
    """

    pyramid: tuple[int, ...]
    strides: tuple[int, ...]
    fused_mm: int
    fused: int
    cell_px: float
