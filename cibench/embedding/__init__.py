"""Encoders per agent and the undefended fusion center, trained jointly; `Training`."""

from .recipe import RECIPES as RECIPES
from .recipe import EmbeddingRecipe as EmbeddingRecipe
from .training import Training as Training
from .training import prepare as prepare
