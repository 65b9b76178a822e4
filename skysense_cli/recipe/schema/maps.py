"""The recipes of predict, map-prototypes and embed."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from skysense_cli.recipe.parts import SceneInput
from skysense_cli.recipe.schema.section import (
    CoregisterSection,
    Input,
    Name,
    Period,
    Section,
    Share,
    misplaced,
    require_known,
    require_reference,
)

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def size_bytes(text: str) -> int:
    """The bytes of a size such as 2GB, 512MiB or 1.5GB. Raises ValueError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s?([KMGT]i?B)", text)
    if found is None:
        raise ValueError(f"{text!r} is no size; write a number and {', '.join(UNITS)}, e.g. 2GB")
    return int(float(found[1]) * UNITS[found[2]])


def _size(text: str) -> str:
    size_bytes(text)
    return text


Size = Annotated[str, AfterValidator(_size)]


class TilesSection(Section):
    size_m: PositiveFloat = 640
    overlap: Annotated[float, Field(ge=0, lt=0.5)] = 0.25
    batch: PositiveInt = 8


class PredictTilesSection(TilesSection):
    """`flips`: the tile as it is and flipped three ways, at four times the work: scores are averaged, of objects the best view stays.
    `max_memory`: for pixels and scores, beside program and model; strips that need more are cut into pieces."""

    flips: bool = False
    max_memory: Size = "1GB"

    @property
    def max_bytes(self) -> int:
        """`max_memory` in bytes."""
        return size_bytes(self.max_memory)


What = Literal["class", "probability", "confidence", "entropy", "margin", "value", "features"]


class PolygonsSection(Section):
    """The class map as polygons, `<stem>.<format>`. `simplify_m`: outlines leave the pixels by about so much, without gaps
    between neighbours; 0 keeps pixel corners. `min_area_m2`: smaller patches are left out, those within one other are added to it."""

    format: Literal["gpkg", "parquet", "geojson"] = "gpkg"
    simplify_m: Annotated[float, Field(ge=0)] = 0
    min_area_m2: Annotated[float, Field(ge=0)] = 0


class BoxesSection(Section):
    """Of heads that find objects. `counts_m`: also `<stem>_counts.tif`, how many of each class lie in each cell of so many metres."""

    min_score: Share = 0.0
    counts_m: PositiveFloat | None = None


class WriteSection(Section):
    """`what`: one kind of map, or a list of kinds from one pass: the first is `output`, the others `<stem>_<kind>.tif`.
    `features`: the fused feature of every cell of the model, as `embed` writes it; flips are averaged like scores.
    `gsd`: pixel size of the map in metres (null: the anchor's). `dtype`: of probabilities; uint8 holds 0-200."""

    what: What | Annotated[tuple[What, ...], Field(min_length=1)] = "class"
    gsd: PositiveFloat | None = None
    dtype: Literal["uint8", "float32"] = "uint8"
    compress: Literal["deflate", "zstd", "lzw"] = "deflate"
    polygons: PolygonsSection | None = None
    boxes: BoxesSection | None = None

    @property
    def kinds(self) -> tuple[What, ...]:
        """The kinds of map, the first one's file is the output itself."""
        return self.what if isinstance(self.what, tuple) else (self.what,)

    @model_validator(mode="after")
    def _whole(self) -> "WriteSection":
        twice = [kind for kind in self.kinds if self.kinds.count(kind) > 1]
        if twice:
            raise misplaced(("what",), f"names {twice[0]} twice")
        if self.polygons is not None and "class" not in self.kinds:
            raise misplaced(("polygons",), "are made of the class map, which `what` does not name")
        return self


class SceneRecipe(Section):
    """What every command on scenes asks for. `coregister`: measured on the scene, as build-data does on a block."""

    recipe: str
    version: Literal[1]
    bundle: Annotated[Path, Input()]
    scene: Annotated[dict[Name, SceneInput], Field(min_length=1)]  # type: ignore[valid-type]
    scene_gsd: Literal["refuse", "resample", "as_is"] = "refuse"
    period: Period | None = None
    dates: dict[Name, PositiveInt] | None = None
    coregister: CoregisterSection | None = None
    output: Path
    tiles: TilesSection = TilesSection()

    @model_validator(mode="after")
    def _names_known(self) -> "SceneRecipe":
        require_known(("dates",), self.dates or (), self.scene, "scene's modalities")
        require_reference(self.coregister, self.scene)
        return self


class MosaicSection(Section):
    """How several scenes become one map. `rule`: where they overlap, `feather` takes the mean weighted by the distance to each
    scene's border of data, up to `feather_m`; `latest` the scene of the latest date. `scene_map`: write which scene each pixel
    is of. `crs`: of the map (null: the first scene's)."""

    rule: Literal["feather", "latest"] = "feather"
    feather_m: PositiveFloat = 500
    scene_map: bool = False
    crs: str | None = None

    @model_validator(mode="after")
    def _one_scene(self) -> "MosaicSection":
        if self.scene_map and self.rule != "latest":
            raise misplaced(("scene_map",), "needs rule latest: a feathered pixel is of several scenes")
        return self


SceneName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=150)]


