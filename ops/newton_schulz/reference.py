"""Newton-Schulz orthogonalisation as the papers write it: one matrix, one dtype, five lines.

With G = U S Vᵀ the iteration X <- aX + (bA + cA²)X, A = XXᵀ, drives the singular values of G / |G| towards one and
leaves U and V as they are. The quintic trades exactness for speed: after five steps the values lie near [0.7, 1.2].

1. Jordan et al. 2024, Muon.  2. Bernstein and Newhouse 2024, arXiv 2409.20325.
"""

from torch import Tensor

# a, b, c of the quintic.
QUINTIC = (3.4445, -4.7750, 2.0315)


def newton_schulz_reference(
    G: Tensor,  # [rows, cols]
    steps: int = 5,
) -> Tensor:  # [rows, cols], in G's dtype
    """The nearly orthogonal factor of one matrix."""
    a, b, c = QUINTIC
    X = G / (G.norm() + 1e-7)
    if G.shape[0] > G.shape[1]:
        X = X.T
    for _ in range(steps):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return X.T if G.shape[0] > G.shape[1] else X
