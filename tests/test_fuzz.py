"""Whatever comes in: pictures of broken bytes and arguments of any shape end in an answer or a sentence, by hypothesis.

The examples are the same in every run (derandomised) and few: a longer search is
`VITRAIL_FUZZ=2000 python -m pytest tests/test_fuzz.py`, with other ones each time.
"""

import functools
import io
import json
import os
import re

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_gallery import DDPM, T2I, models, running, visitor

from apps.kit import pictures
from apps.kit.pictures import PictureError

MORE = int(os.environ.get("VITRAIL_FUZZ", 0))
PICTURE = object()
FORMATS = {"PNG": {}, "JPEG": {}, "WEBP": {}, "GIF": {}, "BMP": {}, "TIFF": {"compression": "tiff_lzw"}, "AVIF": {}}
DRAWN, PROMPTED = list(DDPM.values()), list(T2I.values())
USUAL = {  # endpoint: arguments that it takes; a picture stands as PICTURE
    "captioning_caption": [PICTURE, "tiny", "Greedy", 2, 1, 8, 1.0, 0.9, "", "-1"],
    "captioning_evidence": [PICTURE, "tiny", "", 1],
    "captioning_rank": [PICTURE, "a cat\na dog"],
    "ddpm_draw": DRAWN,
    "ddpm_field": ["face", "food", "flag", 1, 30, "any", "tiny"],
    "ddpm_film": ["face", 1, 2, 1, "DDIM", "tiny", 0],
    "ddpm_fork": ["face", 1, 2, 1, "DDIM", 1, "any", 2, "DDPM", "tiny", 0, 0],
    "ddpm_forward": [PICTURE, 10, 3, "face", "tiny"],
    "ddpm_scales": ["face", 1, "1, 3", 2, 1, "DDIM", "tiny"],
    "ddpm_two_films": ["face", 1, 2, 1, "DDIM", False, "food", 2, 2, "DDPM", "tiny"],
    "detection_check": [PICTURE, "two discs and a bar", "tiny", 30, False, 50, False],
    "detection_detect": [PICTURE, "tiny", 30, True, 50, False],
    "detection_steps": [PICTURE, "tiny", 5, 50, True],
    "families_between": ["face", 1, 2, ["gan=tiny"], None, None],
    "families_draw": ["face", 1, 3, ["gan=tiny", "tokens=tiny"]],
    "families_picture": [PICTURE, "any", 3, ["gan=tiny", "energy=tiny"]],
    "families_styles": [PICTURE, "translation=tiny"],
    "families_table": [["gan=tiny"]],
    "families_texture": [PICTURE, 64, 3, 1],
    "pretrain_attention": [PICTURE, 50, 50, 100, ["tiny"]],
    "pretrain_neighbours": [PICTURE, 3, ["tiny"]],
    "pretrain_patches": [PICTURE, None, PICTURE, None, 2, 50, 50, "last of all", ["tiny"]],
    "segmentation_compare": [PICTURE, "tiny", "tiny"],
    "segmentation_features": [PICTURE, "tiny"],
    "segmentation_pixel": [PICTURE, "tiny", 0, 0],
    "segmentation_predict": [PICTURE, "tiny", 50, 0],
    "text_to_image_draw": PROMPTED,
    "text_to_image_film": ["a red apple", "", "3", 2, 2, "DDIM", "tiny"],
    "text_to_image_fork": ["a red apple", "", "3", 2, 2, "DDIM", 1, "a cat", 2, "DDPM", "tiny"],
    "text_to_image_settings": [PICTURE, "tiny"],
    "text_to_image_verify": [PICTURE, None, "tiny"],
}


def bounded(examples: int):
    skipped = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=MORE or examples, deadline=None, derandomize=not MORE, suppress_health_check=skipped)


# ---- bytes of pictures -----------------------------------------------------------------------------------------------


@functools.cache
def sound(kind: str) -> bytes:
    """A small picture of that format, with shades and a corner that is transparent where it can be."""
    picture = Image.radial_gradient("L").resize((23, 17)).convert("RGBA" if kind in ("PNG", "WEBP", "AVIF") else "RGB")
    picture.save(buffer := io.BytesIO(), kind, **FORMATS[kind])
    return buffer.getvalue()


