"""A detector whose answers are known: it reads boxes that are painted into the bands of a Sentinel-2 scene.

Bands of a painted pixel: number of the box, how many pixels it has, w, h, angle, from the mean of its pixels to its
centre (x, y), class, score, and which row and column of the box the pixel is: so it sees that a tile is flipped, and says
where the box lies on that. Of a box that is cut by the tile's edge it says what a detector would: the box around what it
sees.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from skysense_cli.core.features import Features, FeatureSpec
from skysense_cli.core.heads import Found, Head
from skysense_cli.sensors.sentinel2_l2a import sensor

ZERO = 2000  # what is added to the numbers; the ground has less
W_H, ANGLE, OFFSET, SCORE = 64, 4000, 1000, 10_000  # counts of a pixel, a radian, a pixel, 1
ROW = 200  # counts of a row of the box; a column has 1
MEAN, STD = (torch.tensor(values).view(-1, 1, 1) for values in (sensor.mean, sensor.std))


class Probe(Head):
    """Reads painted boxes."""

    output = "vector"
    same_iou = 0.3

    def __init__(self, spec: FeatureSpec, classes: int, /) -> None:
        super().__init__()

    def forward(self, features: Features) -> Tensor:
        return F.pixel_shuffle(features.pyramid[-1][:, 0], 4)

    def boxes(self, raw: Tensor, size: tuple[int, int]) -> list[Found]:
        assert raw.shape[-2:] == size
        return [self._read((image * STD + MEAN).round().long()) for image in raw]

    def _read(self, bands: Tensor) -> Found:
        boxes, scores, ids = [], [], []
        for number in bands[0][bands[0] >= ZERO].unique().tolist():
            y, x = (bands[0] == number).nonzero(as_tuple=True)
            _, count, w, h, angle, dx, dy, kind, score = (bands[:9, y[0], x[0]] - ZERO).tolist()
            if len(x) == count:
                row, column = (bands[9, y, x] - ZERO) // ROW, (bands[9, y, x] - ZERO) % ROW
                right = 1 if x[column.argmax()] > x[column.argmin()] else -1
                down = 1 if y[row.argmax()] > y[row.argmin()] else -1
                place = [
                    x.double().mean().item() + 0.5 + right * (dx / OFFSET - 10),
                    y.double().mean().item() + 0.5 + down * (dy / OFFSET - 10),
                ]
                boxes.append([*place, w / W_H, h / W_H, right * down * (angle / ANGLE - 4)])
            else:
                left, right, top, bottom = x.min().item(), x.max().item() + 1, y.min().item(), y.max().item() + 1
                boxes.append([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top, 0.0])
            scores.append(score / SCORE)
            ids.append(kind)
        return Found(torch.tensor(boxes, dtype=torch.float64).view(-1, 5), torch.tensor(scores), torch.tensor(ids, dtype=torch.long))


build = Probe
