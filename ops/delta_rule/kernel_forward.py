"""The delta rule's forward kernels: one matrix inverse a chunk, then states chunk after chunk, then outputs.

With G the cumulative log decay within a chunk, Γ_ij = exp(G_i - G_j) for j <= i, and S the state that enters it:

    A = strictLower(diag(β) (Γ ⊙ K Kᵀ))        X = (I + A)⁻¹                             `solve_kernel`
    U = X (β ⊙ V)                              W = X (β exp(G) ⊙ K)                      `project_kernel`
    N = U - W S                                S' = exp(G_C) S + (exp(G_C - G) ⊙ K)ᵀ N   `states_kernel`
    O = scale (exp(G) ⊙ Q S + (Γ ⊙ Q Kᵀ) N)                                              `outputs_kernel`

Only the states wait for the chunk before. Predicting from the undecayed memory takes the G of the token before for G_i
in A and in W.

Tensors are contiguous. Products take operands in the dtype of q, k and v and accumulate in fp32; X, G and the running
state are fp32.

1. Yang et al. 2024, DeltaNet, arXiv 2406.06484.  2. Yang et al. 2025, Gated DeltaNet, arXiv 2412.06464.
"""

from ops.delta_rule.tiles import (
    decay_between,
    inverse_of_one_plus,
    load_numbers,
    load_state,
    load_vectors,
    masked_exp,
    product,
    segment_before,
    store_numbers,
    store_state,
    store_vectors,
    sum_of_row,
)
from ops.triton_or_none import constexpr, jit, tl, tuned


