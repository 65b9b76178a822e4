"""What an evaluate recipe scores: a bundle on a split, or a map against the labels of a split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from skysense_cli.engine.assemble import LoadedBundle, check_cells, load_bundle, strides
from skysense_cli.engine.evaluate import evaluate, fixed, score_map
from skysense_cli.engine.gather import Gathered, gather_labelled
from skysense_cli.errors import RecipeError
from skysense_cli.recipe.schema.train import EvaluateRecipe


@dataclass(frozen=True, eq=False)
class BundleSubject:
    """A bundle with a head, on samples."""

    recipe: EvaluateRecipe
    bundle: LoadedBundle
    data: Gathered
    device: str

    def facts(self) -> list[tuple[str, object]]:
        """(what, value) lines of the plan."""
        side = " x ".join(f"{side:g}" for side in self.data.size_m)
        return [*_facts(self.recipe, self.data), ("bundle", self.bundle.path), ("views", f"{side} m, {_dates(self.data)}")]

    def scores(self) -> dict[str, Any]:
        """What `scores.json` holds."""
        dataset = fixed(self.data, self.bundle.spec.regions, self.recipe.on)
        classes = self.bundle.classes
        head = cast(Any, self.bundle.head)
        found = evaluate(self.bundle.model, head, dataset, len(classes), batch=self.recipe.batch, device=self.device)
        return {"on": self.recipe.on, "samples": len(self.data.rows)} | found.scores(classes)


@dataclass(frozen=True, eq=False)
class MapSubject:
    """A class raster, against the labels of samples."""

    recipe: EvaluateRecipe
    path: Path
    data: Gathered

    def facts(self) -> list[tuple[str, object]]:
        """(what, value) lines of the plan."""
        return [*_facts(self.recipe, self.data), ("map", self.path)]

    def scores(self) -> dict[str, Any]:
        """What `scores.json` holds; `unmapped`: labelled pixels where the map has no data, not scored."""
        found, unmapped = score_map(self.path, self.data, self.recipe.on)
        names = [fact.name for fact in self.data.classes]
        return {"on": self.recipe.on, "samples": len(self.data.rows), "unmapped": unmapped} | found.scores(names)


def subject(recipe: EvaluateRecipe, device: str) -> BundleSubject | MapSubject:
    """What the recipe scores, checked. Raises RecipeError for a bundle without head, or data that it cannot see."""
    if recipe.map is not None:
        return MapSubject(recipe, recipe.map, gather_labelled(recipe.data, tuple(recipe.data.dates), None, recipe.data.split))
    bundle = load_bundle(cast(Path, recipe.bundle), device)
    if bundle.without_task:
        raise RecipeError(f"evaluate: {recipe.bundle} {bundle.without_task}; fine-tune it first")
    data = gather_labelled(recipe.data, tuple(bundle.inputs), bundle.classes, recipe.data.split)
    data = data.as_trained(bundle.inputs, str(recipe.bundle))
    check_cells(data.size_m, data.inputs, strides(bundle.model), bundle.spec.model.cell_m)
    return BundleSubject(recipe, bundle, data, device)


def _facts(recipe: EvaluateRecipe, data: Gathered) -> list[tuple[str, object]]:
    split = f"{len(data.rows)} of split {recipe.data.split!r} in {data.folder}"
    return [("samples", split), ("scored on", recipe.on), ("classes", ", ".join(fact.name for fact in data.classes))]


def _dates(data: Gathered) -> str:
    return ", ".join(f"{name} at most {count} dates" for name, count in data.dates.items())
