"""A model with operators for CPUs is the same model: names, nats, gradients, and what it makes of a text in parts."""

from dataclasses import fields

import pytest
import torch
from tiny_runs import tiny

from benchmarks.operators import with_plain_operators
from model.attention import causal_attention
from model.baka.laptop import LaptopBakaConfig
from model.baka.model import BakaConfig
from model.gpt import GPTConfig
from model.laptop_gpt import LaptopGPTConfig
from model.pristine.laptop import LaptopPristineConfig
from model.pristine.model import PristineConfig
from ops.attention.blocked import blocked_attention
from ops.cross_entropy.chunked import chunked_nats
from recipes.override import overridden
from recipes.recipe import load_recipe

# With operators for CPUs, and plain.
KINDS = {
    "demo": (LaptopGPTConfig, GPTConfig),
    "hybrid": (LaptopGPTConfig, GPTConfig),
    "pristine": (LaptopPristineConfig, PristineConfig),
    "baka": (LaptopBakaConfig, BakaConfig),
}


def both(recipe: str):
    """The recipe's tiny model with operators for CPUs and with plain ones, the same random weights in both."""
    config = overridden(load_recipe(recipe), tiny(recipe)).model
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    models = [kind(**values).build().reset_parameters(0) for kind in KINDS[recipe]]
    with torch.no_grad():
        for model in models:
            generator = torch.Generator().manual_seed(1)
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return models


def attending(model) -> list:
    """What every mixer that attends calls for it, as they come."""
    return [module.attend for module in model.modules() if hasattr(module, "attend")]


@pytest.mark.parametrize("recipe", KINDS)
def test_nats_and_gradients_are_those_of_the_plain_model(recipe):
    tokens = torch.randint(0, 320, (2, 141), generator=torch.Generator().manual_seed(0))
    laptop, plain = both(recipe)
    for model in (plain, laptop):
        model(tokens[:, :-1], tokens[:, 1:])[0].mean().backward()
    for (name, ours), (its_name, its) in zip(laptop.named_parameters(), plain.named_parameters(), strict=True):
        assert name == its_name
        torch.testing.assert_close(ours.grad, its.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(*(model(tokens[:, :-1], tokens[:, 1:])[0] for model in (laptop, plain)))


@pytest.mark.parametrize("recipe", KINDS)
def test_a_text_in_parts_scores_as_in_one(recipe):
    tokens = torch.randint(0, 320, (2, 101), generator=torch.Generator().manual_seed(0))
    model, _ = both(recipe)
    with torch.no_grad():
        whole, _ = model(tokens[:, :-1], tokens[:, 1:])
        first, state = model(tokens[:, :70], tokens[:, 1:71])
        second, _ = model(tokens[:, 70:-1], tokens[:, 71:], state)
    torch.testing.assert_close(torch.cat((first, second), dim=1), whole)


@pytest.mark.parametrize("recipe", KINDS)
def test_it_runs_the_operators_for_cpus_where_it_can(recipe):
    laptop, plain = both(recipe)
    assert laptop.nats_of is chunked_nats and plain.nats_of is not chunked_nats
    assert set(attending(plain)) == {causal_attention} and set(attending(laptop)) == {blocked_attention}
    assert len(attending(plain)) == len(attending(laptop))


@pytest.mark.parametrize("recipe", ["demo", "pristine", "baka"])
def test_recipes_for_laptops_train_with_them_and_overrides_keep_them(recipe):
    kind, plain = KINDS[recipe]
    assert type(load_recipe(recipe).model) is kind
    assert type(load_recipe(recipe, ["--model.layers.length", "1"]).model) is kind
    assert type(with_plain_operators(load_recipe(recipe).model)) is plain
