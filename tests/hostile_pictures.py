"""What people and programs send to the pages that take a picture: calls as curl makes them, and hostile input.

The checks named `check_…` are the same for every page: each takes the address of a running app and an endpoint with the
rest of its good arguments, the picture being the first.
"""

import contextlib
import gc
import io
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image
from test_ui import BROKEN, REFUSED, noise, png_bytes

HOSTILE_NAMES = ["../../../etc/x.png", "a" * 5000 + ".png", "a\x07\x1bb\u202e.png", "con.png/..", "x y&<b>.png"]
SERVER_FILES = ["/etc/passwd", __file__, "../../etc/passwd"]


def upload(address: str, name: str, data: bytes) -> httpx.Response:
    return httpx.post(f"{address}/gradio_api/upload", files={"files": (name, data)}, timeout=60)


def picture(path: str, name: str = "x.png") -> dict:
    return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}


def call(address: str, endpoint: str, *data) -> tuple[str, object]:
    """The last event of a call, ("complete", values) or ("error", what it says), as curl would get it."""
    body = json.dumps({"data": data}, allow_nan=True)
    sent = httpx.post(
        f"{address}/gradio_api/call/{endpoint}", content=body, headers={"Content-Type": "application/json"}, timeout=60
    )
    assert sent.status_code == 200, sent.text
    reply = httpx.get(f"{address}/gradio_api/call/{endpoint}/{sent.json()['event_id']}", timeout=60).text
    event, value = re.findall(r"event: (\w+)\ndata: (.*)", reply)[-1]
    return event, json.loads(value)


def text_of(answer) -> str:
    return answer["error"] if isinstance(answer, dict) else str(answer)


def fetched(file: dict) -> np.ndarray:
    with Image.open(io.BytesIO(httpx.get(file["url"]).content)) as image:
        return np.asarray(image)


def sent(address: str, path: Path) -> dict:
    return picture(upload(address, path.name, path.read_bytes()).json()[0], path.name)


def odd_pictures() -> dict[str, tuple[str, bytes, tuple[int, int]]]:
    """Pictures that must pass: file name, content, size when upright."""

    def made(image: Image.Image, format: str, **options) -> bytes:
        image.save(buffer := io.BytesIO(), format, **options)
        return buffer.getvalue()

    frames = [noise((24, 18)), Image.new("RGB", (24, 18))]
    exif = Image.Exif()
    exif[274] = 6
    exif.get_ifd(34853)[2] = (48.0, 51.0, 30.0)  # GPS latitude
    moving = {"save_all": True, "append_images": frames[1:], "duration": 90}
    return {
        "gif": ("a.gif", made(frames[0], "GIF", **moving), (24, 18)),
        "apng": ("a.png", made(frames[0], "PNG", **moving), (24, 18)),
        "webp": ("a.webp", made(frames[0], "WEBP", **moving), (24, 18)),
        "cmyk named gif": ("a.gif", made(noise((24, 18)).convert("CMYK"), "JPEG"), (24, 18)),
        "palette named gif": ("a.gif", made(noise((24, 18)).convert("P"), "PNG"), (24, 18)),
        "16 bits named gif": ("a.gif", made(Image.fromarray(np.full((18, 24), 30_000, np.uint16)), "PNG"), (24, 18)),
        "alpha": ("a.png", made(Image.new("RGBA", (24, 18), (200, 0, 0, 90)), "PNG"), (24, 18)),
        "rotated": ("a.jpg", made(noise((24, 18)), "JPEG", exif=exif), (18, 24)),
        "1 x 1": ("a.png", png_bytes((1, 1)), (1, 1)),
        "1 x 50": ("a.png", png_bytes((1, 50)), (1, 50)),
    }


@contextlib.contextmanager
def untouched_server() -> Iterator[str]:
    """The address of a picture on this machine; it fails if somebody asked for it meanwhile."""
    hits = []

    class Count(BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            self.send_response(200)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Count)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/x.png"
    finally:
        server.shutdown()
        server.server_close()
    assert not hits


def check_unreadable(address: str, kind: str, endpoints: Mapping[str, Sequence]) -> None:
    """A file that is no picture of that kind, one of `test_ui.REFUSED`, is refused with the reason."""
    name, data = BROKEN[kind]
    reply = upload(address, name, data())
    if kind == "empty" and reply.status_code != 200:
        return  # refused even earlier
    for endpoint, rest in endpoints.items():
        event, answer = call(address, endpoint, picture(reply.json()[0], name), *rest)
        assert event == "error" and REFUSED[kind] in text_of(answer)


def check_only_uploads_are_read(address: str, endpoints: Mapping[str, Sequence]) -> None:
    """No picture, the server's own files and addresses are refused with a reason, and no address is fetched."""
    with untouched_server() as here:
        for endpoint, rest in endpoints.items():
            event, answer = call(address, endpoint, None, *rest)
            assert event == "error" and "Upload a picture first" in text_of(answer)
            for path in SERVER_FILES:
                event, answer = call(address, endpoint, picture(path), *rest)
                assert event == "error" and "root:" not in str(answer)
            for url in (here, "http://169.254.169.254/latest/meta-data/", "https://example.invalid/x.png"):
                event, answer = call(address, endpoint, picture(url), *rest)
                assert event == "error" and "not fetched" in text_of(answer)
                assert call(address, endpoint, {**picture(""), "path": None, "url": url}, *rest)[0] == "error"


def check_upload_above_the_limit(address: str) -> None:
    assert upload(address, "big.png", bytes(21_000_000)).status_code == 413


def check_hostile_name(address: str, name: str, endpoint: str, *rest) -> None:
    """An upload of that name is refused, or lies where uploads do and is read as any other."""
    reply = upload(address, name, png_bytes())
    if reply.status_code != 200:
        assert reply.status_code in (400, 413, 422)
        return
    [path] = reply.json()
    assert ".." not in Path(path).parts and Path(path).parent.parent == Path(get_upload_folder())
    assert call(address, endpoint, picture(path, name), *rest)[0] == "complete"


def check_memory_stays_flat(address: str, good: Path, endpoint: str, *rest) -> None:
    """A hundred calls, more than half of them with what can't be read, leave the process less than 8 MB larger."""
    bad = {kind: BROKEN[kind] for kind in REFUSED if kind != "empty"}
    odd = {kind: (name, data) for kind, (name, data, _) in odd_pictures().items()}
    files = [picture(upload(address, name, data()).json()[0], name) for name, data in bad.values()]
    files += [picture(upload(address, name, data).json()[0], name) for name, data in odd.values()]
    files += [None, picture("/etc/passwd"), picture("http://127.0.0.1:9/x.png"), sent(address, good)]

    def resident_kib() -> int:
        gc.collect()
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    def outcomes(count: int) -> list[str]:
        return [call(address, endpoint, files[k % len(files)], *rest)[0] for k in range(count)]

    outcomes(2 * len(files))
    before = resident_kib()
    events = outcomes(100)
    growth = resident_kib() - before
    assert events.count("complete") >= 40 and events.count("error") >= 50
    assert growth < 8_000, f"{growth} KiB more"
