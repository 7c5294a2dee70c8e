"""The score: nats, bytes and tokens, which add up over windows, ranks and shards.

bits per byte = nats / ln 2 / bytes. The byte is the same for every tokenizer, the token is not.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """What a model paid for a text.

    >>> Score(nats=math.log(2) * 12, bytes=6, tokens=3) + Score(nats=0.0, bytes=6, tokens=1)
    Score(nats=8.317766166719343, bytes=12, tokens=4)
    >>> round((Score(math.log(2) * 12, 6, 3)).bpb, 6)
    2.0
    """

    nats: float = 0.0
    bytes: int = 0
    tokens: int = 0

    def __add__(self, other: "Score") -> "Score":
        return Score(self.nats + other.nats, self.bytes + other.bytes, self.tokens + other.tokens)

    @property
    def loss(self) -> float:
        """Nats per token, the competition's val_loss."""
        return self.nats / self.tokens

    @property
    def bpb(self) -> float:
        """Bits per byte, the competition's val_bpb."""
        return self.nats / math.log(2) / self.bytes

    @property
    def implied_bytes(self) -> float:
        """Bytes that the two published figures imply, val_loss / ln 2 * tokens / val_bpb: the check on a byte table."""
        return self.loss / math.log(2) * self.tokens / self.bpb
