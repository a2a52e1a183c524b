"""Non-maximum suppression as a film: all candidates, and step by step the surest one left, which silences others.

Letters: N candidates, S steps, as many as are kept.
"""

import html
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from apps.detection.paint import Doubles, Seen, ink
from apps.kit import parts, pictures
from hub_models.detection import Detections, overlaps, silenced_by

SIDE_PX = 480  # of the picture in it


@dataclass(frozen=True)
class Film:
    """Who silences whom among the candidates of a picture."""

    seen: Seen
    candidates: Detections  # N, the surest first
    by: np.ndarray  # (N,) which one silences each; -1 for those that are kept
    shared: np.ndarray  # (N, N) intersection over union

    @classmethod
    def of(cls, seen: Seen, least: float, doubles: Doubles) -> "Film":
        """The candidates above a score, where those that overlap silence each other."""
        candidates = seen.above(least)
        by = silenced_by(candidates, doubles.overlap, across_classes=doubles.across)
        return cls(seen, candidates, by, overlaps(candidates.boxes, candidates.boxes))

    @property
    def kept(self) -> list[int]:
        """The candidates that are kept, in the order of the steps (S)."""
        return np.flatnonzero(self.by < 0).tolist()

    def silenced(self, k: int) -> list[int]:
        """Those whom a candidate silences."""
        return np.flatnonzero(self.by == k).tolist()

    def name(self, k: int) -> str:
        return f"{self.candidates.label_names[self.candidates.labels[k]]} {self.candidates.scores[k]:.0%}"

    def report(self) -> dict:
        """For programs: the candidates, and for each step who is kept and whom it silences."""
        found = self.candidates
        rows = [
            {
                "id": k,
                "label": found.label_names[found.labels[k]],
                "score": round(float(found.scores[k]), 6),
                "box": [round(float(edge), 2) for edge in found.boxes[k]],
                "silenced_by": int(self.by[k]) if self.by[k] >= 0 else None,
            }
            for k in range(len(found))
        ]
        steps = [
            {"keeps": k, "silences": [{"id": j, "overlap": round(float(self.shared[k, j]), 4)}
                                      for j in self.silenced(k)]}
            for k in self.kept
        ]  # fmt: skip
        return {"candidates": rows, "steps": steps, "kept": len(steps), "silenced": len(rows) - len(steps)}

    def html(self) -> str:
        """The picture under its candidates, buttons and a slider for the steps, and what happens in each."""
        steps = self.kept
        if not steps:
            return parts.blank("No candidate is that sure: take less sure ones in.")
        silenced = len(self.by) - len(steps)
        many = f"{len(self.by)} candidates, all that are sure enough" if len(self.by) > 1 else "1 candidate alone"
        lines = [f'<li data-step="0">{many}. The surest comes first.</li>']
        for number, k in enumerate(steps, start=1):
            lines.append(f'<li data-step="{number}">{self._line(k)}</li>')
        end = f"Kept: {len(steps)}. Silenced: {silenced}."
        return (
            f'<div class="film" data-steps="{len(steps)}"><div class="stage">{self._svg()}</div>'
            '<div class="bar"><button type="button" data-go="-1">Back</button>'
            '<button type="button" data-go="play" aria-pressed="false">Play</button>'
            '<button type="button" data-go="1">Next</button>'
            f'<input type="range" min="0" max="{len(steps)}" value="0" step="1" aria-label="Step">'
            f'<output role="status">Step 0 of {len(steps)}</output></div>'
            f'<ol class="steps" aria-label="Steps">{"".join(lines)}</ol><p class="end">{end}</p></div>'
        )

    def _line(self, k: int) -> str:
        others = self.silenced(k)
        whom = ", ".join(f"{html.escape(self.name(j))} (shares {self.shared[k, j]:.0%})" for j in others)
        does = f"silences {whom}" if others else "silences nobody"
        return f"<b>{html.escape(self.name(k))}</b> is kept and {does}."

    def _svg(self) -> str:
        """The picture and a box for each candidate, the surest on top; its data say in which step it changes."""
        picture = self.seen.picture.copy()
        picture.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
        picture.save(buffer := io.BytesIO(), "JPEG", quality=88)
        width, height = pictures.shown_size(self.seen.picture.size)
        at = {k: number for number, k in enumerate(self.kept, start=1)}
        scale = np.array((width, height) * 2) / np.array(self.seen.picture.size * 2)
        boxes = []
        for k in range(len(self.candidates) - 1, -1, -1):
            kept = self.by[k] < 0
            step = at[k if kept else int(self.by[k])]
            boxes.append(self._box(k, self.candidates.boxes[k] * scale, "kept" if kept else "silenced", step, width))
        image = f'<image href="{pictures.data_url(buffer.getvalue(), "jpeg")}" width="{width}" height="{height}"/>'
        name = "Candidates over the picture"
        return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}">{image}{"".join(boxes)}</svg>'

    def _box(self, k: int, box: np.ndarray, fate: str, step: int, width: int) -> str:
        left, top, right, bottom = (float(edge) for edge in box)
        colour = self.seen.colours[self.candidates.labels[k]]
        said = html.escape(self.name(k))
        wide = 10 * len(self.name(k)) + 12
        x, y = min(max(left, 0), max(width - wide, 0)), top - 28 if top >= 28 else max(top, 0)
        rgb, on = (f"rgb({r},{g},{b})" for r, g, b in (colour, ink(colour)))
        return (
            f'<g class="waiting" data-fate="{fate}" data-step="{step}" style="--own:{rgb}">'
            f'<rect class="edge" x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 1):.1f}" '
            f'height="{max(bottom - top, 1):.1f}"/>'
            f'<g class="tag"><rect x="{x:.1f}" y="{y:.1f}" width="{wide}" height="28" rx="4" fill="{rgb}"/>'
            f'<text x="{x + 6:.1f}" y="{y + 20:.1f}" fill="{on}" textLength="{wide - 12}" '
            f'lengthAdjust="spacingAndGlyphs">{said}</text></g></g>'
        )
