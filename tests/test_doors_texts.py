"""No text, number or name freezes the server, whatever way it comes in: on the running gallery."""

import io
import re
import threading
import time
import unicodedata
import zlib

import httpx
import pytest
import tiny_gallery
from PIL import Image
from tiny_gallery import DDPM, T2I, answer, models, running, visitor

from hub_models import text_to_image

# 110,000 bytes of marks, low ones behind high ones: to put them in order takes quadratic time.
STACK = "a" + "\u0301" * 27_000 + "\u0334" * 27_000
CAPTION = {"picture": None, "model": "tiny", "decoding": "Greedy", "beams": 1, "count": 1, "length": 4,
           "temperature": 1, "top_p": 0.9, "prefix": "", "seed": "0"}  # fmt: skip
WAIT_S = 2.0  # for another's request meanwhile; the stack takes longer than that by itself


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with running(models(tmp_path_factory.mktemp("models")), mcp=True) as address:
        with visitor(2) as who:  # what is imported at the first call is there
            assert answer(who, address, "text_to_image_draw", *T2I.values())[0] == "complete"
        yield address


@pytest.fixture
def others(address):
    """Somebody else who asks all the time; fails if an answer took longer than WAIT_S."""
    done, slowest = threading.Event(), [0.0]

    def ask():
        with visitor(3) as who:
            while not done.is_set():
                began = time.monotonic()
                who.get(f"{address}/gradio_api/app_id")
                slowest[0] = max(slowest[0], time.monotonic() - began)
                time.sleep(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    done.set()
    thread.join()
    assert slowest[0] < WAIT_S, f"another had to wait for {slowest[0]:.1f} s"


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of one pixel with these chunks before its pixels."""
    Image.new("RGB", (1, 1)).save(buffer := io.BytesIO(), "PNG")
    start, end = buffer.getvalue()[:33], buffer.getvalue()[33:]
    made = b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )
    return start + made + end


def packed(key: bytes, text: str) -> tuple[bytes, bytes]:
    return b"iTXt", key + b"\0\1\0\0\0" + zlib.compress(text.encode(), 9)


def upload(address: str, data: bytes, name: str = "x.png") -> dict:
    path = httpx.post(f"{address}/gradio_api/upload", files={"files": (name, data)}, timeout=60).json()[0]
    return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}


def said(reply) -> str:
    """The sentence of an error."""
    event, value = reply
    assert event == "error", value
    return value.get("error") or str(value.get("detail"))


# ---- stacks of marks -------------------------------------------------------------------------------------------------

TEXTS = {
    "lines to rank": ("captioning_rank", lambda box: [box, STACK]),
    "lines to rank, many": ("captioning_rank", lambda box: [box, "\n".join([STACK[:260]] * 400)]),
    "a beginning": ("captioning_caption", lambda box: list((CAPTION | {"picture": box, "prefix": STACK}).values())),
    "a caption": ("captioning_evidence", lambda box: [box, "tiny", STACK, 0, 50]),
    "a prompt": ("text_to_image_draw", lambda box: list((T2I | {"prompt": STACK}).values())),
    "a negative prompt": ("text_to_image_draw", lambda box: list((T2I | {"negative": STACK}).values())),
    "a seed": ("text_to_image_draw", lambda box: list((T2I | {"seed": STACK}).values())),
    "a sampler": ("ddpm_draw", lambda box: list((DDPM | {"sampler": STACK}).values())),
    "a class": ("ddpm_draw", lambda box: list((DDPM | {"labels": [STACK]}).values())),
    "a model": ("segmentation_predict", lambda box: [box, STACK, 50, 0]),
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_stack_of_marks_holds_nobody_up(address, others, what):
    endpoint, arguments = TEXTS[what]
    with visitor(1) as who:
        began = time.monotonic()
        said_of = answer(who, address, endpoint, *arguments(upload(address, png())))
        assert time.monotonic() - began < 10
    assert said_of[0] == "complete" if "many" in what else said(said_of)


@pytest.mark.parametrize("key", ["parameters", "vitrail"])
@pytest.mark.parametrize("endpoint", ["text_to_image_settings", "text_to_image_verify"])
def test_a_small_png_with_a_stack_of_marks_in_it_holds_nobody_up(address, others, endpoint, key):
    text = f"{STACK}\nSteps: 3, Sampler: DDIM, CFG scale: 2, Seed: 1"
    if key == "vitrail":
        text = f'{{"prompt": "{STACK}", "seed": "1"}}'
    data = png(packed(key.encode(), text))
    assert len(data) < 1000
    arguments = (
        [upload(address, data), "tiny"] if endpoint.endswith("settings") else [upload(address, data), None, "tiny"]
    )
    with visitor(1) as who:
        sentence = said(answer(who, address, endpoint, *arguments))
    assert "is broken" in sentence and "96,000 bytes are the most" in sentence


def test_a_stack_that_fits_into_the_limit_of_a_receipt_holds_nobody_up(address, others):
    text = f"{STACK[:26_000]}{STACK[-5_000:]}\nSteps: 3, Sampler: DDIM, CFG scale: 2, Seed: 1"
    with visitor(1) as who:
        event, [found] = answer(
            who, address, "text_to_image_settings", upload(address, png(packed(b"parameters", text))), "tiny"
        )
    assert event == "complete" and len(found["settings"]["prompt"]) <= 31


def test_a_png_whose_texts_unpack_to_hundreds_of_megabytes_is_refused(address, others):
    chunks = [packed(f"k{k}".encode(), "x" * 1_000_000) for k in range(200)]
    with visitor(1) as who:
        sentence = said(answer(who, address, "text_to_image_settings", upload(address, png(*chunks)), "tiny"))
    assert sentence


def test_the_pages_own_events_hold_nobody_up(address, others):
    config = httpx.get(f"{address}/config?page=text_to_image").json()
    sent = [each for each in config["dependencies"] if len(each["inputs"]) == 4 and len(each["outputs"]) == 1]
    assert sent
    with visitor(1) as who:
        for each in sent:
            body = {"data": ["tiny", STACK, "any style", STACK], "fn_index": each["id"], "session_hash": "somebody"}
            who.post(f"{address}/gradio_api/run/predict", json=body)


def test_a_stack_by_mcp_holds_nobody_up(address, others):
    pytest.importorskip("mcp")
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "text_to_image_draw", "arguments": {"prompt": STACK, "count": 1, "steps": 1}},
    }
    with visitor(1) as who:
        headers = {"Accept": "application/json, text/event-stream"}
        reply = who.post(f"{address}/gradio_api/mcp/", json=body, headers=headers)
    assert "at most 2,000" in reply.text


# ---- what is endless otherwise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("prompt", "x" * 300_000, "at most 262,144 bytes"),
        ("seed", "9" * 5000, "whole number"),
        ("seed", 10**3000, "at most 1,000 digits"),
        ("steps", 10**2000, "at most 1,000 digits"),
        ("steps", "9" * 5000, None),
        ("prompt", [["x"] * 6000] * 2, "more than 10,000 items"),
        ("prompt", {"path": "/.." * 3000, "meta": {"_type": "gradio.FileData"}}, "name of a file"),
        ("picture", {"path": "x" * 9000, "meta": {"_type": "gradio.FileData"}}, "name of a file"),
    ],
)
def test_what_is_too_long_gets_a_sentence(address, others, field, value, sentence):
    with visitor(1) as who:
        reply = answer(who, address, "text_to_image_draw", *(T2I | {field: value}).values())
    assert reply[0] == "error" and (sentence is None or sentence in said(reply))


def test_a_number_that_is_nested_or_endless_is_answered(address, others):
    with visitor(1) as who:
        for text in ("9" * 5000, "[" * 900 + "]" * 900, "[" * 100_000 + "]" * 100_000):
            body = f'{{"data": [{text}]}}'
            reply = who.post(
                f"{address}/gradio_api/call/ddpm_draw", content=body, headers={"Content-Type": "application/json"}
            )
            assert reply.status_code in (200, 400, 413, 422)


@pytest.mark.parametrize("route", ["call/ddpm_draw", "run/ddpm_draw", "queue/join", "component_server", "call/upload"])
def test_a_request_that_is_too_long_is_not_even_read(address, others, route):
    with visitor(1) as who:
        for body in (b'{"data": ["' + b"x" * 2_000_000 + b'"]}', b'{"data": [' + b"[]," * 300_000 + b"1]}"):
            reply = who.post(
                f"{address}/gradio_api/{route}", content=body, headers={"Content-Type": "application/json"}
            )
            assert reply.status_code == 413 and "too long" in reply.json()["detail"]


def test_a_file_with_an_endless_name_holds_nobody_up(address, others):
    with visitor(1) as who:
        for name in ("x" * 7000 + ".png", "\u0301\u0334" * 1500 + ".png", "x" * 500_000 + ".png"):
            reply = who.post(f"{address}/gradio_api/upload", files={"files": (name, png())})
            assert reply.status_code in (200, 400, 413)


# ---- the one place ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unit",
    [
        "\u0301\u0334",
        "\u0334\u0301",
        "a" + "\u0301\u0334" * 15,
        "\u0f73",
        "\u0344\u0334",
        "\u1e69\u0323",
        "\u200b\u0301\u0334",
    ],
)
def test_normalising_takes_time_in_proportion(unit):
    text = "a" + unit * (60_000 // len(unit.encode()))
    began = time.process_time()
    normal = text_to_image.normalise_prompt(text)
    assert time.process_time() - began < 0.5
    assert text_to_image.normalise_prompt(normal) == normal


def test_texts_that_people_write_stay_as_they_are():
    for text in ("Việt Nam", "हिन्दी", "ক্ষ", "שָׁלוֹם", "Z̤͔ͧ̑̓ä͖̭̈̇lͮ̒ͫgͮo", "👩🏽‍🚀"):
        assert text_to_image.normalise_prompt(text) == unicodedata.normalize("NFC", text)


def test_one_module_alone_normalises():
    """Whoever takes a text from outside goes through hub_models/texts.py."""
    import pathlib

    root = pathlib.Path(tiny_gallery.__file__).parent.parent
    files = [path for room in ("apps", "hub_models") for path in (root / room).rglob("*.py")]
    users = [path.name for path in files if re.search(r"unicodedata\.normalize", path.read_text())]
    assert users == ["texts.py"]
