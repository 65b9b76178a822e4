"""A simulated landscape with known truth: river, lake, forest, fields, roads, a town and its villages.

Everything is drawn at 2.5 m from one seed. The shapes follow what one sees from above: parcels are the
cells of a warped Voronoi diagram, cut into strips along one direction each; tracks and hedges run between
parcels, grass margins between fields; forest keeps to the hills, grassland to the wet ground.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from skysense_cli.demo.noise import borders, distance_to, fractal, hashed, near, numbered, turned
from skysense_cli.demo.spectra import CROPS, NAMES, SURFACES, Growth

PIXEL_M = 2.5
MARGIN_PX = 16  # the world reaches 40 m beyond the scenes, so that shifted scenes are full
WISH = {"cereal": 0.31, "rapeseed": 0.16, "maize": 0.25, "beet": 0.14, "grassland": 0.14}  # shares of the fields


@dataclass(frozen=True, eq=False)
class World:
    """The ground at 2.5 m, row 0 in the north.

    surface: (H, W) uint8, index into NAMES      field: (H, W) int32, number of the field or patch: one growth each
    growth: of every field                       kind: (fields,) uint8, index into NAMES
    relief: (H, W) float32 relative variation of cover and brightness inside a field, mean 0
    grain: (H, W) float32 fine texture, mean 1 (crowns, rows, roofs)       height_m: (H, W) trees and houses
    """

    surface: np.ndarray
    field: np.ndarray
    growth: Growth
    kind: np.ndarray
    relief: np.ndarray
    grain: np.ndarray
    height_m: np.ndarray

    @property
    def land_cover(self) -> np.ndarray:
        """(H, W) uint8 index into spectra.CLASSES at 2.5 m."""
        return np.array([SURFACES[name].land_cover for name in NAMES], dtype=np.uint8)[self.surface]


def make_world(size_px: int, seed: int) -> World:
    """The landscape of `size_px` x `size_px` pixels of 2.5 m plus MARGIN_PX on each side."""
    rng = np.random.default_rng(seed)
    n = size_px + 2 * MARGIN_PX
    x, y = np.meshgrid(np.arange(n, dtype=np.float32), np.arange(n, dtype=np.float32))
    hills = fractal((n, n), 500, rng, 2.6)  # what is high and dry, what is low and wet
    parcel, angle, to_border = _parcels(x, y, rng)
    lines = _lines(n, rng)
    fields, along, across = _fields(parcel, angle, x, y, hills)
    urban = _urban(x, y, n, rng)
    surface = _open_land(fields, lines, hills, rng)
    _draw_edges(surface, parcel, fields, to_border, rng)
    _draw_forest(surface, parcel, hills, urban, rng)
    height = np.where(np.isin(surface, (_id("broadleaf"), _id("conifer"))), 14, 0).astype(np.float32)
    roof = _draw_town(surface, height, urban, x, y, rng)
    _draw_lines(surface, height, lines)
    water = (surface == _id("river")) | (surface == _id("lake"))
    height[water] = 0
    field = numbered(fields, surface)
    count = int(field.max()) + 1
    kind = np.zeros(count, dtype=np.uint8)
    kind[field.ravel()] = surface.ravel()
    relief, grain = _texture(surface, along, across, roof, height, rng)
    return World(surface, field, _growth(count, rng), kind, relief, grain, height)


def _id(name: str) -> int:
    return NAMES.index(name)


def _parcels(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(parcel number, direction of its strips in radians, distance to the parcel's border in pixels)."""
    n = x.shape[0]
    side = 150
    grid = np.mgrid[-1 : n // side + 2, -1 : n // side + 2].reshape(2, -1).T * side
    seeds = grid + rng.uniform(-0.46, 0.46, grid.shape) * side
    warp_x, warp_y = fractal(x.shape, 220, rng, 2.6) * 16, fractal(x.shape, 220, rng, 2.6) * 16
    points = np.stack([(y + warp_y).ravel(), (x + warp_x).ravel()], axis=1)
    distance, nearest = cKDTree(seeds).query(points, k=2, workers=2)
    gap = np.linalg.norm(seeds[nearest[:, 0]] - seeds[nearest[:, 1]], axis=1)
    to_border = (distance[:, 1] ** 2 - distance[:, 0] ** 2) / (2 * gap)
    trend = rng.uniform(0, np.pi)
    angle = trend + rng.normal(0, 0.28, len(seeds)) + np.where(rng.random(len(seeds)) < 0.3, np.pi / 2, 0)
    parcel = nearest[:, 0].reshape(x.shape)
    return parcel, angle.astype(np.float32)[parcel], to_border.astype(np.float32).reshape(x.shape)


def _lines(n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Distances in pixels to the river, the lake's shore (negative inside) and the roads."""
    at = np.linspace(-0.1, 1.1, 30)
    bend = 0.045 * np.sin(at * 21 + 1) + 0.03 * np.sin(at * 37 + 2.2) + 0.05 * np.sin(at * 9)
    river = np.stack([at, 0.80 - 0.42 * at + bend], axis=1) * n
    main = np.array([(-0.1, 0.22), (0.2, 0.25), (0.42, 0.36), (0.62, 0.30), (0.8, 0.34), (1.1, 0.20)]) * n
    second = np.array([(0.36, 1.1), (0.38, 0.8), (0.46, 0.6), (0.50, 0.42), (0.58, 0.3), (0.57, 0.12), (0.66, -0.1)]) * n
    third = np.array([(-0.1, 0.93), (0.2, 0.90), (0.38, 0.80), (0.62, 0.84), (0.86, 0.72), (1.1, 0.76)]) * n
    y, x = np.mgrid[:n, :n].astype(np.float32) / n
    wobble = 0.012 * fractal((n, n), 260, rng, 2.8)
    lake = (np.hypot((x - 0.80) / 1.35, y - 0.615) - 0.052 + wobble) * n
    shape = (n, n)
    roads = {"main": distance_to(main, shape), "second": distance_to(second, shape), "third": distance_to(third, shape)}
    return {"river": distance_to(river, shape), "lake": lake, **roads}


def _fields(parcel: np.ndarray, angle: np.ndarray, x: np.ndarray, y: np.ndarray, hills: np.ndarray) -> tuple[np.ndarray, ...]:
    """(field number, coordinate along the rows, coordinate across them), the latter in pixels."""
    along, across = turned(x, y, angle)
    across = across + 5 * hills  # rows bend with the slope
    width = 26 + 44 * hashed(parcel, seed=11)
    length = 90 + 110 * hashed(parcel, seed=12)
    strip = np.floor(across / width)
    shift = length * hashed(parcel, strip, seed=13)
    piece = np.floor((along + shift) / length)
    return numbered(parcel, strip - strip.min(), piece - piece.min()), along, across


def _urban(x: np.ndarray, y: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Urban density: above 0 is built-up; 1 in the centre of the town. Places: the town, its works, three villages."""
    wobble = 0.16 * fractal((n, n), 160, rng, 2.2)
    places = ((0.57, 0.315, 0.125), (0.685, 0.275, 0.075), (0.15, 0.245, 0.042), (0.375, 0.81, 0.05), (0.90, 0.73, 0.035))
    density = [1 - np.hypot(x / n - px, y / n - py) / size for px, py, size in places]
    return np.max(density, axis=0) + wobble


def _open_land(fields: np.ndarray, lines: dict[str, np.ndarray], hills: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W) uint8 surfaces: a crop for every field; wet ground near the river is grassland."""
    count = int(fields.max()) + 1
    order = rng.permutation(count)
    cuts = np.cumsum([WISH[crop] for crop in CROPS]) * count
    crop = np.zeros(count, dtype=np.uint8)
    crop[order] = np.searchsorted(cuts, np.arange(count), side="right").clip(0, len(CROPS) - 1)
    wet = ndimage.mean(np.minimum(lines["river"], lines["lake"]), fields, np.arange(count)) < 38
    steep = ndimage.mean(hills, fields, np.arange(count)) > 0.85
    crop[wet | (steep & (rng.random(count) < 0.5))] = CROPS.index("grassland")
    return np.array([_id(name) for name in CROPS], dtype=np.uint8)[crop][fields]


def _draw_edges(surface: np.ndarray, parcel: np.ndarray, fields: np.ndarray, to_border: np.ndarray, rng: np.random.Generator) -> None:
    """Grass margins between fields, tracks between parcels, hedges along some of them."""
    surface[borders(fields)] = _id("track")
    ragged = 2.6 + 1.4 * fractal(surface.shape, 8, rng, 1.0)
    hedge = (to_border < 2 + ragged) & (hashed(parcel // 2, seed=21) < 0.3)
    surface[to_border < 1.3] = _id("track")
    surface[hedge & (to_border > 0.4)] = _id("broadleaf")


def _draw_forest(surface: np.ndarray, parcel: np.ndarray, hills: np.ndarray, urban: np.ndarray, rng: np.random.Generator) -> None:
    """Forest where it is high, with edges that follow parcels in part; stands of broadleaf and conifer, glades and small woods."""
    total, area = np.bincount(parcel.ravel(), hills.ravel()), np.bincount(parcel.ravel())
    mean = (total / np.maximum(area, 1))[parcel]
    score = 0.55 * mean + 0.45 * hills + 0.16 * fractal(surface.shape, 60, rng, 1.8)
    forest = (score > np.quantile(score, 0.80)) & (urban < -0.5)
    copse = (fractal(surface.shape, 40, rng, 2.4) > 2.55) & (urban < -0.5)
    stand = fractal(surface.shape, 110, rng, 2.0) + 0.25 * fractal(surface.shape, 10, rng, 1.2)
    surface[forest | copse] = _id("broadleaf")
    surface[forest & (stand > 0.05)] = _id("conifer")
    rides = borders(numbered(np.floor(np.add.outer(np.arange(len(hills)), 0.4 * np.arange(len(hills))) / 130)))
    surface[forest & near(rides, 1.2)] = _id("track")


def _draw_town(
    surface: np.ndarray, height: np.ndarray, urban: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Streets, lots with houses and gardens, halls in the works; returns the side of each roof (-1, 0, 1)."""
    n = len(surface)
    bend_x, bend_y = 7 * fractal((n, n), 260, rng, 2.8), 7 * fractal((n, n), 260, rng, 2.8)
    u, v = turned(x + bend_x, y + bend_y, 0.42)
    works = (np.abs(u - u[int(0.275 * n), int(0.685 * n)]) < 0.062 * n) & (np.abs(v - v[int(0.275 * n), int(0.685 * n)]) < 0.045 * n)
    town = urban > 0
    roof = np.zeros((n, n), dtype=np.float32)
    for inside, (lot_u, lot_v), lots, size, keep, floor in (
        (town & ~works, (7.0, 10.0), 5, (0.36, 0.34), 0.86, 6.0),  # houses, 17 x 25 m lots, five between two streets
        (town & works, (30.0, 24.0), 2, (0.38, 0.36), 0.95, 10.0),  # halls
    ):
        column, row = np.floor(u / lot_u), np.floor(v / lot_v)
        du, dv = u / lot_u - column - 0.5, v / lot_v - row - 0.5
        draw = [hashed(column, row, seed=number) for number in range(31, 37)]
        half_u, half_v = size[0] * (0.75 + 0.35 * draw[0]), size[1] * (0.7 + 0.4 * draw[1])
        centred = np.abs(du + 0.14 * (draw[2] - 0.5)) < half_u
        house = inside & centred & (np.abs(dv) < half_v) & (draw[3] < keep * np.clip(0.55 + urban, 0.4, 1))
        street = inside & (
            (np.mod(column, lots) == 0) & (np.abs(du + 0.5) * lot_u < 2.6) | (np.mod(row, 2) == 0) & (np.abs(dv + 0.5) * lot_v < 2.2)
        )
        paved = np.where(works, draw[2] < 0.75, urban > 0.75)
        ground = np.where(paved, np.where(works & (draw[5] < 0.3), _id("concrete"), _id("asphalt")), _id("garden"))
        surface[inside] = ground[inside]
        trees = inside & ~works & (fractal((n, n), 5, rng, 1.5) > 1.25)
        surface[trees], height[inside] = _id("broadleaf"), 0
        height[trees] = 7
        cover = np.where(
            works, np.where(draw[4] < 0.62, _id("painted metal"), _id("slate")), np.where(draw[4] < 0.68, _id("clay tiles"), _id("slate"))
        )
        surface[house], height[house] = cover[house], floor
        surface[street & ~house], height[street & ~house] = _id("asphalt"), 0
        roof[house] = np.sign(np.where(draw[5] < 0.5, du, dv))[house]
    return roof


def _draw_lines(surface: np.ndarray, height: np.ndarray, lines: dict[str, np.ndarray]) -> None:
    """Water with its trees, and the roads, which cross it on bridges."""
    bank = (lines["river"] < 11) & (lines["river"] > 6) & (np.mod(lines["main"] // 23, 3) > 0)
    surface[bank & ~np.isin(surface, (_id("asphalt"),))] = _id("broadleaf")
    height[bank] = 9
    surface[lines["river"] < 6.5] = _id("river")
    surface[lines["lake"] < 0] = _id("lake")
    for name, half in (("main", 2.4), ("second", 1.7), ("third", 1.7)):
        surface[lines[name] < half + 1.2] = _id("track")
        surface[lines[name] < half] = _id("asphalt")
        height[lines[name] < half + 1.2] = 0


def _texture(surface: np.ndarray, along: np.ndarray, across: np.ndarray, roof: np.ndarray, height: np.ndarray,
             rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(relief, grain) of World."""
    shape = surface.shape
    relief = 0.10 * fractal(shape, 70, rng, 1.6)
    rows = hashed(np.floor(across / 1.6).astype(np.int32), np.zeros(shape, np.int32), seed=41) - 0.5
    tramline = np.abs(np.mod(across, 9.6) - 4.8) < 0.8
    field = np.isin(surface, [_id(crop) for crop in CROPS])
    grain = 1 + 0.03 * rng.standard_normal(shape, dtype=np.float32)
    grain += np.where(field, 0.05 * rows - 0.07 * tramline, 0)
    crowns = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 1.1)
    crowns = crowns / crowns.std()
    lit = ndimage.sobel(crowns, axis=0) - 0.6 * ndimage.sobel(crowns, axis=1)
    trees = np.isin(surface, (_id("broadleaf"), _id("conifer")))
    grain += np.where(trees, 0.10 * crowns + 0.035 * lit, 0) + 0.16 * roof
    height += np.where(trees & (height > 0), 3.0 * crowns, 0)
    return relief.astype(np.float32), np.clip(grain, 0.3, 1.9).astype(np.float32)


def _growth(count: int, rng: np.random.Generator) -> Growth:
    return Growth(
        early=rng.normal(0, 7, count), vigour=np.clip(rng.normal(0.95, 0.09, count), 0.6, 1.1),
        soil=np.clip(rng.normal(1, 0.14, count), 0.65, 1.4), cut=rng.normal(138, 9, count),
    )  # fmt: skip
