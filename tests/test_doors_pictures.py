"""Nobody has a file opened that they did not upload: by every event of the running gallery, its file routes, MCP."""

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import gradio as gr
import httpx
import pytest
import tiny_models
from gradio.utils import get_upload_folder
from hostile_pictures import call, picture, text_of, untouched_server, upload
from PIL import Image, PngImagePlugin
from ports import free_port

from apps import gallery
from apps.kit import launch

ONE_SENTENCE = "There is no such picture among the uploads. Upload the file itself; addresses are not fetched."
SECRET = "a stranger on a beach"
META = {"_type": "gradio.FileData"}
EXAMPLE = next((Path(gallery.__file__).parent / "examples" / "classifier").glob("*.png"))
ENDPOINTS = {  # each with a picture first, and the rest of its arguments
    "text_to_image_settings": ("tiny",),
    "text_to_image_verify": (None, "tiny"),
    "ddpm_forward": (10, 0, "any", None),
    "classifier_predict": (),
    "classifier_rollout": ("vit",),
    "classifier_explain": ("top answer", "saliency", "swin"),
    "detection_check": ("two discs", "tiny", 30, False, 50, False),
    "detection_detect": ("tiny", 30, False, 50, False),
    "detection_steps": ("tiny", 5, 50, False),
    "pretrain_neighbours": (3, None),
    "segmentation_compare": ("the picture", "the truth"),
    "segmentation_predict": ("tiny", 50, 0),
    "captioning_rank": ("a cat\na dog",),
}


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    tiny_models.stable_diffusion(folder, text="bert", extra={})
    models = gallery.load_models([f"text_to_image={folder}"])
    segmenter = folder.parent / "segmenter" / "tiny"
    segmenter.mkdir(parents=True)
    tiny_models.segmenter(segmenter)
    models["segmentation"] = gallery.segmentation.load_models([str(segmenter)])
    models["detection"] = gallery.detection.load_models([str(tiny_models.detector(folder.parent / "detector"))])
    for stem in ("detection", "segmentation", "text_to_image"):
        models[stem] = dict(zip(["tiny"], models[stem].values(), strict=True))
    app = gallery.build(models)
    app.address = launch.launch(app, port=free_port(), block=False, mcp=True).rstrip("/")
    yield app
    app.close(verbose=False)


@pytest.fixture(scope="module")
def private(tmp_path_factory) -> Path:
    """A picture on the server's disk that nobody uploaded, with text in it."""
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", f"{SECRET}\nSteps: 20, Sampler: DDIM, CFG scale: 4, Seed: 7, Size: 32x32")
    path = tmp_path_factory.mktemp("home") / "private.png"
    Image.effect_noise((40, 30), 50).convert("RGB").save(path, pnginfo=text)
    return path


@pytest.fixture(scope="module")
def planted(private):
    """Among the uploads: a link to the private picture, one to its folder, a pipe, a folder called like a picture."""
    folder = Path(get_upload_folder()) / "test-doors"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "link.png").symlink_to(private)
    (folder / "home").symlink_to(private.parent)
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    yield folder
    shutil.rmtree(folder)


def hostile_paths(private: Path, planted: Path) -> dict[str, str]:
    uploads = get_upload_folder()
    return {
        "private": str(private),
        "missing": str(private.with_name("missing.png")),
        "a folder": str(private.parent),
        "beside": f"{uploads}-{private.name}",
        "root's": "/etc/shadow",
        "a device": "/dev/zero",
        "back out": f"{uploads}/../..{private}",
        "relative": os.path.relpath(private),
        "file:": f"file://{private}",
        "link": str(planted / "link.png"),
        "through a link": str(planted / "home" / private.name),
        "pipe": str(planted / "pipe.png"),
        "folder among the uploads": str(planted / "folder.png"),
        "missing upload": str(planted / "missing.png"),
        "the uploads": uploads,
        "the repository's": str(Path(gallery.__file__).resolve()),
        "a nul": f"{private}\0.png",
        "a surrogate": f"{uploads}/\ud800.png",
        "long": f"{uploads}/{'a' * 3000}.png",  # beyond 4,096 bytes any name of a file is refused, by its length
        "empty": "",
    }


def objects(path: str) -> dict[str, object]:
    """Ways to name a file in a request."""
    return {
        "no meta": {"path": path},
        "meta": {"path": path, "meta": META},
        "other meta": {"path": path, "meta": {"_type": "gradio.Other"}},
        "no object for meta": {"path": path, "meta": "gradio.FileData"},
        "stream": {"path": path, "meta": META, "is_stream": True},
        "with url": {"path": path, "meta": META, "url": f"/gradio_api/file={path}"},
        "url alone": {"path": None, "url": f"/gradio_api/file={path}"},
        "text": path or "/",
        "list": [{"path": path, "meta": META}],
        "nested": {"path": {"path": path, "meta": META}},
        "deeper": {"image": {"path": path, "meta": META}},
    }


