"""Plots of the page, as SVG: how far apart two films are, and the score on a plane.

Letters: F frames, N points of a plane, K chains of S steps.
"""

import html
from collections.abc import Sequence

import numpy as np

from apps.ddpm import words
from apps.ddpm.paint import Film

WIDTH, HEIGHT = 640, 90  # of the curves of two films
SIDE, THUMBNAIL = 600, 62  # of the plane and of the pictures on it
RAMP = np.array([(13, 148, 136), (245, 158, 11), (220, 38, 38)])  # from short to long: teal, amber, red
SHORTEST = 0.3  # of the arrows, as a share of the longest one
FAINTEST = 0.35  # opacity of chains


def apart(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(F,) mean distance between the pixels of two films' frames (F, B, R, R, 3), as a share of black to white."""
    return np.abs(first.astype(np.float32) - second).mean((1, 2, 3, 4)) / 255


def apart_html(both: Sequence[Film], at: int) -> str:
    """How far apart two films are, frame by frame, in x_t and in predicted x0; a line marks the frame."""
    film, other = both
    noisy, guess = apart(film.noisy, other.noisy), apart(film.guess, other.guess)
    top = max(noisy.max(), guess.max(), 1e-3)

    def curve(shares: np.ndarray, name: str) -> str:
        across = np.linspace(0, WIDTH, len(shares))
        points = zip(across, HEIGHT - 2 - (HEIGHT - 4) * shares / top, strict=True)
        return f'<polyline class="{name}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'

    x = WIDTH * at / max(1, film.last)
    said = (
        f'<p><i class="noisy"></i>x<sub>t</sub> differ by {noisy[at]:.1%} of the way from black to white, on average; '
        f'<i class="guess"></i>predicted x<sub>0</sub> by {guess[at]:.1%}.</p>'
    )
    return (
        f'<div class="apart">{said}<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="How far apart both films'
        f' are, from noise to picture"><line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT}"/>'
        f"{curve(noisy, 'noisy')}{curve(guess, 'guess')}</svg></div>"
    )


def colour(share: float) -> str:
    """A colour of RAMP, at a share of it from 0 to 1."""
    place = min(max(share, 0), 1) * (len(RAMP) - 1)
    return "#" + "".join(f"{round(np.interp(place, range(len(RAMP)), RAMP[:, c])):02x}" for c in range(3))


def plane_svg(
    points: np.ndarray, slopes: np.ndarray, corners: np.ndarray, thumbnails: np.ndarray,
    paths: np.ndarray, said: str,
) -> str:  # fmt: skip
    """Arrows along slopes (N, 2) at points (N, 2), a square of them; pictures (3, R, R, 3) at their corners (3, 2), and
    paths (K, S + 1, 2). Colour and size of an arrow are its slope's length. said: in the place of the picture."""
    low, high = points.min(0), points.max(0)
    cell = (high - low).max() / (round(len(points) ** 0.5) - 1)
    low = low - cell / 2
    scale = SIDE / (high + cell / 2 - low).max()

    def place(at: np.ndarray) -> np.ndarray:
        return np.array([0, SIDE]) + (at - low) * scale * np.array([1, -1])  # upwards is less in SVG

    lengths = np.linalg.norm(slopes, axis=1)
    least, most = lengths.min(), lengths.max()
    shares = (lengths - least) / max(most - least, 1e-12)
    arrows = [
        _arrow(middle, slope / max(length, 1e-12) * (1, -1), 0.86 * cell * scale * (SHORTEST + (1 - SHORTEST) * share),
               colour(share))
        for middle, slope, length, share in zip(place(points), slopes, lengths, shares, strict=True)
    ]  # fmt: skip
    pictures = "".join(
        _thumbnail(words.data_url(pixels, THUMBNAIL), x, y, k + 1)
        for k, (pixels, (x, y)) in enumerate(zip(thumbnails, place(corners), strict=True))
    )
    return (
        f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{html.escape(said)}">'
        f"{''.join(arrows)}{pictures}{_chains([place(path) for path in paths])}</svg>"
    )


def _arrow(middle: np.ndarray, direction: np.ndarray, length: float, stroke: str) -> str:
    """An arrow of that length around its middle; direction is of length 1, or 0: nothing then."""
    tip, tail = middle + direction * length / 2, middle - direction * length / 2
    back, side = tip - direction * length * 0.35, np.array([-direction[1], direction[0]]) * length * 0.22
    x, y = zip(tail, tip, back + side, back - side, strict=True)
    head = f"M{x[2]:.1f} {y[2]:.1f}L{x[1]:.1f} {y[1]:.1f}L{x[3]:.1f} {y[3]:.1f}"
    return f'<path stroke="{stroke}" d="M{x[0]:.1f} {y[0]:.1f}L{x[1]:.1f} {y[1]:.1f}{head}"/>'


def _chains(ways: Sequence[np.ndarray]) -> str:
    """Chains along ways (S + 1, 2), from a ring to a dot; fainter the wider their steps are, for the arrows."""
    drawn = ""
    for way in ways:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in way)
        drawn += f'<polyline class="case" points="{points}"/><polyline class="path" points="{points}"/>'
        drawn += f'<circle class="start" cx="{way[0, 0]:.1f}" cy="{way[0, 1]:.1f}" r="4"/>'
        drawn += f'<circle class="end" cx="{way[-1, 0]:.1f}" cy="{way[-1, 1]:.1f}" r="5"/>'
    step_px = np.linalg.norm(np.diff(ways, axis=1), axis=2).mean() if len(ways) else 0
    return f'<g opacity="{np.interp(step_px, (25, 60), (1, FAINTEST)):.2f}">{drawn}</g>'


def _thumbnail(url: str, x: float, y: float, number: int) -> str:
    left, top = x - THUMBNAIL / 2, y - THUMBNAIL / 2
    return (
        f'<image href="{url}" x="{left:.1f}" y="{top:.1f}" width="{THUMBNAIL}" height="{THUMBNAIL}"/>'
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{THUMBNAIL}" height="{THUMBNAIL}" rx="3"/>'
        f'<text x="{left + 5:.1f}" y="{top - 5:.1f}">{number}</text>'
    )
