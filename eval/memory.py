"""What memory and caches are worth: a stream scored with both, without either and without any, by place in a text."""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data.bytecount import ByteTable
from eval.score import Score
from eval.streaming import document_streams
from runtime.errors import UserError

# What the model forgets between two chunks.
SETTINGS = {"both on": None, "memory off": "memory", "caches off": "caches", "both off": "both"}


@dataclass(frozen=True)
class PlaceScores:
    """The score of the tokens `first` .. `end` - 1 of every document that has them, a setting each."""

    first: int
    end: int
    scores: dict[str, Score]


@torch.inference_mode()
def memory_scores(
    model: nn.Module,  # the model contract, and forgetful(state, what)
    tokens: Tensor,  # [N + 1] int64 on the CPU: the text
    byte_table: ByteTable,
    chunk: int,  # tokens between two memories
) -> list[PlaceScores]:
    """Of the first chunk, the second, the third and fourth and so on by doubling, and of whole documents at the end.

    Raises UserError for a model that cannot forget.
    """
    if not hasattr(model, "forgetful"):
        raise UserError("memory is measured in models that hand it from chunk to chunk, got none; nearest recipe: baka")
    documents = document_streams(tokens)
    scored = {
        setting: _scores_by_place(model, tokens, documents, byte_table, chunk, what)
        for setting, what in SETTINGS.items()
    }
    longest = max(map(len, documents))
    rows = [
        PlaceScores(first, min(end, longest), {setting: scored[setting][first] for setting in SETTINGS})
        for first, end in _places(chunk, longest)
    ]
    return [*rows, PlaceScores(0, longest, {setting: sum(scored[setting].values(), Score()) for setting in SETTINGS})]


def _places(chunk: int, longest: int) -> list[tuple[int, int]]:
    """[0, chunk), [chunk, 2 chunk), [2 chunk, 4 chunk) and so on up to the longest document."""
    places = [(0, chunk)]
    while places[-1][1] < longest:
        places.append((places[-1][1], 2 * places[-1][1]))
    return places


def _scores_by_place(
    model: nn.Module, tokens: Tensor, documents: list[range], byte_table: ByteTable, chunk: int, what: str | None
) -> dict[int, Score]:
    """The score of every place, by its first token, where the model forgets `what` after each chunk."""
    device = next(model.parameters()).device
    scores, table = defaultdict(Score), byte_table.to(device)
    for document in documents:
        state = None
        for offset in range(0, len(document), chunk):
            piece = document[offset : offset + chunk]
            x, y = (tokens[first : first + len(piece)].to(device)[None] for first in (piece.start, piece.start + 1))
            nats, state = model(x, y, state)
            state = model.forgetful(state, what) if what else state
            first = chunk << (offset // chunk).bit_length() - 1 if offset else 0
            scores[first] += Score(nats.double().sum().item(), int(table.count(y, x).sum()), len(piece))
    return scores


def memory_table(rows: list[PlaceScores]) -> str:
    """Bits per byte of every setting, one line a place."""
    lines = [f"{'tokens of a document':<22}{'bytes':>10}" + "".join(f"{setting:>12}" for setting in SETTINGS)]
    for row in rows:
        figures = "".join(f"{score.bpb:>12.4f}" for score in row.scores.values())
        lines.append(f"{f'{row.first} .. {row.end - 1}':<22}{row.scores['both on'].bytes:>10,}{figures}")
    return "\n".join(lines)
