"""A recipe of several scenes as recipes of one scene each."""

from pathlib import Path
from typing import Any

from skysense_cli.errors import RecipeError
from skysense_cli.recipe.schema.maps import PredictRecipe, WriteSection


def parts_of(recipe: PredictRecipe, ending: str = ".tif") -> dict[str, PredictRecipe]:
    """Name -> the recipe of its map: of `scene` itself, of each of `scenes`, or of the parts of a mosaic.

    ending: of what each of `scenes` becomes      Raises RecipeError for an output that cannot hold them.
    """
    if recipe.scenes is None:
        return {recipe.output.stem: recipe}
    single = recipe.output.suffix.lower() in (".tif", ".tiff")
    if recipe.mosaic is None and single:
        raise RecipeError(f"output {recipe.output}: several scenes give several maps, so it must be a folder (or add `mosaic`)")
    if recipe.mosaic is not None and not single:
        raise RecipeError(f"output {recipe.output}: a mosaic is one GeoTIFF; give a name that ends in .tif")
    folder = recipe.output if recipe.mosaic is None else parts_folder(recipe.output)
    changes: dict[str, Any] = {"scenes": None, "mosaic": None}
    if recipe.mosaic is not None and recipe.mosaic.rule == "feather":
        changes["write"] = _of_scores(recipe.write)
    return {
        name: recipe.model_copy(update={**changes, "scene": scene, "output": folder / f"{name}{ending}"})
        for name, scene in recipe.scenes.items()
    }


def parts_folder(output: Path) -> Path:
    """Where the maps of a mosaic's scenes lie until it is whole."""
    return output.with_name(f".{output.name}.scenes")


def _of_scores(write: WriteSection) -> WriteSection:
    """What is blended: values as they are, everything else as probabilities. Raises RecipeError for a mixture."""
    values = [kind for kind in write.kinds if kind == "value"]
    if values and len(write.kinds) > 1:
        raise RecipeError("write.what: value cannot be feathered together with other kinds of map; write it alone")
    return write.model_copy(update={"what": "value" if values else "probability", "dtype": "float32"})
