"""The model with operators for CPUs is the same model: names, nats, gradients, and what it makes of a text in parts."""

from dataclasses import fields

import pytest
import torch
from tiny_runs import tiny

from model.attention import causal_attention
from model.gpt import GPTConfig
from model.laptop_gpt import LaptopGPTConfig
from ops.cross_entropy.chunked import chunked_nats
from recipes.override import overridden
from recipes.recipe import load_recipe


def both(recipe: str):
    """The recipe's tiny model with plain operators and with those for CPUs, the same random weights in both."""
    config = overridden(load_recipe(recipe), tiny(recipe)).model
    values = {field.name: getattr(config, field.name) for field in fields(GPTConfig)}
    models = [kind(**values).build().reset_parameters(0) for kind in (GPTConfig, LaptopGPTConfig)]
    with torch.no_grad():
        for model in models:
            generator = torch.Generator().manual_seed(1)
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return models


@pytest.mark.parametrize("recipe", ["demo", "hybrid"])
def test_nats_and_gradients_are_those_of_the_plain_model(recipe):
    tokens = torch.randint(0, 320, (2, 141), generator=torch.Generator().manual_seed(0))
    plain, laptop = both(recipe)
    for model in (plain, laptop):
        model(tokens[:, :-1], tokens[:, 1:])[0].mean().backward()
    for (name, ours), (its_name, its) in zip(laptop.named_parameters(), plain.named_parameters(), strict=True):
        assert name == its_name
        torch.testing.assert_close(ours.grad, its.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(*(model(tokens[:, :-1], tokens[:, 1:])[0] for model in (laptop, plain)))


def test_a_text_in_parts_scores_as_in_one():
    tokens = torch.randint(0, 320, (2, 101), generator=torch.Generator().manual_seed(0))
    _, model = both("demo")
    with torch.no_grad():
        whole, _ = model(tokens[:, :-1], tokens[:, 1:])
        first, state = model(tokens[:, :70], tokens[:, 1:71])
        second, _ = model(tokens[:, 70:-1], tokens[:, 71:], state)
    torch.testing.assert_close(torch.cat((first, second), dim=1), whole)


def test_it_runs_the_operators_for_cpus_where_it_can():
    plain, laptop = both("hybrid")
    deltanet, attention = (layer.attention for layer in laptop.layers)
    assert laptop.nats_of is chunked_nats and plain.nats_of is not chunked_nats
    assert attention.attend is not causal_attention and not hasattr(deltanet, "attend")


def test_the_demo_trains_with_them_and_overrides_keep_them():
    assert type(load_recipe("demo").model) is LaptopGPTConfig
    assert type(load_recipe("demo", ["--model.layers.length", "1"]).model) is LaptopGPTConfig
