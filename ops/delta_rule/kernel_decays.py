"""What is left of a write or of the state at each token of a chunk, for the kernels: factors between 0 and 1.

A segment is what lies between two resets of the state; rows beyond the sequence belong to segment -1, which no token
reaches. An exponent is masked before the exponential, where a later token less an earlier one could overflow.
"""

from ops.delta_rule.tiles import load_numbers
from ops.triton_or_none import constexpr, jit, tl


@jit
def load_segments(segment, token, rows, length):
    """The segment of each row: [C]."""
    return load_numbers(segment, token, 0, rows, length, 1, -1)


@jit
def segment_before(segment, begin, token):
    """The segment of the state that enters a chunk at `token` of the sequence that begins at `begin`."""
    return tl.load(segment + token - 1, mask=token > begin, other=0)


@jit
def sum_of_row(numbers, mask):
    """For each row of the mask the sum of the numbers that it lets through: [C]. Equal rows give equal bits."""
    return tl.sum(tl.where(mask, numbers[None, :], 0.0), axis=1)


@jit
def masked_exp(exponent, mask):
    """exp where the mask holds, else zero."""
    return tl.exp(tl.where(mask, exponent, float("-inf")))


@jit
def decay_between(later, earlier, segments, causal):
    """exp(later_i - earlier_j) where token j reaches token i: [C, C]."""
    return masked_exp(later[:, None] - earlier[None, :], causal & (segments[:, None] == segments[None, :]))


@jit
def decay_to_reads(G, segments, rows):
    """Γ, what is left of each token's write at its own read and at later ones: [C, C]."""
    return decay_between(G, G, segments, rows[:, None] >= rows[None, :])


@jit
def decay_entering(G, segments, segment, begin, token):
    """What is left at each row of the state that enters the chunk: [C]."""
    return masked_exp(G, segments == segment_before(segment, begin, token))


@jit
def decays_leaving(
    G,  # [C]
    segments,  # [C]
    cumulative,  # [B, T, HV], of which G is a part
    segment,  # [B, T]
    begin,
    token,
    head,
    length,
    HV: constexpr,
    C: constexpr,
):
    """What the state that leaves the chunk has of each row's write [C], and of the state that entered: one factor."""
    last = token + min(length, C) - 1
    G_last, leaving = tl.load(cumulative + last * HV + head), tl.load(segment + last)
    return masked_exp(G_last - G, segments == leaving), decay_entering(G_last, leaving, segment, begin, token)
