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

from ops.delta_rule.tiles import (
    decay_between,
    load_numbers,
    load_state,
    load_vectors,
    masked_exp,
    product,
    segment_before,
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
    sequence, head, first = (tl.program_id(1) // HV).to(tl.int64), tl.program_id(1) % HV, tl.program_id(0) * C
    token, length, rows = sequence * T + first, T - first, tl.arange(0, C)
    gram = tl.zeros((C, C), tl.float32)
    for column in range(0, DK, BK):
        wide = column + tl.arange(0, BK)
        queries = load_vectors(q, token, head // (HV // H), rows, wide, length, H, DK)
        keys = load_vectors(k, token, head // (HV // H), rows, wide, length, H, DK)
        gram += product(queries, tl.trans(keys))
    G = load_numbers(cumulative, token, head, rows, length, HV)
    segments = load_numbers(segment, token, 0, rows, length, 1, -1)
    P = scale * gram * decay_between(G, G, segments, rows[:, None] >= rows[None, :])
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
    sequence, chunks = owner // HV, tl.cdiv(T, C)
    rows, wide, columns = tl.arange(0, C), tl.arange(0, BK), tl.program_id(0) * BV + tl.arange(0, BV)
    D = load_state(d_final, owner, wide, columns, DK, DV)
    for later_chunks in range(chunks):
        chunk = chunks - 1 - later_chunks
        token, length = sequence * T + chunk * C, T - chunk * C
        last = token + min(length, C) - 1
        store_state(d_states, D, owner * chunks + chunk, wide, columns, DK, DV)
        segments, leaving = load_numbers(segment, token, 0, rows, length, 1, -1), tl.load(segment + last)
        entering = segment_before(segment, sequence * T, chunk * C)
        G, G_last = load_numbers(cumulative, token, head, rows, length, HV), tl.load(cumulative + last * HV + head)
        keys = load_vectors(k, token, head // (HV // H), rows, wide, length, H, DK)
        dN = masked_exp(G_last - G, segments == leaving)[:, None] * product(keys, D.to(keys.dtype))
        dN += load_vectors(d_local, token, head, rows, columns, length, HV, DV)
        store_vectors(d_written, dN, token, head, rows, columns, length, HV, DV)
        queries = load_vectors(q, token, head // (HV // H), rows, wide, length, H, DK)
        dO = load_vectors(d_output, token, head, rows, columns, length, HV, DV)
        dO = (dO * (scale * masked_exp(G, segments == entering))[:, None]).to(queries.dtype)
        reads = load_vectors(w, token, head, rows, wide, length, HV, DK)
        D *= masked_exp(G_last, leaving == entering)
        D += product(tl.trans(queries), dO) - product(tl.trans(reads), dN.to(reads.dtype))
    store_state(d_state, D, owner, wide, columns, DK, DV)


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
    owner, head, first = tl.program_id(1).to(tl.int64), tl.program_id(1) % HV, tl.program_id(0) * C
    sequence, index = owner // HV, owner * tl.cdiv(T, C) + tl.program_id(0)
    token, length, rows = sequence * T + first, T - first, tl.arange(0, C)
    rates = load_numbers(beta, token, head, rows, length, HV)
    solved = tl.trans(load_vectors(inverse, token, head, rows, rows, length, HV, C)).to(k.dtype.element_ty)

    # Over the values: dV, and the two matrices between tokens.
    dP, ZN, d_rates = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32), tl.zeros((C,), tl.float32)
    for column in range(0, DV, BV):
        columns = column + tl.arange(0, BV)
        Z = product(solved, load_vectors(d_written, token, head, rows, columns, length, HV, DV))
        store_vectors(d_v, rates[:, None] * Z, token, head, rows, columns, length, HV, DV)
        d_rates += tl.sum(Z * load_vectors(v, token, head, rows, columns, length, HV, DV), axis=1)
        N = load_vectors(written, token, head, rows, columns, length, HV, DV)
        ZN += product(Z.to(k.dtype.element_ty), tl.trans(N))
        dP += product(load_vectors(d_output, token, head, rows, columns, length, HV, DV), tl.trans(N))

    last = token + min(length, C) - 1
    segments, leaving = load_numbers(segment, token, 0, rows, length, 1, -1), tl.load(segment + last)
    entering = segment_before(segment, sequence * T, first)
    G, G_last = load_numbers(cumulative, token, head, rows, length, HV), tl.load(cumulative + last * HV + head)
    later = load_numbers(recall, token, head, rows, length, HV)
    reads = scale * masked_exp(G, segments == entering)
    recalls = masked_exp(later, segments == entering)
    leaves = masked_exp(G_last - G, segments == leaving)
    between_reads = scale * dP * decay_between(G, G, segments, rows[:, None] >= rows[None, :])
    between_reads = between_reads.to(k.dtype.element_ty)
    between_recalls = -ZN * decay_between(later, G, segments, rows[:, None] > rows[None, :])
    # Rounded once for the row and for the column that it adds to: in the gradient of a decay the two cancel.
    between_writes = (rates[:, None] * between_recalls).to(k.dtype.element_ty)
    between_recalls = between_recalls.to(k.dtype.element_ty)

    # Over the keys: dQ and dK, and what is left of dβ and the decays.
    d_later, d_G, d_last = tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32), 0.0
    for start in range(0, DK, BK):
        wide = start + tl.arange(0, BK)
        from_reads, from_recalls = tl.zeros((C, BK), tl.float32), tl.zeros((C, BK), tl.float32)
        from_writes, kept = tl.zeros((C, BK), tl.float32), 0.0
        for column in range(0, DV, BV):
            columns = column + tl.arange(0, BV)
            S = load_state(states, index, wide, columns, DK, DV)
            D = load_state(d_states, index, wide, columns, DK, DV)
            dO = load_vectors(d_output, token, head, rows, columns, length, HV, DV)
            N = load_vectors(written, token, head, rows, columns, length, HV, DV)
            Z = product(solved, load_vectors(d_written, token, head, rows, columns, length, HV, DV))
            from_reads += product(dO, tl.trans(S))
            from_recalls += product(Z.to(k.dtype.element_ty), tl.trans(S))
            from_writes += product(N, tl.trans(D))
            kept += tl.sum(S.to(tl.float32) * D.to(tl.float32))
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
        d_last += tl.sum(keys * from_writes) + masked_exp(G_last, leaving == entering) * kept
    store_numbers(d_beta, d_rates, token, head, rows, length, HV)
    d_decay = d_last + tl.cumsum(d_G + d_later, 0, reverse=True)
    if UNDECAYED:
        d_decay -= d_later
    store_numbers(d_g, d_decay, token, head, rows, length, HV)
