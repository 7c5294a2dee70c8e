"""How many UTF-8 bytes of text a token stands for, given the token before it: the competition's three tables.

    bytes charged for target y after x = piece_bytes[y] + (lead[y] and not boundary[x])

A piece that begins with U+2581 stands for a space and the rest; the space is charged only after something real, so not
after a BOS. A byte piece is one byte; control, unknown and unused pieces are none and count as a boundary [1].

The charges of BOS + encode(text) sum to the UTF-8 length of the decoded text, less one if that begins with a space.

[1] openai/parameter-golf, the organisers' train_gpt.py.
"""

from dataclasses import dataclass

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from data.tokenizer import SPACE_MARK
from runtime.errors import UserError


@dataclass(frozen=True, eq=False)
class ByteTable:
    """The three tables over the V token ids, all on one device."""

    piece_bytes: Tensor  # [V] int16: bytes without the leading space
    lead: Tensor  # [V] bool: begins with a space
    boundary: Tensor  # [V] bool: nothing real, a space after it is free

    @classmethod
    def from_tokenizer(cls, tokenizer: SentencePieceProcessor, vocab_size: int) -> "ByteTable":
        """The tables of a tokenizer for a model of `vocab_size` tokens.

        Raises UserError when the two vocabularies differ, and when the rule would count wrongly: no piece for a lone
        space (it would be three byte pieces), or a piece with U+2581 past its start (3 bytes for a space).
        """
        num_pieces = tokenizer.get_piece_size()
        if vocab_size != num_pieces:
            raise UserError(
                f"the model's vocabulary must be the tokenizer's, got {vocab_size} and {num_pieces}; "
                f"nearest {num_pieces}"
            )
        if tokenizer.is_unknown(tokenizer.piece_to_id(SPACE_MARK)):
            raise UserError(
                "the tokenizer has no piece for a lone space (U+2581), so its spaces count three bytes each"
            )
        rows = [_count_piece(tokenizer, index) for index in range(vocab_size)]
        sizes, leads, boundaries = zip(*rows, strict=True)
        return cls(torch.tensor(sizes, dtype=torch.int16), torch.tensor(leads), torch.tensor(boundaries))

    def to(self, device: torch.device | str) -> "ByteTable":
        """The same tables on another device."""
        return ByteTable(self.piece_bytes.to(device), self.lead.to(device), self.boundary.to(device))

    def count(
        self,
        targets: Tensor,  # [...] int64 ids
        previous: Tensor,  # [...] int64, the id before each target
    ) -> Tensor:
        """The bytes charged for each target, int64 of the targets' shape."""
        space = self.lead[targets] & ~self.boundary[previous]
        return self.piece_bytes[targets].to(torch.int64) + space


def _count_piece(tokenizer: SentencePieceProcessor, index: int) -> tuple[int, bool, bool]:
    if tokenizer.is_control(index) or tokenizer.is_unknown(index) or tokenizer.is_unused(index):
        return 0, False, True
    if tokenizer.is_byte(index):
        return 1, False, False
    piece = tokenizer.id_to_piece(index)
    rest = piece.removeprefix(SPACE_MARK)
    if SPACE_MARK in rest:
        raise UserError(
            f"piece {index} of the tokenizer, {piece!r}, has U+2581 past its start, which would count 3 bytes for a "
            f"space; train without allow_whitespace_only_pieces and treat_whitespace_as_suffix"
        )
    return len(rest.encode("utf-8")), piece != rest, False