@tuned
@jit
def solve_kernel(
    k,  # [B, T, H, DK]
    beta,  # [B, T, HV] fp32
    g,  # [B, T, HV] fp32
    segment,  # [B, T] int32
    cumulative,  # [B, T, HV] fp32, written: G
    recall,  # [B, T, HV] fp32, written: G, or that of the token before
    inverse,  # [B, T, HV, C] fp32, written: the rows of X
    T,
    H: constexpr,
    HV: constexpr,
    DK: constexpr,
    DV: constexpr,
    C: constexpr,
    BK: constexpr,
    BV: constexpr,
    UNDECAYED: constexpr,
):
    """Grid: chunks, B HV."""
    sequence, head, first = (tl.program_id(1) // HV).to(tl.int64), tl.program_id(1) % HV, tl.program_id(0) * C
    token, length, rows = sequence * T + first, T - first, tl.arange(0, C)
    decay = load_numbers(g, token, head, rows, length, HV)
    strict = rows[:, None] > rows[None, :]
    G = sum_of_row(decay, rows[:, None] >= rows[None, :])
    # The same bits as the G of the token before: what is left of its write must be all of it.
    later = sum_of_row(decay, strict) if UNDECAYED else G
    store_numbers(cumulative, G, token, head, rows, length, HV)
    store_numbers(recall, later, token, head, rows, length, HV)
    gram = tl.zeros((C, C), tl.float32)
    for column in range(0, DK, BK):
        keys = load_vectors(k, token, head // (HV // H), rows, column + tl.arange(0, BK), length, H, DK)
        gram += product(keys, tl.trans(keys))
    segments = load_numbers(segment, token, 0, rows, length, 1, -1)
    rates = load_numbers(beta, token, head, rows, length, HV)
    A = rates[:, None] * gram * decay_between(later, G, segments, strict)
    store_vectors(inverse, inverse_of_one_plus(A, C), token, head, rows, rows, length, HV, C)


@tuned
@jit
def project_kernel(
    k,  # [B, T, H, DK]
    v,  # [B, T, HV, DV]
    beta,  # [B, T, HV] fp32
    segment,  # [B, T] int32
    recall,  # [B, T, HV] fp32
    inverse,  # [B, T, HV, C] fp32
    w,  # [B, T, HV, DK], written
    u,  # [B, T, HV, DV], written
    T,
    H: constexpr,
    HV: constexpr,
    DK: constexpr,
    DV: constexpr,
    C: constexpr,
    BK: constexpr,
    BV: constexpr,
):
    """Grid: chunks, B HV."""
    sequence, head, first = (tl.program_id(1) // HV).to(tl.int64), tl.program_id(1) % HV, tl.program_id(0) * C
    token, length, rows = sequence * T + first, T - first, tl.arange(0, C)
    segments = load_numbers(segment, token, 0, rows, length, 1, -1)
    later = load_numbers(recall, token, head, rows, length, HV)
    enters = masked_exp(later, segments == segment_before(segment, sequence * T, first))
    solved = load_vectors(inverse, token, head, rows, rows, length, HV, C)
    solved *= load_numbers(beta, token, head, rows, length, HV)[None, :]
    for column in range(0, DV, BV):
        columns = column + tl.arange(0, BV)
        values = load_vectors(v, token, head, rows, columns, length, HV, DV)
        store_vectors(u, product(solved.to(values.dtype), values), token, head, rows, columns, length, HV, DV)
    solved *= enters[None, :]
    for column in range(0, DK, BK):
        columns = column + tl.arange(0, BK)
        keys = load_vectors(k, token, head // (HV // H), rows, columns, length, H, DK)
        store_vectors(w, product(solved.to(keys.dtype), keys), token, head, rows, columns, length, HV, DK)


@tuned
@jit
def states_kernel(
    k,  # [B, T, H, DK]
    w,  # [B, T, HV, DK]
    u,  # [B, T, HV, DV]
    segment,  # [B, T] int32
    cumulative,  # [B, T, HV] fp32
    state,  # [B, HV, DK, DV] fp32, before the first token
    written,  # [B, T, HV, DV], written: N
    states,  # [B, HV, chunks, DK, DV], written: the state that enters each chunk
    final,  # [B, HV, DK, DV] fp32, written
    T,
    H: constexpr,
    HV: constexpr,
    DK: constexpr,
    DV: constexpr,
    C: constexpr,
    BK: constexpr,  # all of DK
    BV: constexpr,
):
    """Grid: blocks of DV, B HV."""
    owner, head = tl.program_id(1).to(tl.int64), tl.program_id(1) % HV
    sequence, chunks = owner // HV, tl.cdiv(T, C)
    rows, wide, columns = tl.arange(0, C), tl.arange(0, BK), tl.program_id(0) * BV + tl.arange(0, BV)
    S = load_state(state, owner, wide, columns, DK, DV)
    for chunk in range(chunks):
        token, length = sequence * T + chunk * C, T - chunk * C
        last = token + min(length, C) - 1
        store_state(states, S, owner * chunks + chunk, wide, columns, DK, DV)
        reads = load_vectors(w, token, head, rows, wide, length, HV, DK)
        N = load_vectors(u, token, head, rows, columns, length, HV, DV) - product(reads, S.to(reads.dtype))
        store_vectors(written, N, token, head, rows, columns, length, HV, DV)
        segments, leaving = load_numbers(segment, token, 0, rows, length, 1, -1), tl.load(segment + last)
        G, G_last = load_numbers(cumulative, token, head, rows, length, HV), tl.load(cumulative + last * HV + head)
        leaves = masked_exp(G_last - G, segments == leaving)
        keys = load_vectors(k, token, head // (HV // H), rows, wide, length, H, DK)
        S *= masked_exp(G_last, leaving == segment_before(segment, sequence * T, chunk * C))
        S += product(tl.trans(keys), (N * leaves[:, None]).to(keys.dtype))
    store_state(final, S, owner, wide, columns, DK, DV)


@tuned
@jit
def outputs_kernel(
    q,  # [B, T, H, DK]
    k,  # [B, T, H, DK]
    segment,  # [B, T] int32
    cumulative,  # [B, T, HV] fp32
    written,  # [B, T, HV, DV]
    states,  # [B, HV, chunks, DK, DV]
    output,  # [B, T, HV, DV], written
    scale,
    T,
    H: constexpr,
    HV: constexpr,
    DK: constexpr,
    DV: constexpr,
    C: constexpr,
    BK: constexpr,
    BV: constexpr,
):
    """Grid: blocks of DV, chunks, B HV."""
    owner, head, first = tl.program_id(2).to(tl.int64), tl.program_id(2) % HV, tl.program_id(1) * C
    sequence, index = owner // HV, owner * tl.cdiv(T, C) + tl.program_id(1)
    token, length, rows = sequence * T + first, T - first, tl.arange(0, C)
    columns = tl.program_id(0) * BV + tl.arange(0, BV)
    gram, from_state = tl.zeros((C, C), tl.float32), tl.zeros((C, BV), tl.float32)
    for start in range(0, DK, BK):
        wide = start + tl.arange(0, BK)
        queries = load_vectors(q, token, head // (HV // H), rows, wide, length, H, DK)
        keys = load_vectors(k, token, head // (HV // H), rows, wide, length, H, DK)
        gram += product(queries, tl.trans(keys))
        from_state += product(queries, load_state(states, index, wide, columns, DK, DV))
    G = load_numbers(cumulative, token, head, rows, length, HV)
    segments = load_numbers(segment, token, 0, rows, length, 1, -1)
    enters = masked_exp(G, segments == segment_before(segment, sequence * T, first))
    weights = gram * decay_between(G, G, segments, rows[:, None] >= rows[None, :])
    N = load_vectors(written, token, head, rows, columns, length, HV, DV)
    result = scale * (enters[:, None] * from_state + product(weights.to(N.dtype), N))
    store_vectors(output, result, token, head, rows, columns, length, HV, DV)