def refused(answer: httpx.Response) -> bool:
    return answer.status_code == 500 and answer.json()["error"] == ONE_SENTENCE


def queued(client: httpx.Client, index: int, data: list) -> str:
    """What an event answers, as the page asks for it."""
    session = secrets.token_hex(8)
    body = {"fn_index": index, "data": data, "session_hash": session}
    joined = client.post("/gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return joined.text
    with client.stream("GET", f"/gradio_api/queue/data?session_hash={session}") as events:
        return next((line for line in events.iter_lines() if "process_completed" in line), "no answer")


def in_turn(client: httpx.Client, index: int, data: list) -> str:
    """The same, asked again while all that this visitor may have is still on its way out."""
    for _ in range(100):
        if "a visitor's share" not in (said := queued(client, index, data)):
            break
        time.sleep(0.1)
    return said


def test_whatever_the_object_carries_the_answer_is_the_same_sentence(app, private, planted):
    wrong = []
    with httpx.Client(base_url=app.address, timeout=20) as client:
        for place, path in hostile_paths(private, planted).items():
            kinds = objects(path)
            if place not in ("private", "missing", "link"):
                kinds = {kind: kinds[kind] for kind in ("no meta", "meta")}
            for kind, sent in kinds.items():
                body = json.dumps({"data": [sent, "tiny"]})
                answer = client.post(
                    "/gradio_api/run/text_to_image_settings", content=body, headers={"Content-Type": "application/json"}
                )
                if not refused(answer):
                    wrong.append((place, kind, answer.text[:200]))
    assert not wrong, f"{len(wrong)} ways in: {wrong[:5]}"


def test_by_every_input_and_every_event_of_every_page(app, private):
    """The page's own events too, and boxes that take no picture: a file named in any of them is refused."""
    asked, seen = [], set()
    for index, event in app.fns.items():
        inputs = event.inputs if event.fn is not None else ()
        fresh = [at for at, block in enumerate(inputs) if block._id not in seen] or [0][: len(inputs)]
        seen |= {block._id for block in inputs}
        for at in fresh:
            sent = {"path": str(private)}
            data = [None] * len(inputs)
            data[at] = sent if isinstance(inputs[at], gr.Image) else {"value": [sent | {"meta": META}]}
            asked.append((index, f"{event.api_name or event.name}, input {at}", data))
    with httpx.Client(base_url=app.address, timeout=60) as client, ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda one: in_turn(client, one[0], one[2]), asked)
        wrong = [(one[:2], said[:100]) for one, said in zip(asked, answers, strict=True) if ONE_SENTENCE not in said]
    assert len(asked) > 100 and not wrong, f"{len(wrong)} of {len(asked)} ways in: {wrong[:5]}"


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_by_the_queue_of_every_endpoint(app, endpoint, private):
    for path in (private, private.with_name("missing.png")):
        for sent in ({"path": str(path)}, picture(str(path))):
            event, answer = call(app.address, endpoint, sent, *ENDPOINTS[endpoint])
            assert event == "error" and text_of(answer) == ONE_SENTENCE


def test_by_the_other_routes_of_an_endpoint(app, private):
    sent, model = {"path": str(private)}, "tiny"
    answer = httpx.post(f"{app.address}/gradio_api/api/text_to_image_settings", json={"data": [sent, model]})
    assert refused(answer)
    joined = httpx.post(
        f"{app.address}/gradio_api/call/v2/text_to_image_settings", json={"picture": sent, "model": model}
    )
    said = httpx.get(
        f"{app.address}/gradio_api/call/text_to_image_settings/{joined.json()['event_id']}", timeout=20
    ).text
    assert ONE_SENTENCE in said and SECRET not in said
    [index] = [index for index, event in app.fns.items() if event.api_name == "text_to_image_settings"]
    body = {"fn_index": index, "data": [sent, model], "session_hash": "doors"}
    assert httpx.post(f"{app.address}/gradio_api/queue/join", json=body).status_code == 200
    with httpx.stream("GET", f"{app.address}/gradio_api/queue/data?session_hash=doors", timeout=20) as events:
        for line in events.iter_lines():
            if "process_completed" in line:
                break
    assert ONE_SENTENCE in line and SECRET not in line


