"""The one picture intake: files of visitors become RGB pictures or a sentence why not; and pictures go out as PNG."""

import base64
import html
import io
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import gradio as gr
import numpy as np
from PIL import Image

from apps.kit import uploads
from apps.kit.uploads import PictureError
from hub_models.pictures import formats, upright

MAX_PIXELS = 16_000_000
MAX_ASPECT = 50
SHOWN_PX = 768  # longer side of what a page shows painted; files to download have the picture's own size
READABLE = "Use a PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF picture."


class Decoding:
    """So many pixels are decoded at once, by however many visitors: the others wait their turn, the longest first."""

    def __init__(self, pixels: int, seconds: float):
        self._free, self._seconds = pixels, seconds
        self._turn, self._changed = threading.Lock(), threading.Condition()

    @contextmanager
    def of(self, pixels: int) -> Generator[None]:
        """Room for a picture of that size. Raises PictureError where there is none in time."""
        if not self._turn.acquire(timeout=self._seconds):
            raise PictureError("Too many pictures are being read at the moment: try again in a minute.")
        try:
            with self._changed:
                if not self._changed.wait_for(lambda: self._free >= pixels, self._seconds):
                    raise PictureError("Too many pictures are being read at the moment: try again in a minute.")
                self._free -= pixels
        finally:
            self._turn.release()
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


decoding = Decoding(MAX_PIXELS, seconds=60)


def read_picture(path: str | None, *, ground: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """The picture in the file as RGB: upright, first frame, transparency laid on `ground`, no metadata.

    The size is checked on the header, before a pixel is decoded; of all together, MAX_PIXELS are decoded at once.

    Raises:
        PictureError: nothing chosen, not a plain file, not a readable image, an SVG, above MAX_PIXELS or MAX_ASPECT.
    """
    if path is None or path == "":
        raise PictureError("Upload a picture first, paste one, or choose an example.")
    with uploads.open_file(path) as file:
        return _decode(file, Path(path).name, ground)


def _decode(file: BinaryIO, name: str, ground: tuple[int, int, int]) -> Image.Image:
    suffix, name = Path(name).suffix.lower(), html.escape(name[-60:])
    head = file.read(1024)
    if not head:
        raise PictureError(f"{name} is not a readable image: the file is empty. {READABLE}")
    if b"<svg" in head.lower() or suffix in (".svg", ".svgz"):
        raise PictureError(
            f"{name} is an SVG, a drawing program rather than a picture. Export it as PNG and try again."
        )
    file.seek(0)
    try:
        with Image.open(file, formats=formats()) as image:
            _check_size(name, *image.size)
            with decoding.of(image.width * image.height):
                image.seek(0)
                return _flatten(upright(image), ground)
    except PictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureError(f"{name} is too large: at most {MAX_PIXELS // 10**6} megapixels. Scale it down.") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, EOFError, …
        raise PictureError(
            f"{name} is not a readable image: the file is damaged or something else. {READABLE}"
        ) from error


def read_png(path: str | None) -> Image.Image:
    """The PNG in the file as it is, in its own mode, with its text chunks in `info`.

    Raises:
        PictureError: nothing chosen, not a plain file, not a readable PNG, above MAX_PIXELS or MAX_ASPECT.
    """
    return _read_png(path, lambda image: image.copy())


def read_png_text(path: str | None) -> dict[str, str]:
    """The text chunks of a PNG file, {} where it has none. Raises PictureError as `read_png`."""
    return _read_png(path, lambda image: dict(image.text))


def _read_png(path: str | None, taken: Callable):
    """What is taken of the PNG once it is decoded: text may stand behind the pixels."""
    if path is None or path == "":
        raise PictureError("Upload a PNG first.")
    with uploads.open_file(path) as file:
        name = html.escape(Path(path).name[-60:])
        try:
            with Image.open(file, formats=("PNG",)) as image:
                _check_size(name, *image.size)
                with decoding.of(image.width * image.height):
                    image.load()
                    return taken(image)
        except PictureError:
            raise
        except Exception as error:
            raise PictureError(f"{name} is not a readable PNG. Use the file as it was downloaded.") from error


def _check_size(name: str, width_px: int, height_px: int) -> None:
    if width_px * height_px > MAX_PIXELS:
        raise PictureError(
            f"{name} is too large: {width_px} × {height_px} pixels, at most {MAX_PIXELS // 10**6} megapixels. "
            "Scale it down."
        )
    if max(width_px, height_px) > MAX_ASPECT * min(width_px, height_px):
        raise PictureError(
            f"{name} is too narrow: {width_px} × {height_px} pixels, one side at most {MAX_ASPECT} times the other. "
            "Crop it."
        )


def _flatten(image: Image.Image, ground: tuple[int, int, int]) -> Image.Image:
    """A new RGB picture: transparency laid on the ground, info dropped."""
    flat = Image.new("RGB", image.size, ground)
    flat.paste(image, mask=image.getchannel("A") if image.mode == "RGBA" else None)
    return flat


def picture_input(label: str = "Picture", *, height: int | str = 300, **options) -> gr.Image:
    """The upload, clipboard and webcam box whose value reaches the handler as the path of the untouched upload.

    gr.Image opens the file itself before the handler runs, and an unreadable one then ends in an error without a
    reason; here the path goes through as it is, for `read_picture` to judge: of uploads and examples alone.
    (Set on the instance: a subclass of a gradio component writes a .pyi file beside its module.)
    """
    options |= {"buttons": ["fullscreen"], "elem_classes": "v-picture"}
    box = gr.Image(label=label, type="filepath", image_mode=None, height=height, **options)

    def path_only(payload):
        if payload is None:
            return None
        if uploads.own_file(payload.path) is None:
            raise PictureError(uploads.REFUSED)
        return payload.path

    box.preprocess = path_only
    return box


def picture_output(label: str, *, height: int | str = 320, **options) -> gr.Image:
    """A box that shows and hands out a PNG, text chunks and all; the label is its text for screen readers too."""
    options |= {"show_label": False, "buttons": ["download", "fullscreen"]}
    return gr.Image(label=label, alt_text=label, format="png", interactive=False, height=height, **options)


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """The width and height at which a picture of this width and height is shown painted."""
    scale = SHOWN_PX / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def shown_picture(picture: Image.Image) -> np.ndarray:
    """The picture at that size, (h, w, 3) uint8."""
    return np.asarray(picture.resize(shown_size(picture.size), Image.Resampling.BICUBIC))


def png_with_text(image: Image.Image, text: dict[str, str]) -> Image.Image:
    """A copy of the picture that carries `text` as PNG text once saved: gr.Image(format="png") writes it."""
    copy = image.copy()
    copy.info = {str(key): str(value) for key, value in text.items()}
    return copy


def png_bytes(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
    image.save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def data_url(data: bytes, kind: str = "png") -> str:
    """The bytes of a picture as an address, for HTML that needs no file."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
