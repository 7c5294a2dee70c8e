"""Newton-Schulz over a stack of matrices of one shape: three batched products a step instead of many small ones."""

import torch
from torch import Tensor

from ops.newton_schulz.reference import QUINTIC


def newton_schulz(
    G: Tensor,  # [n, rows, cols]
    steps: int = 5,
    dtype: torch.dtype = torch.bfloat16,  # what the products run in
) -> Tensor:  # [n, rows, cols] in `dtype`
    """The nearly orthogonal factor of every matrix in the stack; a zero matrix stays zero."""
    a, b, c = QUINTIC
    tall = G.shape[-2] > G.shape[-1]
    X = G.to(dtype)
    X = X / (X.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    # The Gram matrix is taken on the short side.
    X = X.mT if tall else X
    for _ in range(steps):
        A = X @ X.mT
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=b, alpha=c), X, beta=a)
    return X.mT if tall else X
