"""python -m benchmarks published: the published sizes of BakaLLM build, count, and learn from a training step.

One row of random tokens each, as long as the recipe's windows, by the recipe's own optimiser. The value is by how much
the step lowers the loss of that row; parameters, seconds and memory stand in the note.
"""

import time

import torch

from benchmarks.row import Row
from optim.groups import Optimizers
from recipes.baka import baka_tinystories, baka_w103
from recipes.pristine import pristine_w103
from recipes.recipe import Recipe
from runtime.machine import Machine


def published_row(name: str, recipe: Recipe, machine: Machine) -> Row:
    """One step of the recipe's model on one row of its window."""
    model = recipe.model.build(machine.compute_dtype).reset_parameters(0).to(machine.device)
    optimizers = Optimizers(model, recipe.optim, machine)
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(recipe.model.vocab_size, (1, recipe.train.window + 1), generator=generator).to(machine.device)
    start = time.perf_counter()
    before = model(text[:, :-1], text[:, 1:])[0].mean()
    before.backward()
    optimizers.clip()
    optimizers.step(0, 1.0)
    optimizers.zero_grad()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        after = model(text[:, :-1], text[:, 1:])[0].mean()
    parameters, memory = sum(p.numel() for p in model.parameters()), machine.peak_memory_bytes() / 2**30
    note = f"from {before:.4f} nats; {parameters:,} trained parameters, {seconds:.0f} s, {memory:.1f} GiB until then"
    return Row(f"step_{name}", float(before.detach() - after), "nats a token", (">=", 0.0), 1, note)


def published_rows(machine: Machine) -> list[Row]:
    """A row a published size."""
    sizes = {"baka_tinystories": baka_tinystories, "pristine_w103": pristine_w103, "baka_w103": baka_w103}
    return [published_row(name, recipe(), machine) for name, recipe in sizes.items()]