class PredictRecipe(SceneRecipe):
    """One map of `scene`, or of each of `scenes` (by name), or with `mosaic` one of all of them.

    area: vector file, raster outline or [left, bottom, right, top] in degrees; the map is cut to it, nodata outside
    """

    recipe: Literal["predict"]
    tiles: PredictTilesSection = PredictTilesSection()
    scene: dict[Name, SceneInput] = Field(default_factory=dict)  # type: ignore[valid-type]
    scenes: Annotated[dict[SceneName, dict[Name, SceneInput]], Field(min_length=1)] | None = None  # type: ignore[valid-type]
    area: Annotated[Path | tuple[float, float, float, float] | None, Input()] = None
    mosaic: MosaicSection | None = None
    write: WriteSection = WriteSection()

    @model_validator(mode="after")
    def _names_known(self) -> "PredictRecipe":
        if bool(self.scene) == (self.scenes is not None):
            raise ValueError("give either scene (one scene) or scenes (several, by name)")
        if self.mosaic is not None and self.scenes is None:
            raise misplaced(("mosaic",), "is of several scenes; name them under scenes")
        if self.mosaic is not None and "features" in self.write.kinds:
            raise misplaced(("write", "what"), "names features, which are not put together over scenes; leave out mosaic, or features")
        for name, scene in {"": self.scene, **(self.scenes or {})}.items():
            if name and not scene:
                raise misplaced(("scenes", name), "holds no modality")
            if scene:
                require_known(("dates",), self.dates or (), scene, "scene's modalities")
                require_reference(self.coregister, scene)
        return self


class EmbedData(Section):
    """Samples and at most how many of their dates are seen (evenly spread). `split`: null = all. `batch`: samples per step."""

    index: Annotated[Path, Input()]
    split: str | None = None
    dates: Annotated[dict[Name, PositiveInt], Field(min_length=1)]
    period: Period | None = None
    limit: PositiveInt | None = None
    batch: PositiveInt = 8


class CompareSection(Section):
    """A land-cover raster that prototypes are compared with. `classes`: csv with code,name[,color]. `ignore`: codes that mean unlabelled.

    tiles_m: side of the squares, half of which the prototypes get their classes on; the other half is scored
    seed: of the coin that says which of two neighbouring squares is which
    """

    raster: Annotated[Path, Input()]
    classes: Annotated[Path, Input()]
    ignore: int | tuple[int, ...] = ()
    tiles_m: PositiveFloat = 1280
    seed: Annotated[int, Field(ge=0)] = 0


class MapPrototypesRecipe(SceneRecipe):
    """Prototypes of one scene, of several, or of samples; exactly one of `scene`, `scenes`, `data`.

    patches: most typical patches that legend.html shows of each prototype
    """

    recipe: Literal["map-prototypes"]
    scene: dict[Name, SceneInput] = Field(default_factory=dict)  # type: ignore[valid-type]
    scenes: tuple[Annotated[dict[Name, SceneInput], Field(min_length=1)], ...] = ()  # type: ignore[valid-type]
    data: EmbedData | None = None
    compare: CompareSection | None = None
    patches: Annotated[int, Field(ge=0, le=12)] = 6

    @model_validator(mode="after")
    def _names_known(self) -> "MapPrototypesRecipe":
        if [bool(self.scene), bool(self.scenes), self.data is not None].count(True) != 1:
            raise ValueError("give exactly one of scene (one scene), scenes (a list of them) and data (samples)")
        given = [self.scene] if self.scene else list(self.scenes)
        if given:
            require_known(("dates",), self.dates or (), dict.fromkeys(name for one in given for name in one), "scenes' modalities")
        for one in given:
            require_reference(self.coregister, one)
        _refuse_of_a_scene(self)
        return self


class EmbedRecipe(SceneRecipe):
    """Features of a scene or of samples; exactly one of `scene`, `data`.

    feature: fused, fused_mm (without the geo-context), or a modality (the mean over its dates)
    cells: write the features of every cell as GeoTIFF      vectors: write one per sample or tile as GeoParquet
    """

    recipe: Literal["embed"]
    scene: dict[Name, SceneInput] = Field(default_factory=dict)  # type: ignore[valid-type]
    data: EmbedData | None = None
    feature: Name = "fused"
    cells: bool = True
    vectors: bool = True

    @model_validator(mode="after")
    def _names_known(self) -> "EmbedRecipe":
        if bool(self.scene) == (self.data is not None):
            raise ValueError("give either scene (one scene) or data (samples)")
        if not self.cells and not self.vectors:
            raise misplaced(("cells",), "is false, and so is vectors: nothing would be written")
        if self.data is None:
            require_known(("dates",), self.dates or (), self.scene, "scene's modalities")
            require_reference(self.coregister, self.scene)
        _refuse_of_a_scene(self)
        return self


def _refuse_of_a_scene(recipe: MapPrototypesRecipe | EmbedRecipe) -> None:
    """What is said of a scene beside samples is a mistake."""
    for name in ("dates", "period", "coregister"):
        if recipe.data is not None and getattr(recipe, name) is not None:
            where = f"data.{name}" if name != "coregister" else "the recipe of build-data"
            raise misplaced((name,), f"belongs to a scene; for samples it stands in {where}")
