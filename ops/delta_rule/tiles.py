"""What the kernels of the delta rule share: where a chunk lies, tiles in and out of memory, the inverse of a chunk.

Every kernel works on chunks of C tokens, of which `rows` are the numbers; rows beyond the sequence are read as zeros.
Pointers advance in 64 bits; places within a chunk fit into 32.
"""

from ops.triton_or_none import INTERPRETED, constexpr, jit, tl


@jit
def product(a, b):
    """a b, accumulated in fp32; fp32 operands in three tensor core products, so with nearly all of their bits."""
    # The interpreter would multiply the bits of bf16 as integers.
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="tf32x3")


@jit
def chunk_place(owner, chunk, T, HV: constexpr, C: constexpr):
    """Where the owner's sequence begins in the batch, where this chunk of it does, and how many tokens are left there.

    An owner is a head of a sequence, and has a state.
    """
    begin = (owner // HV).to(tl.int64) * T
    return begin, begin + chunk * C, T - chunk * C


@jit
def load_numbers(pointer, token, head, rows, length, HEADS: constexpr, other=0.0):
    """One number of a head for each of `rows` tokens from `token` on, of which `length` are left: [C]."""
    return tl.load(pointer + token * HEADS + head + rows * HEADS, mask=rows < length, other=other)


@jit
def store_numbers(pointer, values, token, head, rows, length, HEADS: constexpr):
    """What `load_numbers` reads."""
    tl.store(pointer + token * HEADS + head + rows * HEADS, values, mask=rows < length)


@jit
def load_vectors(pointer, token, head, rows, columns, length, HEADS: constexpr, D: constexpr):
    """These columns of a head's vectors, for each of `rows` tokens from `token` on: [C, columns]."""
    pointer += (token * HEADS + head) * D
    places = rows[:, None] * (HEADS * D) + columns[None, :]
    return tl.load(pointer + places, mask=(rows < length)[:, None] & (columns < D)[None, :], other=0.0)


@jit
def store_vectors(pointer, values, token, head, rows, columns, length, HEADS: constexpr, D: constexpr):
    """What `load_vectors` reads, in the dtype that lies there."""
    pointer += (token * HEADS + head) * D
    places = rows[:, None] * (HEADS * D) + columns[None, :]
    inside = (rows < length)[:, None] & (columns < D)[None, :]
    tl.store(pointer + places, values.to(pointer.dtype.element_ty), mask=inside)


@jit
def load_state(pointer, index, wide, columns, DK: constexpr, DV: constexpr):
    """A part of the state with this index: [wide, columns]."""
    pointer += index * DK * DV
    places = wide[:, None] * DV + columns[None, :]
    return tl.load(pointer + places, mask=(wide < DK)[:, None] & (columns < DV)[None, :], other=0.0)


@jit
def store_state(pointer, values, index, wide, columns, DK: constexpr, DV: constexpr):
    """What `load_state` reads, in the dtype that lies there."""
    pointer += index * DK * DV
    places = wide[:, None] * DV + columns[None, :]
    inside = (wide < DK)[:, None] & (columns < DV)[None, :]
    tl.store(pointer + places, values.to(pointer.dtype.element_ty), mask=inside)


@jit
def dot_products(
    left,  # [B, T, HEADS, D]
    right,  # [B, T, HEADS, D]
    token,
    head,
    rows,
    length,
    HEADS: constexpr,
    D: constexpr,
    C: constexpr,
    BLOCK: constexpr,
):
    """Of every vector of the chunk in `left` with every one in `right`: [C, C]."""
    sums = tl.zeros((C, C), tl.float32)
    for start in range(0, D, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        a = load_vectors(left, token, head, rows, columns, length, HEADS, D)
        sums += product(a, tl.trans(load_vectors(right, token, head, rows, columns, length, HEADS, D)))
    return sums


@jit
def quadrants(A, N: constexpr):
    """Upper left, lower left and lower right quarter of A [N, N]."""
    parts = A.reshape(2, N // 2, 2, N // 2).permute(1, 3, 0, 2)
    left, right = tl.split(parts)
    upper_left, lower_left = tl.split(left)
    _, lower_right = tl.split(right)
    return upper_left, lower_left, lower_right


@jit
def assembled(upper_left, lower_left, lower_right, N: constexpr):
    """The lower triangular [N, N] of these quarters."""
    left = tl.join(upper_left, lower_left)
    right = tl.join(tl.zeros_like(upper_left), lower_right)
    return tl.join(left, right).permute(2, 0, 3, 1).reshape(N, N)


@jit
def diagonal_inverses(A, N: constexpr, BASE: constexpr):
    """The inverses of the diagonal blocks of I + A, by forward substitution in all blocks at once: [N, N]."""
    block, index = tl.arange(0, N // BASE), tl.arange(0, BASE)
    here = block[:, None, None, None] == block[None, None, :, None]
    strict = -tl.sum(tl.where(here, A.reshape(N // BASE, BASE, N // BASE, BASE), 0.0), axis=2)
    for row in range(2, BASE):
        at_row = (index == row)[None, :, None]
        entries = tl.sum(tl.where(at_row, strict, 0.0), axis=1)
        entries += tl.sum(entries[:, :, None] * strict, axis=1)
        strict = tl.where(at_row, entries[:, None, :], strict)
    whole = strict + (index[:, None] == index[None, :]).to(tl.float32)[None, :, :]
    return tl.where(here, whole[:, :, None, :], 0.0).reshape(N, N)


@jit
def joined_inverse(A, D, N: constexpr, BASE: constexpr):
    """(I + A)⁻¹ out of the inverses D of the diagonal blocks: the lower left quarter is -X₁₁ A₁₀ X₀₀."""
    if N == BASE:
        return D
    # Triton compiles no branch that a compile-time condition rules out, if it is an else.
    else:  # noqa: RET505
        first, between, second = quadrants(A, N)
        D_first, _, D_second = quadrants(D, N)
        X_first = joined_inverse(first, D_first, N // 2, BASE)
        X_second = joined_inverse(second, D_second, N // 2, BASE)
        return assembled(X_first, -product(X_second, product(between, X_first)), X_second, N)


@jit
def inverse_of_one_plus(A, N: constexpr):
    """(I + A)⁻¹ of a strictly lower triangular A [N, N] in fp32."""
    return joined_inverse(A, diagonal_inverses(A, N, 16), N, 16)
