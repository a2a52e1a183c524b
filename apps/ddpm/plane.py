"""The plane through three pictures in the space of all pictures, and a model's score on it.

Letters: C × H × W the shape of a picture, D its numbers, N points of the plane, K chains of S steps. Points have two
coordinates on the plane's axes, in the units of pixels in [-1, 1]; a score is a function of noisy pictures
(N, C, H, W), of their shape. a is ᾱ: at its level of noise a point of the plane stands for √ᾱ times its picture.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from hub_models import samplers

FLAT = 1e-3  # the share of a third picture's way that must leave the line of the first two
BATCH = 32  # points that the model sees at a time

Score = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Plane:
    """Where it begins, and its two orthonormal axes."""

    origin: torch.Tensor  # (C, H, W), the first picture
    axes: torch.Tensor  # (2, D)

    @classmethod
    def through(cls, pictures: torch.Tensor) -> "Plane":
        """The plane through three pictures (3, C, H, W), its axes by Gram and Schmidt: the first leads to the second.

        Raises ValueError where they lie on a line.
        """
        first, second = (pictures[1:] - pictures[0]).flatten(1).double()  # (D,)
        if not first.norm() > 0:
            raise ValueError("the first two pictures are the same")
        along = first / first.norm()
        across = second - (second @ along) * along
        if not across.norm() > FLAT * max(first.norm(), second.norm()):
            raise ValueError("the three pictures lie on a line")
        return cls(pictures[0], torch.stack([along, across / across.norm()]).to(pictures.dtype))

    def coordinates(self, pictures: torch.Tensor) -> torch.Tensor:
        """The points (N, 2) that lie nearest to pictures (N, C, H, W)."""
        return self.along(pictures - self.origin)

    def along(self, directions: torch.Tensor) -> torch.Tensor:
        """What of directions (N, C, H, W) lies in the plane, (N, 2)."""
        return directions.flatten(1) @ self.axes.T

    def pictures(self, points: torch.Tensor) -> torch.Tensor:
        """The pictures (N, C, H, W) at points (N, 2)."""
        return self.origin + (points @ self.axes).unflatten(1, self.origin.shape)


def square(points: torch.Tensor, cells: int, margin: float) -> torch.Tensor:
    """The middles (cells ** 2, 2) of a square's cells, row by row, with the points in it and a margin around them.

    margin: a share of the larger side of the points' own box.
    """
    low, high = points.amin(0), points.amax(0)  # (2,)
    side = (high - low).max() * (1 + 2 * margin)
    steps = ((torch.arange(cells) + 0.5) / cells - 0.5) * side  # (cells,)
    middle = (low + high) / 2
    return torch.cartesian_prod(middle[1] + steps, middle[0] + steps).flip(1)


def scores(plane: Plane, score: Score, a: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The score at points (N, 2) as far as it lies in the plane, (N, 2), and the length of the whole one, (N,)."""
    parts = [score(a.sqrt() * plane.pictures(some)) for some in points.split(BATCH)]
    return torch.cat([plane.along(part) for part in parts]), torch.cat([part.flatten(1).norm(dim=1) for part in parts])


def chains(
    plane: Plane, score: Score, a: torch.Tensor, starts: torch.Tensor, steps: int, generator: torch.Generator
) -> torch.Tensor:
    """Points (K, S + 1, 2) of Langevin chains at one level of noise, from starts (K, 2); see `samplers.langevin`.

    They stay in the plane: slope and noise are projected onto it, which samples the density that the plane cuts out of
    the model's. (Normal noise of all D numbers, projected, is normal noise of two.)
    """
    x = a.sqrt() * starts  # (K, 2)
    path = [x]
    for _ in range(steps):
        slope, _ = scores(plane, score, a, x / a.sqrt())
        x = samplers.langevin(x, slope, a, torch.randn(x.shape, generator=generator))
        path.append(x)
    return torch.stack(path, 1) / a.sqrt()
