"""The pixels of a drawing, large enough to look at: its pictures on a sheet, and its film as a GIF.

Letters: B pictures of R × R pixels, F kept frames of a film.
"""

import io
import json
from dataclasses import dataclass

import numpy as np
from gradio import processing_utils
from PIL import Image

from apps.kit import answers, pictures
from apps.kit.drawing_page import columns
from hub_models.drawing import RECEIPT_KEY

GIF_FRAMES = 40


def enlarge(pixels: np.ndarray, side_px: int) -> Image.Image:
    """A picture (R, R, 3) of bytes at about side_px a side, by a whole factor, so that pixels stay equally large."""
    factor = max(1, side_px // pixels.shape[0])
    return Image.fromarray(pixels).resize((pixels.shape[1] * factor,) * 2, Image.Resampling.LANCZOS)


def with_receipt(image: Image.Image, receipt: dict) -> Image.Image:
    """The picture with its receipt in PNG text: JSON under our own key, and one line that other programs read."""
    line = (
        f"{', '.join(receipt['labels'])}\nSteps: {receipt['num_inference_steps']}, Sampler: {receipt['sampler']}, "
        f"CFG scale: {receipt['guidance_scale']:g}, Seed: {receipt['seeds'][0]}, "
        f"Model hash: {receipt['weights_sha256'][:10]}, Model: {receipt['model']}"
    )
    return pictures.png_with_text(image, {RECEIPT_KEY: json.dumps(receipt), "parameters": line})


@dataclass
class Film:
    """What the last drawing of a session left: bytes, as one of 16 pictures of 32 px takes 6 MB."""

    noisy: np.ndarray  # (F, B, R, R, 3) uint8, x_t before each kept step, and the pictures last
    guess: np.ndarray  # (F, B, R, R, 3) uint8, the x0 predicted from it
    noise: np.ndarray  # (F, B, R, R, 3) uint8, the noise predicted with it, ±3 from black to white; last: nothing
    slopes: np.ndarray  # (F, B) lengths of the score there; last: nothing
    steps: list[int]  # (F,) steps done before each frame
    timesteps: list[int]  # (F,) its t, and -1 for the pictures
    total: int
    receipt: dict

    @property
    def last(self) -> int:
        """The number of the frame with the pictures."""
        return len(self.steps) - 1

    def sheet_file(self) -> str:
        """The path of a PNG of the pictures, enlarged, on one transparent sheet with their receipt."""
        tiles = [enlarge(pixels, 256) for pixels in self.noisy[-1]]
        cols, gap = columns(len(tiles)), 16
        rows, pitch = -(-len(tiles) // cols), tiles[0].width + gap
        image = Image.new("RGBA", (cols * pitch + gap, rows * pitch + gap), (0, 0, 0, 0))
        for k, tile in enumerate(tiles):
            image.paste(tile, (gap + k % cols * pitch, gap + k // cols * pitch))
        data = processing_utils.encode_pil_to_bytes(with_receipt(image, self.receipt))
        return answers.cached_file(data, f"ddpm-{self.receipt['seeds'][0]}.png")

    def frame_beside(self, other: "Film", frame: int) -> int:
        """The frame of this film that goes with one of another, from which it forked: its last one with the last."""
        return self.last if frame == other.last else min(frame, self.last)

    def gif_file(self, k: int, fork: "Film | None" = None) -> str:
        """The path of a GIF of picture k's film, x_t on the left, predicted x0 on the right; the last frame stays.

        fork: a film of one picture that went another way, below it. Its comment holds the receipts, as PNG text does.
        """
        frames, receipts = [], [self.receipt] + ([fork.receipt] if fork else [])
        for frame in np.unique(np.linspace(0, self.last, GIF_FRAMES).round().astype(int)):
            rows = [(self, frame, k)] + ([(fork, fork.frame_beside(self, frame), 0)] if fork else [])
            tiles = [[enlarge(part[at, row], 160) for part in (film.noisy, film.guess)] for film, at, row in rows]
            pitch = tiles[0][0].width + 8
            image = Image.new("RGB", (2 * pitch - 8, len(rows) * pitch - 8), "white")
            for y, pair in enumerate(tiles):
                for x, tile in enumerate(pair):
                    image.paste(tile, (x * pitch, y * pitch))
            frames.append(image.quantize(256, method=Image.Quantize.FASTOCTREE))  # median cut takes 0.2 s for noise
        buffer, durations = io.BytesIO(), [90] * (len(frames) - 1) + [1800]
        options = {"duration": durations, "loop": 0, "comment": json.dumps({RECEIPT_KEY: receipts})}
        frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], **options)
        return answers.cached_file(buffer.getvalue(), f"ddpm-{self.receipt['seeds'][k]}.gif")
