"""The delta rule's backward kernels, after `project_kernel` and `states_kernel` have run again.

With the names of the forward kernels, P = Γ ⊙ Q Kᵀ, D' the gradient of the state that leaves the chunk, B = diag(β) and
the strictly lower G = -(Z Nᵀ) ⊙ Γ:

    dN = scale Pᵀ dO + (exp(G_C - G) ⊙ K) D'                             first term: `local_kernel`
    D  = exp(G_C) D' + scale (exp(G) ⊙ Q)ᵀ dO - Wᵀ dN                    `state_gradients_kernel`, the last chunk first

    Z  = Xᵀ dN        dV = B Z        dP = (dO Nᵀ) ⊙ Γ                   the rest: `gradients_kernel`
    dQ = scale (exp(G) ⊙ dO Sᵀ + dP K)
    R  = G K - exp(G) ⊙ Z Sᵀ                                             the gradient through what a key recalls
    L  = scale dPᵀ Q + (B G)ᵀ K + exp(G_C - G) ⊙ N D'ᵀ                   the gradient through what a key writes
    dK = B R + L      dβ = rowsum(Z ⊙ V + K ⊙ R)
    dG = rowsum(Q ⊙ dQ - K ⊙ L + B K ⊙ R), and <S', D'> more at the last token; d log decay_t = sum of dG_i, i >= t

The gradient of A is -Xᵀ (dU (B V)ᵀ + dW (...)ᵀ) Xᵀ, which is -Z Nᵀ because dW = -dN Sᵀ: X itself needs no gradient.
Predicting from the undecayed memory, what goes through R does not reach token i's own decay.
"""

