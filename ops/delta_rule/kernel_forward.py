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

from ops.delta_rule.kernel_decays import (
    decay_between,
    decay_entering,
    decay_to_reads,
    decays_leaving,
    load_segments,
    sum_of_row,
)
from ops.delta_rule.tiles import (
    chunk_place,
    dot_products,
    inverse_of_one_plus,
    load_numbers,
    load_state,
    load_vectors,
    product,
    store_numbers,
    store_state,
    store_vectors,
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
    head, rows = tl.program_id(1) % HV, tl.arange(0, C)
    _, token, length = chunk_place(tl.program_id(1), tl.program_id(0), T, HV, C)
    decay = load_numbers(g, token, head, rows, length, HV)
    strict = rows[:, None] > rows[None, :]
    G = sum_of_row(decay, rows[:, None] >= rows[None, :])
    # The same bits as the G of the token before: what is left of its write must be all of it.
    later = sum_of_row(decay, strict) if UNDECAYED else G
    store_numbers(cumulative, G, token, head, rows, length, HV)
    store_numbers(recall, later, token, head, rows, length, HV)
    gram = dot_products(k, k, token, head // (HV // H), rows, length, H, DK, C, BK)
    rates = load_numbers(beta, token, head, rows, length, HV)
    A = rates[:, None] * gram * decay_between(later, G, load_segments(segment, token, rows, length), strict)
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
    head, rows = tl.program_id(1) % HV, tl.arange(0, C)
    begin, token, length = chunk_place(tl.program_id(1), tl.program_id(0), T, HV, C)
    later, segments = load_numbers(recall, token, head, rows, length, HV), load_segments(segment, token, rows, length)
    solved = load_vectors(inverse, token, head, rows, rows, length, HV, C)
    solved *= load_numbers(beta, token, head, rows, length, HV)[None, :]
    for column in range(0, DV, BV):
        columns = column + tl.arange(0, BV)
        values = load_vectors(v, token, head, rows, columns, length, HV, DV)
        store_vectors(u, product(solved.to(values.dtype), values), token, head, rows, columns, length, HV, DV)
    solved *= decay_entering(later, segments, segment, begin, token)[None, :]
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
    chunks, rows, wide = tl.cdiv(T, C), tl.arange(0, C), tl.arange(0, BK)
    columns = tl.program_id(0) * BV + tl.arange(0, BV)
    S = load_state(state, owner, wide, columns, DK, DV)
    for chunk in range(chunks):
        begin, token, length = chunk_place(owner, chunk, T, HV, C)
        store_state(states, S, owner * chunks + chunk, wide, columns, DK, DV)
        reads = load_vectors(w, token, head, rows, wide, length, HV, DK)
        N = load_vectors(u, token, head, rows, columns, length, HV, DV) - product(reads, S.to(reads.dtype))
        store_vectors(written, N, token, head, rows, columns, length, HV, DV)
        G = load_numbers(cumulative, token, head, rows, length, HV)
        segments = load_segments(segment, token, rows, length)
        leaves, through = decays_leaving(G, segments, cumulative, segment, begin, token, head, length, HV, C)
        keys = load_vectors(k, token, head // (HV // H), rows, wide, length, H, DK)
        S *= through
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
    owner, chunk, head, rows = tl.program_id(2), tl.program_id(1), tl.program_id(2) % HV, tl.arange(0, C)
    begin, token, length = chunk_place(owner, chunk, T, HV, C)
    index, columns = owner.to(tl.int64) * tl.cdiv(T, C) + chunk, tl.program_id(0) * BV + tl.arange(0, BV)
    gram, from_state = tl.zeros((C, C), tl.float32), tl.zeros((C, BV), tl.float32)
    for start in range(0, DK, BK):
        wide = start + tl.arange(0, BK)
        queries = load_vectors(q, token, head // (HV // H), rows, wide, length, H, DK)
        keys = load_vectors(k, token, head // (HV // H), rows, wide, length, H, DK)
        gram += product(queries, tl.trans(keys))
        from_state += product(queries, load_state(states, index, wide, columns, DK, DV))
    G = load_numbers(cumulative, token, head, rows, length, HV)
    segments = load_segments(segment, token, rows, length)
    enters, weights = decay_entering(G, segments, segment, begin, token), gram * decay_to_reads(G, segments, rows)
    N = load_vectors(written, token, head, rows, columns, length, HV, DV)
    result = scale * (enters[:, None] * from_state + product(weights.to(N.dtype), N))
    store_vectors(output, result, token, head, rows, columns, length, HV, DV)
