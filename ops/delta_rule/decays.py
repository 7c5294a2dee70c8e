"""The factors by which a chunk forgets, out of its log decays: only differences that are at most 0 are exponentiated.

With g_i the sum of the log decays a of a chunk's tokens up to i, what token j wrote has faded by exp(g_i - g_j) when
token i reads it. Imli recalls before the decay of token i, at g_i - a_i. Nothing passes the start of a document.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

# In bits. Less than this of a write is nothing: far below any rounding, and denormal numbers cost a CPU dearly.
FORGOTTEN = -100.0


class Decays(NamedTuple):
    """Factors between 0 and 1 for n chunks of C tokens; an entry is 0 where a document begins in between."""

    read: Tensor  # [n, C, C], from the write of a token (column) to the read of the same or a later one (row)
    recall: Tensor  # [n, C, C], from the write of a token to the recall of a later one; its diagonal means nothing
    entering_read: Tensor  # [n, C, 1], from the state before the chunk to the read of a token
    entering_recall: Tensor  # [n, C, 1], from that state to the recall of a token
    leaving: Tensor  # [n, C, 1], from the write of a token to the state after the chunk
    through: Tensor  # [n, 1], from the state before the chunk to the state after it


def chunk_decays(
    a: Tensor,  # [n, C], log decays, at most 0
    starts: Tensor | None,  # [n, C] bool
    predict_from: str,
) -> Decays:
    """The factors of every chunk, in the dtype of a; a token's own decay is in what it reads."""
    # exp2, because the exponential of MKL takes fifty times as long where it underflows.
    a = a / math.log(2)
    g = a.cumsum(-1)
    documents = None if starts is None else starts.cumsum(-1)
    read = recall = _between(g, g, documents, diagonal=0)
    entering_read = entering_recall = _entering(g, documents)
    if predict_from == "undecayed":
        recall = _between(g - a, g, documents, diagonal=-1)
        entering_recall = _entering(g - a, documents)
    leaving = _faded(g[:, -1:] - g)
    if documents is not None:
        leaving.masked_fill_(documents != documents[:, -1:], 0.0)
    through = entering_read[:, -1:]
    return Decays(read, recall, entering_read[..., None], entering_recall[..., None], leaving[..., None], through)


def _between(to: Tensor, since: Tensor, documents: Tensor | None, diagonal: int) -> Tensor:
    """[n, C, C]: 2^(to_i - since_j) on and below `diagonal` and within one document, else 0."""
    # Masked before the exponential: above the diagonal the differences are positive, and inf * 0 would be NaN.
    mask = torch.full_like(to[0, :, None].expand(-1, to.shape[1]), -torch.inf).triu_(diagonal + 1)
    factor = _faded((to[:, :, None] - since[:, None, :]).add_(mask))
    if documents is not None:
        factor.masked_fill_(documents[:, :, None] != documents[:, None, :], 0.0)
    return factor


def _entering(to: Tensor, documents: Tensor | None) -> Tensor:
    factor = _faded(to.clone())
    return factor if documents is None else factor.masked_fill_(documents > 0, 0.0)


def _faded(bits: Tensor) -> Tensor:
    """2^bits in place of `bits`, 0 where that is next to nothing."""
    return torch.threshold_(bits, FORGOTTEN, -torch.inf).exp2_()