def test_no_address_is_fetched(app):
    with untouched_server() as here:
        for url in (
            here,
            here.replace("127.0.0.1", "localhost"),
            "http://169.254.169.254/",
            "https://example.invalid/x",
        ):
            for sent in objects(url).values():
                answer = httpx.post(
                    f"{app.address}/gradio_api/run/text_to_image_settings", json={"data": [sent, "tiny"]}
                )
                assert refused(answer)
            answer = httpx.get(f"{app.address}/gradio_api/file={url}", timeout=20)
            assert answer.status_code == 403 and "example.invalid" not in answer.text


def test_the_file_routes_serve_uploads_alone_and_say_nothing_of_the_rest(app, private, planted):
    mine = upload(app.address, "mine.png", EXAMPLE.read_bytes()).json()[0]
    assert httpx.get(f"{app.address}/gradio_api/file={mine}").content == EXAMPLE.read_bytes()
    answers = set()
    for place, path in hostile_paths(private, planted).items():
        for route in ("file=", "file/"):
            if place == "a surrogate":
                path = f"{get_upload_folder()}/\udcff.png"
            url = f"{app.address}/gradio_api/{route}" + quote(os.fsencode(path)).replace("..", "%2e%2e")
            try:
                answer = httpx.get(url, timeout=5)
            except httpx.InvalidURL:  # too long for the client
                continue
            answers.add((answer.status_code, answer.text))
    assert len(answers) == 1 and answers.pop()[0] == 403
    sent = httpx.post(f"{app.address}/gradio_api/process_recording", files={"video": ("a.mp4", b"#EXTM3U\n")})
    assert sent.status_code == 403


def test_uploads_and_examples_are_read(app):
    mine = upload(app.address, "mine.png", EXAMPLE.read_bytes()).json()[0]
    for sent in (picture(mine), {"path": mine}, {"path": str(EXAMPLE)}, picture(str(EXAMPLE))):
        event, answer = call(app.address, "classifier_predict", sent)
        assert event == "complete", answer


def test_by_mcp(app, private):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def ask(calls):
        async with streamablehttp_client(f"{app.address}/gradio_api/mcp/") as (read, write, _):
            async with ClientSession(read, write) as session:
                await session.initialize()
                return [await session.call_tool(name, arguments) for name, arguments in calls]

    file = {"path": str(private), "meta": META, "orig_name": "x.png"}
    with untouched_server() as here:
        named = [str(private), str(private.with_name("missing.png")), f"file://{private}", here, "/etc/shadow"]
        calls = [("text_to_image_settings", {"picture": path, "model": "tiny"}) for path in named]
        calls += [("classifier_predict", {"picture": path}) for path in named]
        answers = asyncio.run(ask(calls))
    assert all(answer.isError for answer in answers)
    assert all(ONE_SENTENCE in answer.content[0].text for answer in answers)
    # An object in place of any argument, which gradio's client would upload on the server's behalf.
    nested = [
        ("ddpm_draw", {"labels": [file]}),
        ("ddpm_draw", {"labels": ["food"], "count": file}),
        ("text_to_image_settings", {"picture": file, "model": "tiny"}),
        ("classifier_predict", {"picture": {"image": file}}),
    ]
    assert all(answer.isError for answer in asyncio.run(ask(nested)))
    content = private.read_bytes()
    copies = [path for path in Path(get_upload_folder()).glob("*/*.png") if path.is_file() and not path.is_symlink()]
    assert not [path for path in copies if path.stat().st_size == len(content) and path.read_bytes() == content]


DECODE = """
import importlib, importlib.util, sys, threading
from test_ui import PeakMemory
from pathlib import Path
home = "apps.kit.pictures"
read_picture, start = importlib.import_module(home).read_picture, threading.Barrier(6)
def read(path):
    start.wait()
    read_picture(path).close()
threads = [threading.Thread(target=read, args=(path,)) for path in sys.argv[1:]]
with PeakMemory() as memory:
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print(memory.growth)
"""


def test_large_pictures_are_decoded_in_turn(tmp_path):
    """Six pictures of 16 megapixels and a few kB at once, in a process of their own."""
    Image.new("RGBA", (4_000, 4_000), (9, 9, 9, 90)).save(tmp_path / "0.png")
    assert (tmp_path / "0.png").stat().st_size < 100_000
    paths = [tmp_path / f"{k}.png" for k in range(6)]
    for path in paths[1:]:
        shutil.copy(paths[0], path)
    root = Path(__file__).parent.parent
    env = os.environ | {"PYTHONPATH": f"{root}:{root / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", DECODE, *map(str, paths)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    growth = float(done.stdout.splitlines()[-1])
    assert growth < 700e6, f"{growth / 1e6:.0f} MB"
