"""A recipe as a file: JSON with the architecture in it, for those who train without a hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import NeuroNexusError, RecipeError

if TYPE_CHECKING:
    from neuronexus_kernel.federation.recipe import Recipe

FORMAT = "neuronexus/recipe@1"


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe and its architecture to a file."""
    fields = {name: value for name, value in recipe.to_dict().items() if name != "architecture"}
    document = {
        "format": FORMAT,
        "architecture": recipe.architecture.to_dict(),
        "recipe": fields,
    }
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load_recipe(path: Path) -> Recipe:
    """Read what `save_recipe` wrote.

    Raises
    ------
    RecipeError
        If the file cannot be read or holds no recipe.
    """
    from neuronexus_kernel.federation.recipe import Recipe
    from neuronexus_kernel.models import Architecture

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise RecipeError(f"its format is not {FORMAT}.")
        architecture = Architecture.from_dict(document["architecture"])
        fields = {**document["recipe"], "architecture": architecture.cid}
        return Recipe.from_dict(fields, architecture)
    except (OSError, ValueError, KeyError, TypeError, NeuroNexusError) as error:
        raise RecipeError(f"The recipe file {path} cannot be read: {error}") from None