@st.composite
def broken(draw) -> tuple[str, bytes]:
    """A picture of which some bytes were changed, cut out, doubled or added; and the name that it comes under."""
    data = bytearray(sound(draw(st.sampled_from(sorted(FORMATS)))))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data) - 1)) if data else 0
        way = draw(st.sampled_from(["change", "cut", "double", "end", "fill"]))
        if way == "change" and data:
            data[at] = draw(st.integers(0, 255))
        elif way == "cut":
            del data[at : at + draw(st.integers(1, 40))]
        elif way == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 40))]
        elif way == "end":
            del data[at:]
        else:
            data[at : at + 4] = draw(st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"<svg"]))
    suffix = draw(st.sampled_from([".png", ".jpg", ".gif", ".webp", ".tif", ".svg", "", ".PNG"]))
    return f"picture{suffix}", bytes(data)


@pytest.mark.filterwarnings("ignore")
@bounded(400)
@given(broken())
def test_a_picture_of_broken_bytes_is_read_or_refused_in_a_sentence(tmp_path_factory, made):
    name, data = made
    path = os.path.join(tmp_path_factory.getbasetemp(), name)
    with open(path, "wb") as file:
        file.write(data)
    try:
        picture = pictures._decode(io.BytesIO(data), name, (255, 255, 255))
    except PictureError as error:
        assert error.message.strip().endswith((".", "!")) and len(error.message) < 400
    else:
        assert picture.mode == "RGB" and 1 <= picture.width * picture.height <= pictures.MAX_PIXELS
        picture.load()


# ---- arguments of endpoints ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with running(models(tmp_path_factory.mktemp("models"))) as address:
        yield address


@pytest.fixture(scope="module")
def usual(address) -> dict[str, list]:
    """{endpoint: arguments that it takes}, each endpoint with as many as it has."""
    reply = httpx.post(f"{address}/gradio_api/upload", files={"files": ("x.png", sound("PNG"))})
    file = {"path": reply.json()[0], "meta": {"_type": "gradio.FileData"}}
    found = httpx.get(f"{address}/gradio_api/info").json()["named_endpoints"]
    counts = {path[1:]: len(said["parameters"]) for path, said in found.items() if not path.startswith("/classifier")}
    return {name: [file if value is PICTURE else value for value in (USUAL[name] + 9 * [None])[:count]]
            for name, count in counts.items()}  # fmt: skip


WORDS = st.sampled_from(
    ["", "tiny", "DDIM", "face", "-1", "nan", "1e400", "../../etc/passwd", "\u202e\0", "\ud800", "😀" * 9]
)
NUMBERS = st.sampled_from([0, 1, 2, 3, -1, 2.5, 2**70, 1e308])
FILES = st.fixed_dictionaries({"path": WORDS, "meta": st.just({"_type": "gradio.FileData"})})
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS | FILES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["path", "url", "a"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@bounded(120)
@given(st.data())
def test_arguments_of_any_shape_are_answered_or_refused_in_a_sentence(address, usual, data):
    endpoint = data.draw(st.sampled_from(sorted(usual)))
    asked = list(usual[endpoint])
    for _ in range(data.draw(st.integers(1, 2))):
        asked[data.draw(st.integers(0, len(asked) - 1))] = data.draw(VALUES)
    asked = (asked + [None])[: len(asked) + data.draw(st.sampled_from([0, 0, 0, 0, 0, -1, 1]))]
    with visitor() as who:
        content = json.dumps({"data": asked}).encode()
        headers = {"Content-Type": "application/json"}
        reply = who.post(f"{address}/gradio_api/call/{endpoint}", content=content, headers=headers)
        if reply.status_code != 200:
            assert reply.status_code in (400, 413, 422) and "Traceback" not in reply.text
            return
        heard = who.get(f"{address}/gradio_api/call/{endpoint}/{reply.json()['event_id']}").text
    event, said = re.findall(r"event: (\w+)\ndata: (.*)", heard)[-1]
    assert event in ("complete", "error")
    if event == "error":
        assert said not in ("null", "", '{"error": null}') and '"error": null' not in said, "it says nothing"
        assert "Traceback" not in said and 'File \\"' not in said and "root:" not in said


def test_the_server_is_there_after_all_that(address):
    assert httpx.get(f"{address}/config").status_code == 200
