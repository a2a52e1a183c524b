"""How much of what is real a model draws, and how much of what it draws is real: two numbers, so that collapse is one.

Letters: N drawn, M real pictures, D features.
"""

import numpy as np


def precision_and_recall(drawn: np.ndarray, real: np.ndarray, *, k: int = 3) -> tuple[float, float]:
    """(precision, recall) in [0, 1] of drawn (N, D) and real (M, D) features.

    A set is taken for the balls around its rows, each up to the row's k-th nearest other row of the set. Precision is
    the share of drawn rows in a ball of a real one, recall the share of real rows in a ball of a drawn one: a model
    that draws one good picture again and again has precision 1 and a recall near 0. Both grow with the set that has the
    balls, so only numbers of equal N and M compare.
    Raises ValueError for sets of k rows or fewer, of different D or not finite.
    Kynkäänniemi et al. 2019, "Improved precision and recall metric", arXiv 1904.06991, eq. 1 and 2, k = 3.
    """
    drawn, real = np.asarray(drawn, np.float64), np.asarray(real, np.float64)
    if drawn.ndim != 2 or real.ndim != 2 or drawn.shape[1] != real.shape[1] or min(len(drawn), len(real)) <= k:
        raise ValueError(f"need more than {k} rows of one D in either set; got {drawn.shape} and {real.shape}")
    if not (np.isfinite(drawn).all() and np.isfinite(real).all()):
        raise ValueError("features hold values that are not finite")
    across = _squares(drawn, real)  # (N, M)
    return float((across <= _radii(real, k)).any(1).mean()), float((across.T <= _radii(drawn, k)).any(1).mean())


def _radii(rows: np.ndarray, k: int) -> np.ndarray:
    """The squared distance of each row to its k-th nearest other row, (N,)."""
    return np.partition(_squares(rows, rows), k, axis=1)[:, k]  # the nearest is the row itself


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances (N, M), row by row: the expanded square would leave a copy at a distance from itself."""
    return np.stack([np.square(b - row).sum(1) for row in a])
