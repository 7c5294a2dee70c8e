"""python -m recipes [NAME [--path value ...]]: every recipe with its size, or every field of one.

Predicted bytes are those of the model by its plan, before any steps are fitted to a budget; the room is how many more
parameters would fit beside them at the same bytes each, code not counted.
"""

import sys
from math import prod

from model.flops import training_flops_per_token
from quantize.estimate import estimate_bytes
from quantize.fit import more_weights
from recipes.budget import with_flops_as_steps
from recipes.override import leaves
from recipes.packed import parameter_shapes
from recipes.recipe import load_recipe, recipe_names
from runtime.command import exit_with


def main(arguments: list[str]) -> None:
    """Prints the table, or with a name the recipe's fields as `--path value`, overrides applied."""
    if arguments:
        name, *overrides = arguments
        for path, value in leaves(load_recipe(name, with_flops_as_steps(name, overrides))):
            print(f"--{path} {str(value).lower() if value is None or isinstance(value, bool) else value}")
        return
    sizes = f"{'predicted bytes':>17}{'room for more':>16}"
    print(f"{'recipe':<17}{'parameters':>12}{'layers':>8}{'width':>7}{sizes}{'MFLOP/token':>13}  what")
    for name in recipe_names():
        recipe = load_recipe(name)
        shapes = parameter_shapes(recipe.model)
        parameters = sum(prod(shape) for shape in shapes.values())
        predicted = sum(estimate_bytes(shapes, recipe.pack.plan).values())
        room = more_weights(predicted, recipe.pack.budget, parameters)
        flops = training_flops_per_token(recipe.model, recipe.train.window) / 1e6
        print(
            f"{name:<17}{parameters:>12,}{len(recipe.model.layers):>8}{recipe.model.dim:>7}{predicted:>17,}"
            f"{room:>16,}{flops:>13.1f}  {recipe.record.blurb}"
        )


if __name__ == "__main__":
    exit_with(lambda: main(sys.argv[1:]))
