"""Pictures as they are read, the same for apps and training, and as models take and give them: framed in a square,
bytes to [-1, 1] and back.

Letters: B pictures, H × W pixels.
"""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

FORMATS = (
    "PNG",
    "JPEG",
    "MPO",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "AVIF",
    "HEIF",
    "PPM",
)  # those of EPS and PDF start programs
BITS = (255, 4095, 65535)  # the largest number of a grey of 8, 12 and 16 bits
BAND_PX = 2**20  # of a grey picture that are scaled at a time
WHITE = (255, 255, 255)  # what transparency and the borders of a picture that is not square become, as in training


@functools.cache
def formats() -> tuple[str, ...]:
    """Those of FORMATS that can be read here: HEIF where pillow-heif is installed."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def upright(image: Image.Image) -> Image.Image:
    """An opened picture decoded: its first frame, upright, 8 bits, RGBA where it has transparency, else RGB.

    Raises what PIL raises for a broken file.
    """
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    image = eight_bits(image)
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def eight_bits(image: Image.Image) -> Image.Image:
    """A grey of more bits in 8: as one of 8, 12 or 16 bits, the fewest that hold its largest number.

    Of floats, those up to 1 are shares of white; what is larger than 16 bits is scaled by its largest number, what is
    no number is black. PIL would clip all of these. In bands, for little more room; other modes come back as they are.
    """
    if not image.mode.startswith("I") and image.mode != "F":
        return image
    values = np.asarray(image)  # (H, W)
    rows = max(1, BAND_PX // image.width)
    bands = [slice(y, y + rows) for y in range(0, image.height, rows)]
    most = max(np.nan_to_num(values[band].astype(np.float64)).max() for band in bands)
    if image.mode == "F" and most <= 1:
        scale, half = 255.0, 0.5
    else:
        scale, half = 256 / (next((top for top in BITS if most <= top), most) + 1), 0.0
    grey = np.empty(values.shape, np.uint8)
    for band in bands:
        grey[band] = (np.nan_to_num(values[band].astype(np.float64)).clip(0) * scale + half).clip(0, 255)
    return Image.fromarray(grey)


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
