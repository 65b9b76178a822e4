"""The recipes and their sections, as frozen pydantic models. Keys, types and defaults live here only.

One file per group of commands, on top of `section.py`. The options of a part (`kind: ...`) live in the signature
of its class; `recipe/parts.py` reads them.
"""

from skysense_cli.recipe.schema.build import BuildDataRecipe
from skysense_cli.recipe.schema.maps import EmbedRecipe, MapPrototypesRecipe, PredictRecipe
from skysense_cli.recipe.schema.section import Section
from skysense_cli.recipe.schema.train import EvaluateRecipe, FinetuneRecipe, PretrainRecipe

RECIPES: dict[str, type[Section]] = {
    "build-data": BuildDataRecipe,
    "pretrain": PretrainRecipe,
    "finetune": FinetuneRecipe,
    "evaluate": EvaluateRecipe,
    "predict": PredictRecipe,
    "map-prototypes": MapPrototypesRecipe,
    "embed": EmbedRecipe,
}
