"""A model in bytes and back: what model.bin says of itself, and the model that it becomes with nothing else at hand."""

from dataclasses import dataclass
from pathlib import Path

import torch

from compress.container import pack, unpack
from compress.expected import Expected
from model.gpt import GPTConfig
from model.language_model import LanguageModel
from model.linear import stored_weight
from model.stack import StackConfig
from quantize.grid import Coded, Codes, dequantize
from recipes.recipe import Recipe, fingerprint, load_recipe
from runtime.errors import UserError
from runtime.files import read_bytes
from runtime.machine import Machine

# Overrides that reading and scoring the model depend on travel in the file; how it was trained does not, but for what
# it computes in: another machine's choice would be another score.
_TRAVELLING = ("--model.", "--eval.", "--pack.coder", "--pack.kinds.", "--train.compute_dtype")


@dataclass(frozen=True)
class PackedModel:
    """What came out of a file: the recipe, the model on its device, and whose tokens it speaks."""

    recipe: Recipe
    model: LanguageModel
    tokenizer_sha256: str


def pack_model(recipe: Recipe, overrides: list[str], codes: Codes, tokenizer_sha256: str) -> bytes:
    """The artifact: codes, and the header from which the model is rebuilt."""
    config = {
        "recipe": recipe.name,
        "overrides": travelling_overrides(overrides),
        "model": fingerprint(recipe.model),
        "tokenizer": tokenizer_sha256,
    }
    return pack(codes, config=config, coder=recipe.pack.coder, kinds=recipe.pack.kinds)


def open_packed(path: str | Path, machine: Machine) -> PackedModel:
    """The model in the file `path`, computing in what it was trained in; reads that file alone.

    Raises UserError for a file that is damaged in any bit, or whose recipe has changed since it was packed.
    """
    config, codes = unpack(read_bytes(path, "the packed model"), _expected)
    recipe = _recipe_of(config)
    machine = machine.computing_in(recipe.train.compute_dtype)
    return PackedModel(recipe, model_from_codes(recipe.model, codes, machine), config["tokenizer"])


def model_from_codes(config: GPTConfig | StackConfig, codes: Codes, machine: Machine) -> LanguageModel:
    """The model with the dequantised codes as weights, in evaluation mode on the machine's device."""
    with torch.device("meta"):
        model = config.build(machine.compute_dtype)
    model.load_state_dict(dequantize(codes), assign=True)
    for name, module in model.named_modules():
        # What comes off a grid is what training saw; rounded once more, ternary weights would shrink.
        if isinstance(codes.get(f"{name}.weight"), Coded):
            module.weight_map = stored_weight
    return model.to(machine.device).eval().requires_grad_(False)


def parameter_shapes(config: GPTConfig | StackConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter, without allocating any."""
    with torch.device("meta"):
        model = config.build()
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def travelling_overrides(overrides: list[str]) -> list[str]:
    """The overrides that the packed model carries, each as `--path=value`."""
    joined, rest = [], list(overrides)
    while rest:
        word = rest.pop(0)
        joined.append(word if "=" in word else f"{word}={rest.pop(0)}")
    return [word for word in joined if word.startswith(_TRAVELLING)]


def _expected(config: dict) -> Expected:
    recipe = _recipe_of(config)
    return Expected(parameter_shapes(recipe.model), recipe.pack.coder, recipe.pack.kinds)


def _recipe_of(config: dict) -> Recipe:
    try:
        recipe = load_recipe(config["recipe"], config["overrides"])
        packed, now = config["model"], fingerprint(recipe.model)
    except (KeyError, TypeError) as error:
        raise UserError(f"the packed model's header must name its recipe, overrides and model: {error!r}") from error
    if packed != now:
        raise UserError(
            f"the packed model was made with another version of recipe {recipe.name!r} (model fingerprint {packed}, "
            f"now {now}); use the source that its record ships"
        )
    return recipe