from ops.delta_rule.kernel_decays import decay_between, decay_entering, decay_to_reads, decays_leaving, load_segments
from ops.delta_rule.tiles import (
    chunk_place,
    dot_products,
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
def local_kernel(
    q,  # [B, T, H, DK]
    k,  # [B, T, H, DK]
    segment,  # [B, T] int32
    cumulative,  # [B, T, HV] fp32
    d_output,  # [B, T, HV, DV]
    d_local,  # [B, T, HV, DV], written: scale Pᵀ dO
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
    """Grid: chunks, B HV."""
    head, rows = tl.program_id(1) % HV, tl.arange(0, C)
    _, token, length = chunk_place(tl.program_id(1), tl.program_id(0), T, HV, C)
    gram = dot_products(q, k, token, head // (HV // H), rows, length, H, DK, C, BK)
    G, segments = load_numbers(cumulative, token, head, rows, length, HV), load_segments(segment, token, rows, length)
    P = scale * gram * decay_to_reads(G, segments, rows)
    for column in range(0, DV, BV):
        columns = column + tl.arange(0, BV)
        dO = load_vectors(d_output, token, head, rows, columns, length, HV, DV)
        store_vectors(d_local, product(tl.trans(P.to(dO.dtype)), dO), token, head, rows, columns, length, HV, DV)


@tuned
@jit
def state_gradients_kernel(
    q,  # [B, T, H, DK]
    k,  # [B, T, H, DK]
    w,  # [B, T, HV, DK]
    segment,  # [B, T] int32
    cumulative,  # [B, T, HV] fp32
    d_output,  # [B, T, HV, DV]
    d_local,  # [B, T, HV, DV]
    d_final,  # [B, HV, DK, DV] fp32
    d_written,  # [B, T, HV, DV], written: dN
    d_states,  # [B, HV, chunks, DK, DV], written: the gradient of the state that leaves each chunk
    d_state,  # [B, HV, DK, DV] fp32, written: the gradient of the first state
    scale,
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
    D = load_state(d_final, owner, wide, columns, DK, DV)
    for later_chunks in range(chunks):
        chunk = chunks - 1 - later_chunks
        begin, token, length = chunk_place(owner, chunk, T, HV, C)
        store_state(d_states, D, owner * chunks + chunk, wide, columns, DK, DV)
        G = load_numbers(cumulative, token, head, rows, length, HV)
        segments = load_segments(segment, token, rows, length)
        leaves, through = decays_leaving(G, segments, cumulative, segment, begin, token, head, length, HV, C)
        keys = load_vectors(k, token, head // (HV // H), rows, wide, length, H, DK)
        dN = leaves[:, None] * product(keys, D.to(keys.dtype))
        dN += load_vectors(d_local, token, head, rows, columns, length, HV, DV)
        store_vectors(d_written, dN, token, head, rows, columns, length, HV, DV)
        queries = load_vectors(q, token, head // (HV // H), rows, wide, length, H, DK)
        dO = load_vectors(d_output, token, head, rows, columns, length, HV, DV)
        enters = scale * decay_entering(G, segments, segment, begin, token)
        dO = (dO * enters[:, None]).to(queries.dtype)
        reads = load_vectors(w, token, head, rows, wide, length, HV, DK)
        D *= through
        D += product(tl.trans(queries), dO) - product(tl.trans(reads), dN.to(reads.dtype))
    store_state(d_state, D, owner, wide, columns, DK, DV)


@jit
def value_gradients(
    v,  # [B, T, HV, DV]
    written,  # [B, T, HV, DV]
    d_output,  # [B, T, HV, DV]
    d_written,  # [B, T, HV, DV]
    d_v,  # [B, T, HV, DV], written
    rates,  # [C], β
    solved,  # [C, C], Xᵀ
    token,
    head,
    rows,
    length,
    HV: constexpr,
    DV: constexpr,
    C: constexpr,
    BV: constexpr,
):
    """Writes dV; returns dO Nᵀ and Z Nᵀ [C, C], and rowsum(Z ⊙ V) [C]."""
    dON, ZN, d_rates = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32), tl.zeros((C,), tl.float32)
    for start in range(0, DV, BV):
        columns = start + tl.arange(0, BV)
        Z = product(solved, load_vectors(d_written, token, head, rows, columns, length, HV, DV))
        store_vectors(d_v, rates[:, None] * Z, token, head, rows, columns, length, HV, DV)
        d_rates += tl.sum(Z * load_vectors(v, token, head, rows, columns, length, HV, DV), axis=1)
        N = load_vectors(written, token, head, rows, columns, length, HV, DV)
        ZN += product(Z.to(solved.dtype), tl.trans(N))
        dON += product(load_vectors(d_output, token, head, rows, columns, length, HV, DV), tl.trans(N))
    return dON, ZN, d_rates


@jit
def state_products(
    written,  # [B, T, HV, DV]
    states,  # [B, HV, chunks, DK, DV]
    d_output,  # [B, T, HV, DV]
    d_written,  # [B, T, HV, DV]
    d_states,  # [B, HV, chunks, DK, DV]
    solved,  # [C, C], Xᵀ
    index,  # of the chunk's state
    token,
    head,
    rows,
    wide,  # [BK], of the keys' features
    length,
    HV: constexpr,
    DK: constexpr,
    DV: constexpr,
    C: constexpr,
    BK: constexpr,
    BV: constexpr,
):
    """dO Sᵀ, Z Sᵀ and N D'ᵀ [C, BK] for these features of the keys, and their part of <S, D'>."""
    from_reads, from_recalls = tl.zeros((C, BK), tl.float32), tl.zeros((C, BK), tl.float32)
    from_writes, kept = tl.zeros((C, BK), tl.float32), 0.0
    for start in range(0, DV, BV):
        columns = start + tl.arange(0, BV)
        S = load_state(states, index, wide, columns, DK, DV)
        D = load_state(d_states, index, wide, columns, DK, DV)
        dO = load_vectors(d_output, token, head, rows, columns, length, HV, DV)
        N = load_vectors(written, token, head, rows, columns, length, HV, DV)
        Z = product(solved, load_vectors(d_written, token, head, rows, columns, length, HV, DV))
        from_reads += product(dO, tl.trans(S))
        from_recalls += product(Z.to(solved.dtype), tl.trans(S))
        from_writes += product(N, tl.trans(D))
        kept += tl.sum(S.to(tl.float32) * D.to(tl.float32))
    return from_reads, from_recalls, from_writes, kept


@tuned
@jit
def gradients_kernel(
    q,  # [B, T, H, DK]
    k,  # [B, T, H, DK]
    v,  # [B, T, HV, DV]
    beta,  # [B, T, HV] fp32
    segment,  # [B, T] int32
    cumulative,  # [B, T, HV] fp32
    recall,  # [B, T, HV] fp32
    inverse,  # [B, T, HV, C] fp32
    written,  # [B, T, HV, DV]
    states,  # [B, HV, chunks, DK, DV]
    d_output,  # [B, T, HV, DV]
    d_written,  # [B, T, HV, DV]
    d_states,  # [B, HV, chunks, DK, DV]
    d_q,  # [B, T, HV, DK], written, as are those below
    d_k,  # [B, T, HV, DK]
    d_v,  # [B, T, HV, DV]
    d_beta,  # [B, T, HV] fp32
    d_g,  # [B, T, HV] fp32
    scale,
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
    owner, chunk, head, rows = tl.program_id(1), tl.program_id(0), tl.program_id(1) % HV, tl.arange(0, C)
    begin, token, length = chunk_place(owner, chunk, T, HV, C)
    rates = load_numbers(beta, token, head, rows, length, HV)
    solved = tl.trans(load_vectors(inverse, token, head, rows, rows, length, HV, C)).to(k.dtype.element_ty)
    dON, ZN, d_rates = value_gradients(
        v, written, d_output, d_written, d_v, rates, solved, token, head, rows, length, HV, DV, C, BV
    )

    G, segments = load_numbers(cumulative, token, head, rows, length, HV), load_segments(segment, token, rows, length)
    later = load_numbers(recall, token, head, rows, length, HV)
    reads = scale * decay_entering(G, segments, segment, begin, token)
    recalls = decay_entering(later, segments, segment, begin, token)
    leaves, through = decays_leaving(G, segments, cumulative, segment, begin, token, head, length, HV, C)
    between_reads = (scale * dON * decay_to_reads(G, segments, rows)).to(solved.dtype)
    between_recalls = -ZN * decay_between(later, G, segments, rows[:, None] > rows[None, :])
    # Rounded once for the row and for the column that it adds to: in the gradient of a decay the two cancel.
    between_writes = (rates[:, None] * between_recalls).to(solved.dtype)
    between_recalls = between_recalls.to(solved.dtype)

    # Over the keys: dQ and dK, and what is left of dβ and the decays.
    index = owner.to(tl.int64) * tl.cdiv(T, C) + chunk
    d_later, d_G, d_last = tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32), 0.0
    for start in range(0, DK, BK):
        wide = start + tl.arange(0, BK)
        from_reads, from_recalls, from_writes, kept = state_products(
            *(written, states, d_output, d_written, d_states, solved, index),
            *(token, head, rows, wide, length, HV, DK, DV, C, BK, BV),
        )
        queries = load_vectors(q, token, head // (HV // H), rows, wide, length, H, DK)
        keys = load_vectors(k, token, head // (HV // H), rows, wide, length, H, DK)
        dQ = reads[:, None] * from_reads + product(between_reads, keys)
        from_recalls *= recalls[:, None]
        BR = product(between_writes, keys) - rates[:, None] * from_recalls
        from_writes *= leaves[:, None]
        L = from_writes + product(tl.trans(between_reads), queries) + product(tl.trans(between_writes), keys)
        store_vectors(d_q, dQ, token, head, rows, wide, length, HV, DK)
        store_vectors(d_k, BR + L, token, head, rows, wide, length, HV, DK)
        d_rates += tl.sum(keys * (product(between_recalls, keys) - from_recalls), axis=1)
        d_later += tl.sum(keys * BR, axis=1)
        d_G += tl.sum(queries * dQ - keys * L, axis=1)
        d_last += tl.sum(keys * from_writes) + through * kept
    store_numbers(d_beta, d_rates, token, head, rows, length, HV)
    d_decay = d_last + tl.cumsum(d_G + d_later, 0, reverse=True)
    if UNDECAYED:
        d_decay -= d_later
    store_numbers(d_g, d_decay, token, head, rows, length, HV)
