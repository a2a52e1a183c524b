"""The one picture intake and the checks of parameters, called directly. tests/test_classifier.py sends it over HTTP."""

import inspect
import io
import math
import os
import pickle
import re
import struct
import sys
import threading
import time
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image, ImageOps

from apps.kit import drawing_page, launch, parts, pictures, session, values, wires

RED, GREEN = (220, 30, 40), (20, 200, 60)


def png_bytes(size=(40, 30), colour=RED, mode="RGB", **save) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, "PNG", **save)
    return buffer.getvalue()


def noise(size=(64, 48)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), np.uint8))


def bomb(side_px: int) -> bytes:
    """A complete 1-bit PNG of side_px²: kilobytes on disk."""
    squeeze = zlib.compressobj(9)
    row = bytes(1 + (side_px + 7) // 8)
    data = b"".join(squeeze.compress(row) for _ in range(side_px)) + squeeze.flush()

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side_px, side_px, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def write(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    return str(folder / name)


def saved(folder: Path, image: Image.Image, name: str, **options) -> str:
    image.save(folder / name, **options)
    return str(folder / name)


class PeakMemory:
    """The growth of this process's resident peak inside the block, in bytes; Linux."""

    def __enter__(self):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is resident now
        self.start = self._read()
        return self

    def __exit__(self, *_):
        self.growth = self._read() - self.start

    def _read(self) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


# ---- rows of unreadable pictures: each refused with its reason -------------------------------------------------------


def encoded(format: str) -> bytes:
    buffer = io.BytesIO()
    noise().save(buffer, format)
    return buffer.getvalue()


BROKEN = {  # file name, its content
    "empty": ("empty.png", lambda: b""),
    "cut png": ("cut.png", lambda: encoded("PNG")[:1500]),
    "cut jpeg": ("cut.jpg", lambda: encoded("JPEG")[:700]),
    "cut webp": ("cut.webp", lambda: encoded("WEBP")[:700]),
    "only a signature": ("signature.png", lambda: b"\x89PNG\r\n\x1a\n"),
    "text": ("text.png", lambda: b"hello, this is a letter and not a picture\n" * 20),
    "html": ("page.png", lambda: b"<!doctype html><html><body>404</body></html>"),
    "svg": ("drawing.svg", lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9"/>'),
    "svg as png": ("drawing.png", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'),
    "postscript": ("figure.eps", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"),
    "25 megapixels": ("wide.png", lambda: bomb(5_000)),
    "400 megapixels": ("bomb.png", lambda: bomb(20_000)),
    "1 x 30000": ("line.png", lambda: png_bytes((1, 30_000))),
}
REFUSED = {
    "empty": "not a readable image",
    "cut png": "not a readable image",
    "cut jpeg": "not a readable image",
    "cut webp": "not a readable image",
    "only a signature": "not a readable image",
    "text": "not a readable image",
    "html": "not a readable image",
    "svg": "SVG",
    "svg as png": "SVG",
    "postscript": "not a readable image",
    "25 megapixels": "at most 16 megapixels",
    "400 megapixels": "at most 16 megapixels",
    "1 x 30000": "too narrow",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unreadable_pictures_are_refused_with_the_reason(kind, tmp_path):
    name, data = BROKEN[kind]
    with pytest.raises(pictures.PictureError) as caught:
        pictures.read_picture(write(tmp_path, name, data()))
    assert REFUSED[kind] in caught.value.message and name in caught.value.message
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, gr.Error)  # reaches page and API as text


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("side_px", [10_000, 20_000])
def test_a_bomb_is_refused_before_it_is_decoded(side_px, tmp_path):
    path = write(tmp_path, "bomb.png", bomb(side_px))
    with PeakMemory() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(pictures.PictureError, match="16 megapixels"):
            pictures.read_picture(path)
    assert memory.growth < 50e6


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_webp_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (16_000, 1_200)), "wide.webp", quality=1, method=0)
    with PeakMemory() as memory, pytest.raises(pictures.PictureError, match="16 megapixels"):
        pictures.read_picture(path)
    assert memory.growth < 50e6


def test_nothing_chosen_asks_for_a_picture():
    for nothing in (None, ""):
        with pytest.raises(pictures.PictureError, match="Upload a picture first"):
            pictures.read_picture(nothing)


@pytest.mark.parametrize(
    "path", ["http://127.0.0.1:9/x.png", "file:///etc/passwd", "/no/such/file.png", "/", "a\0b", 7]
)
def test_what_is_no_file_here_is_refused(path):
    with pytest.raises(pictures.PictureError, match="no such picture"):
        pictures.read_picture(path)


def test_names_in_messages_are_escaped(tmp_path):
    with pytest.raises(pictures.PictureError) as caught:
        pictures.read_picture(write(tmp_path, "<img src=x onerror=alert(1)>.png", b"no"))
    assert "<img" not in caught.value.message and "&lt;img" in caught.value.message


# ---- rows of readable pictures: each arrives as upright RGB ----------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_format_we_name_is_read(format, tmp_path):
    path = saved(tmp_path, Image.new("RGB", (32, 32), RED), f"x.{format.lower()}")
    assert np.abs(np.array(pictures.read_picture(path).getpixel((16, 16))) - RED).max() <= 8


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_of_an_animation_the_first_frame(name, tmp_path):
    frames = [Image.new("RGB", (20, 20), colour) for colour in (RED, GREEN)]
    options = {"lossless": True} if name.endswith("webp") else {}
    path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], duration=90, **options)
    picture = pictures.read_picture(path)
    assert picture.mode == "RGB" and picture.getpixel((10, 10)) == RED


@pytest.mark.parametrize(
    "mode, suffix",
    [("CMYK", "jpg"), ("P", "gif"), ("L", "png"), ("LA", "png"), ("1", "png"), ("I;16", "png"), ("F", "tiff")],
)
@pytest.mark.parametrize("renamed", [False, True])
def test_any_mode_arrives_as_rgb_under_any_name(mode, suffix, renamed, tmp_path):
    grey = Image.new("L", (16, 12), 128)
    if mode == "I;16":
        image = Image.fromarray(np.full((12, 16), 128 * 257, np.uint16))
    elif mode == "F":
        image = Image.fromarray(np.full((12, 16), 128 / 255, np.float32))
    else:
        image = grey.convert(mode)
    path = Path(saved(tmp_path, image, f"x.{suffix}"))
    if renamed:
        path = path.rename(tmp_path / "x-renamed.gif")
    picture = pictures.read_picture(str(path))
    assert picture.mode == "RGB" and picture.size == (16, 12)
    if mode != "1":
        assert np.abs(np.asarray(picture, int) - 128).max() <= 2


def test_sixteen_bit_grey_keeps_its_scale(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(8, 0)
    picture = pictures.read_picture(saved(tmp_path, Image.fromarray(ramp), "ramp.png"))
    assert np.abs(np.asarray(picture)[0, :, 0].astype(int) - np.arange(256)).max() <= 1


@pytest.mark.parametrize("ground", [(255, 255, 255), (10, 20, 30)])
def test_transparency_is_laid_on_the_ground(ground, tmp_path):
    image = Image.new("RGBA", (4, 2), (200, 100, 0, 128))
    image.putpixel((0, 0), (255, 0, 255, 0))
    image.putpixel((3, 1), (1, 2, 3, 255))
    picture = pictures.read_picture(saved(tmp_path, image, "alpha.png"), ground=ground)
    assert picture.getpixel((0, 0)) == ground
    assert picture.getpixel((3, 1)) == (1, 2, 3)
    expected = [c * 128 / 255 + g * 127 / 255 for c, g in zip((200, 100, 0), ground, strict=True)]
    assert np.abs(np.array(picture.getpixel((1, 1))) - expected).max() <= 1


def test_palette_transparency_counts_too(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 1), 1)
    picture = pictures.read_picture(saved(tmp_path, image, "p.png", transparency=0), ground=(9, 9, 9))
    assert picture.getpixel((0, 0)) == (9, 9, 9) and picture.getpixel((1, 1)) == (0, 0, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photo_stands_upright_and_its_place_stays_behind(orientation, tmp_path):
    upright = Image.new("RGB", (40, 20), RED)
    upright.paste(GREEN, (0, 0, 20, 20))  # green left, red right
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # EXIF orientation → the PIL transpose that undoes its upright
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[274] = orientation
    exif.get_ifd(34853)[2] = (48.0, 51.0, 30.0)  # GPS latitude
    path = saved(tmp_path, stored, "photo.jpg", exif=exif, quality=95, subsampling=0)
    assert Image.open(path).getexif().get_ifd(34853)
    picture = pictures.read_picture(path)
    assert np.abs(np.asarray(picture, int) - np.asarray(upright, int)).mean() < 3
    picture.save(tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as again:
        assert not again.getexif() and not picture.info
    assert ImageOps.exif_transpose(picture).size == (40, 20)


def test_the_smallest_picture_passes(tmp_path):
    assert pictures.read_picture(write(tmp_path, "dot.png", png_bytes((1, 1)))).getpixel((0, 0)) == RED


def test_sixteen_megapixels_pass(tmp_path):
    assert pictures.read_picture(write(tmp_path, "large.png", bomb(4_000))).size == (4_000, 4_000)


# ---- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 11, -1, math.nan, math.inf, -math.inf, "5", None, True, [5], {}, 1e9, 10**400])
def test_numbers_outside_are_refused_with_the_range(value):
    with pytest.raises(gr.Error) as caught:
        values.number(value, "Steps", 1, 10)
    assert "Steps must be a number from 1 to 10" in caught.value.message


def test_whole_numbers():
    assert values.number(3, "Steps", 1, 10, integer=True) == 3
    third = values.number(3.0, "Steps", 1, 10, integer=True)
    assert third == 3 and type(third) is int
    assert values.number(2.5, "Guidance", 1, 10) == 2.5
    with pytest.raises(gr.Error, match="whole number from 1 to 10, not 2.5"):
        values.number(2.5, "Steps", 1, 10, integer=True)


def test_seeds_are_drawn_or_reduced():
    assert values.seed(5) == values.seed(5.0) == 5
    assert values.seed(2**63) == 0 and values.seed(2**70 + 3) == 3 and values.seed(-2) == 2**63 - 2
    drawn = {values.seed(nothing) for nothing in (None, -1, None, -1)}
    assert len(drawn) > 1 and all(0 <= seed < 2**53 for seed in drawn)  # exact in a browser's numbers
    for wrong in ("7", 1.5, math.nan, math.inf, True, [1]):
        with pytest.raises(gr.Error, match="whole number"):
            values.seed(wrong)


def test_choices_are_closed():
    assert values.choice("b", "Sampler", ["a", "b"]) == "b"
    for wrong in ("c", None, 1, ["a"], "A"):
        with pytest.raises(gr.Error, match="Sampler must be one of: a, b"):
            values.choice(wrong, "Sampler", ["a", "b"])


# ---- text in pictures ------------------------------------------------------------------------------------------------


def test_what_was_sent_reaches_the_handler_also_after_an_update_of_its_choices():
    with gr.Blocks() as demo:
        chips, bar = gr.Radio(["a", "b"], value="a"), gr.Slider(1, 9, value=3)
        before = [(part.get_block_name(), part.component_class_id, part.get_config()) for part in (chips, bar)]
        values.as_sent(chips, bar)
        values.as_sent(chips)
    assert [(part.get_block_name(), part.component_class_id, part.get_config()) for part in (chips, bar)] == before
    assert type(chips).__mro__[1] is gr.Radio and chips.preprocess(["x"]) == ["x"] and bar.preprocess("x") == "x"
    for part, update in ((chips, {"choices": ["c"]}), (bar, {"maximum": 2})):
        again = type(part)(**part.constructor_args | update | {"render": False})  # as gradio's postprocess_data does
        assert again.preprocess(7) == 7 and again.get_block_name() == part.get_block_name()
    assert gr.Radio(["a"], render=False).preprocess("a") == "a" and demo.get_config_file()
    with pytest.raises(gr.Error):
        gr.Radio(["a"], render=False).preprocess("b")


def test_png_text_survives_the_way_through_an_output_box(tmp_path):
    text = {"vitrail": '{"seed": 7}', "label": "naïve 🦊"}
    image = pictures.png_with_text(Image.new("RGB", (8, 8), RED), text)
    box = pictures.picture_output("x")
    assert pictures.read_png_text(box.postprocess(image).path) == text
    assert pictures.read_png_text(write(tmp_path, "plain.png", png_bytes())) == {}
    for name, data in (("x.png", b"no"), ("x.jpg", b"")):
        with pytest.raises(pictures.PictureError, match="not a readable PNG"):
            pictures.read_png_text(write(tmp_path, name, data))


def test_importing_and_building_write_nothing_beside_the_module():
    pictures.picture_input()
    assert not list(Path(pictures.__file__).parent.parent.rglob("*.pyi"))


def test_the_theme_asks_for_no_font_file():
    css = launch.theme()._get_theme_css()
    assert "@font-face" not in css and "http" not in css.replace("http://www.w3.org/2000/svg", "")
    assert not [sheet for sheet in launch.theme()._stylesheets if sheet]


def test_facts_of_somebodys_file_can_be_sent():
    text = parts.facts({"prompt": "\ud83c<b>"})
    assert text.encode() and "&lt;b&gt;" in text


# ---- events ----------------------------------------------------------------------------------------------------------


def test_handlers_answer_by_component_and_what_they_leave_out_stays():
    with gr.Blocks() as demo:
        name, share, button = gr.Textbox(), gr.Number(), gr.Button()

        def regular(text):
            return {share: 2} if text else {}

        def stream(request: gr.Request, text):
            yield {name: text}
            yield {share: 1, name: gr.update(visible=False)}

        wires.wire(button.click, regular, name, [name, share])
        wires.wire([button.click, name.submit], stream, name, [name, share])
        wires.wire(button.click, regular, name, share)
        wires.wire(button.click, lambda: {button: 1}, None, [name])
    first, second, alone, astray = (demo.fns[k].fn for k in range(4))
    skip = gr.skip()
    assert first("a") == [skip, 2] and first("") == [skip, skip] and alone("a") == 2 and alone("") == skip
    assert list(second(None, "a")) == [["a", skip], [gr.update(visible=False), 1]]
    assert inspect.isgeneratorfunction(second) and len(demo.fns[1].targets) == 2
    assert pickle.dumps(first("a")), "it travels to the process of a GPU, where components cannot"
    with pytest.raises(AssertionError, match="was not wired to"):
        astray()


@dataclass
class Step:
    index: int
    total: int


def test_a_drawing_shows_some_of_its_steps_and_says_how_it_ended():
    steps, flag = [Step(k, 40) for k in range(40)], threading.Event()
    drawing = drawing_page.Drawing(iter_of(steps), flag, previews=5)
    assert [step.index for step in drawing.shown()] == [0, 10, 20, 29, 39]
    assert re.fullmatch(r"Done: 40 steps in \d\.\d s", drawing.outcome()) and "Step 40 of 40, t = 3, 0" in drawing.line(
        ", t = 3"
    )
    drawing = drawing_page.Drawing(iter_of(steps), flag, previews=5)
    for step in drawing.shown():
        if step.index == 10:
            flag.set()
    assert drawing.outcome().startswith("Stopped after 11 of 40 steps in")
    late = drawing_page.Drawing(iter_of(steps), threading.Event(), previews=5, seconds=0)
    assert len(list(late.shown())) == 1
    assert late.outcome().startswith("Out of time (0 s: ask for fewer steps or pictures) after 1 of 40 steps")


def iter_of(steps):
    yield from steps


@pytest.mark.skipif(not hasattr(os, "fork"), reason="ZeroGPU forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("armed_first", [True, False], ids=["a process of its own", "one that waits from before"])
def test_a_stop_is_heard_in_the_process_that_works_on_a_gpu(armed_first):
    flags, told = session.StopFlags(), os.pipe()
    flags.arm("visitor")
    flags.set("visitor")  # what was stopped before is over
    if armed_first:
        flags.arm("visitor")
    if (child := os.fork()) == 0:
        os.read(told[0], 1)
        flag = flags.get("visitor")
        before, until = flag.is_set(), time.monotonic() + 20
        while not flag.is_set() and time.monotonic() < until:
            time.sleep(0.001)
        os._exit(1 if before else 2 if flag.overtaken else 0 if flag.is_set() else 3)
    flags.arm("visitor")
    flags.arm("another")
    os.write(told[1], b".")
    time.sleep(0.2)
    flags.set("another")
    flags.set("visitor")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_request_that_was_overtaken_ends_nothing():
    flags = session.StopFlags()
    first = flags.arm("visitor")
    assert flags.renew("visitor", 2.0) and first.is_set() and first.overtaken
    second = flags.get("visitor")
    flags.set("another")
    assert not flags.renew("visitor", 1.0)
    assert flags.get("visitor") is second and not second.is_set()
    assert flags.renew("another", 1.0) and not second.is_set() and not second.overtaken
    assert flags.renew("visitor", 2.5) and second.is_set()
