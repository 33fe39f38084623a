"""Encoders per agent and the undefended fusion center, trained jointly; `Training`.

The recipes can be listed without torch: the rest is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

from .recipe import RECIPES as RECIPES
from .recipe import EmbeddingRecipe as EmbeddingRecipe
from .recipe import recipe_of as recipe_of

if TYPE_CHECKING:
    from .training import Training as Training
    from .training import prepare as prepare


def __getattr__(name: str) -> Any:
    if name not in ("Training", "prepare"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import training

    return getattr(training, name)
