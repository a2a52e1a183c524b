"""Principal components of features, and features as colours in a basis of three of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def principal_components(rows: np.ndarray, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and the first `count` principal components (D, count) of rows (N, D), float64, largest variance first.

    Orthonormal; the largest number of each component is positive, so that the same rows give the same signs.
    Raises ValueError for fewer dimensions than components, and rows that are not finite.
    """
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise ValueError(f"rows must be a matrix of finite numbers, not {rows.shape}")
    if rows.shape[1] < count or not len(rows):
        raise ValueError(f"rows {rows.shape} don't have {count} components")
    mean = rows.mean(0)
    _, vectors = np.linalg.eigh((rows - mean).T @ (rows - mean))  # ascending
    basis = vectors[:, ::-1][:, :count]
    return mean, basis * np.sign(np.take_along_axis(basis, np.abs(basis).argmax(0)[None], 0))


def fitted(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Three principal components of rows (N, D) as `colours` takes them: mean (D,), basis (D, 3), low and high (3,).

    low and high: the 2nd and the 98th percentile on each component. Raises ValueError as `principal_components`.
    """
    mean, basis = principal_components(rows, 3)
    low, high = np.percentile((rows - mean) @ basis, (2, 98), axis=0)
    return {"mean": mean, "basis": basis, "low": low, "high": high}


def colours(values: np.ndarray, pca: Mapping[str, Any] | None) -> np.ndarray | None:
    """Values (h, w, D) as colours (h, w, 3) uint8: components from low to high go from 0 to 255; None without pca."""
    if not pca:
        return None
    mean, basis, low, high = (np.asarray(pca[key], np.float32) for key in ("mean", "basis", "low", "high"))
    if basis.shape != (values.shape[-1], 3):
        return None
    scaled = ((values - mean) @ basis - low) / np.maximum(high - low, 1e-6)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
