"""Pictures as models take and give them: framed in a square, bytes to [-1, 1] and back.

Letters: B pictures, H × W pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

WHITE = (255, 255, 255)  # what transparency and the borders of a picture that is not square become, as in training


def is_ground(value: Any) -> bool:
    """Whether this is a colour as JSON has it: a list of three whole numbers from 0 to 255."""
    return isinstance(value, list) and len(value) == 3 and all(type(part) is int and 0 <= part < 256 for part in value)


def on_ground(image: Image.Image, ground: Sequence[int] = WHITE) -> Image.Image:
    """The picture in RGB, the ground where it is transparent."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*ground, 255)), image)
    return image.convert("RGB")


def frame(image: Image.Image, size_px: int, ground: Sequence[int] = WHITE) -> Image.Image:
    """The whole picture in a square of size_px, centred, aspect kept, bicubic: RGB, transparency on the ground."""
    image = on_ground(image, ground)  # before it is resized: RGB under clear pixels must not bleed in
    scale = size_px / max(image.size)
    width_px, height_px = (max(1, round(side * scale)) for side in image.size)
    image = image.resize((width_px, height_px), Image.Resampling.BICUBIC)
    square = Image.new("RGB", (size_px, size_px), tuple(ground))
    square.paste(image, ((size_px - width_px) // 2, (size_px - height_px) // 2))
    return square


def from_uint8(pixels: np.ndarray) -> torch.Tensor:
    """(B, 3, H, W) in [-1, 1] of bytes (B, H, W, 3)."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(x: torch.Tensor) -> np.ndarray:
    """Bytes (B, H, W, 3) of x (B, 3, H, W) in [-1, 1], rounded as the pipelines of diffusers round."""
    return ((x / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
