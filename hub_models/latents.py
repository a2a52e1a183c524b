"""What is known of a space of latents with one vector a picture: where its classes lie, and which way a change goes.

Part of an autoencoder's preprocessor_config.json, under "latents":

    {"label_names", "means" (K, D), "factors": of each label the rows of a triangle, "directions": {name: (D,)}}

Letters: B pictures, K labels, D numbers of a latent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from hub_models.ways import row_of


@dataclass(frozen=True)
class LatentSpace:
    """A Gaussian of latents for each label, N(means[k], factors[k] factors[k]ᵀ), and directions with a name."""

    label_names: Sequence[str]
    means: torch.Tensor  # (K, D)
    factors: torch.Tensor  # (K, D, D), lower triangles
    directions: Mapping[str, torch.Tensor] = field(default_factory=dict)  # {"frown → smile": (D,)}

    def draw(self, labels: Sequence[int | str | None], noise: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """Latents (B, D) of noise (B, D): from the Gaussian of each label; from N(0, I) where it is None or "any".

        temperature: deviations are so many times as large. Raises ValueError that lists the labels.
        """
        rows = [None if label in (None, "any") else row_of(label, self.label_names, None) for label in labels]
        drawn = [
            z if k is None else self.means[k] + self.factors[k] @ z
            for k, z in zip(rows, temperature * noise.cpu(), strict=True)
        ]
        return torch.stack(drawn).to(noise)

    def direction(self, name: str, to: str | None = None) -> torch.Tensor:
        """The vector (D,) of a kept direction; with `to`, from the mean of label `name` to that of label `to`.

        Raises ValueError that lists what there is.
        """
        if to is not None:
            here, there = (row_of(label, self.label_names, None) for label in (name, to))
            return self.means[there] - self.means[here]
        if name not in self.directions:
            known = ", ".join(self.directions) or "none"
            raise ValueError(f"no direction is called {name!r}: kept are {known}; or give two labels")
        return self.directions[name]

    def as_json(self) -> dict:
        """What `from_json` reads: six digits of each number."""
        triangles = [[_rounded(row[: at + 1]) for at, row in enumerate(factor)] for factor in self.factors]
        return {
            "label_names": list(self.label_names),
            "means": [_rounded(mean) for mean in self.means],
            "factors": triangles,
            "directions": {name: _rounded(vector) for name, vector in self.directions.items()},
        }


def from_json(saved: object, dimensions: int) -> LatentSpace:
    """A space of D dimensions from what `as_json` gave. Raises ValueError, which says what is wrong with it."""
    if not isinstance(saved, dict):
        raise ValueError("latents is no object")
    names, triangles, named = (saved.get(key) for key in ("label_names", "factors", "directions"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("latents.label_names is not a list of texts")
    if not isinstance(named, dict) or not isinstance(triangles, list) or len(triangles) != len(names):
        raise ValueError("latents has no directions, or another number of factors than labels")
    factors = torch.zeros(len(names), dimensions, dimensions)
    for factor, rows in zip(factors, triangles, strict=True):
        if not isinstance(rows, list) or len(rows) != dimensions:
            raise ValueError(f"latents.factors is no triangle of {dimensions} rows for each label")
        for at, row in enumerate(rows):
            factor[at, : at + 1] = _vector(row, at + 1, "factors")
    means = [_vector(mean, dimensions, "means") for mean in _listed(saved.get("means"), len(names))]
    directions = {name: _vector(vector, dimensions, "directions") for name, vector in named.items()}
    return LatentSpace(names, torch.stack(means) if means else torch.zeros(0, dimensions), factors, directions)


def gaussians(rows: np.ndarray, labels: np.ndarray, label_names: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Means (K, D) and factors (K, D, D) of a Gaussian per label over latents (N, D), with labels (N,).

    The covariance of n pictures of a label is drawn towards that within all labels together, as if D more pictures had
    it: (n S_k + D S) / (n + D). A label without pictures has the mean of all, and S.
    """
    rows = np.asarray(rows, np.float64)
    size = rows.shape[1]
    means = np.stack(
        [rows[labels == k].mean(0) if (labels == k).any() else rows.mean(0) for k in range(len(label_names))]
    )
    apart = rows - means[labels]
    within = apart.T @ apart / len(rows) + 1e-6 * np.eye(size)
    factors = []
    for k in range(len(label_names)):
        own = apart[labels == k]
        factors.append(np.linalg.cholesky((own.T @ own + size * within) / (len(own) + size)))
    return torch.from_numpy(means).float(), torch.from_numpy(np.stack(factors)).float()


def between(first: torch.Tensor, second: torch.Tensor, steps: int) -> torch.Tensor:
    """Latents (steps, D) on the arc from one (D,) to another, both ends among them, lengths in even steps.

    White 2016, "Sampling generative networks", §2.1: a straight line would lead through lengths that no latent has.
    """
    share = torch.linspace(0, 1, steps, device=first.device)[:, None]  # (S, 1)
    lengths = (1 - share) * first.norm() + share * second.norm()
    a, b = (torch.nn.functional.normalize(end, dim=0) for end in (first, second))
    angle = (a @ b).clamp(-1, 1).acos()
    if angle.sin() < 1e-4:  # the same direction, or the opposite one
        return (1 - share) * first + share * second
    return lengths * (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()


def _listed(value: object, count: int) -> list:
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"latents.means is no list of {count} rows")
    return value


def _vector(row: object, size: int, what: str) -> torch.Tensor:
    try:
        vector = torch.tensor(row, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"latents.{what} has a row that is no list of numbers") from error
    if vector.shape != (size,) or not vector.isfinite().all():
        raise ValueError(f"latents.{what} has a row that is not {size} finite numbers")
    return vector


def _rounded(values: torch.Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]
