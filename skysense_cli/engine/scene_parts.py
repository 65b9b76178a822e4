"""A recipe of several scenes as recipes of one scene each."""

from pathlib import Path

from skysense_cli.errors import RecipeError
from skysense_cli.recipe.schema.maps import PredictRecipe

PARTS = ".parts"  # folder beside a mosaic with the maps it is made of; it goes when the mosaic is whole


def parts_of(recipe: PredictRecipe) -> dict[str, PredictRecipe]:
    """Name -> the recipe of its map: of `scene` itself, of each of `scenes`, or of the parts of a mosaic.

    Raises RecipeError for an output that cannot hold them.
    """
    if recipe.scenes is None:
        return {recipe.output.stem: recipe}
    single = recipe.output.suffix.lower() in (".tif", ".tiff")
    if recipe.mosaic is None and single:
        raise RecipeError(f"output {recipe.output}: several scenes give several maps, so it must be a folder (or add `mosaic`)")
    if recipe.mosaic is not None and not single:
        raise RecipeError(f"output {recipe.output}: a mosaic is one GeoTIFF; give a name that ends in .tif")
    folder = recipe.output if recipe.mosaic is None else parts_folder(recipe.output)
    changes = {"scenes": None, "mosaic": None}
    return {
        name: recipe.model_copy(update={**changes, "scene": scene, "output": folder / f"{name}.tif"})
        for name, scene in recipe.scenes.items()
    }


def parts_folder(output: Path) -> Path:
    """Where the parts of a mosaic lie until it is whole."""
    return output.with_name(output.stem + PARTS)
