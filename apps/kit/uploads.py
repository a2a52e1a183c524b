"""Which files a visitor can have opened: what was uploaded to gradio's folder, and our own examples. Nothing else.

gradio looks only at objects that carry its own `meta`, fetches addresses that stand in them, and its MCP server would
send itself a file that an argument names. So whatever comes in is looked at here first, and every refusal is the same
sentence: it does not say whether there is such a file. A path outside of the two folders is not even looked up.
"""

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import gradio as gr
from gradio import processing_utils
from gradio.utils import get_upload_folder
from starlette.responses import PlainTextResponse

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
REFUSED = "There is no such picture among the uploads. Upload the file itself; addresses are not fetched."
# Routes of gradio that no page uses, and that read files by other rules: what a recording is made of, ffmpeg decides.
CLOSED = ("/gradio_api/process_recording",)
FILE_ROUTES = ("/gradio_api/file=", "/gradio_api/file/")
META = {"_type": "gradio.FileData"}


class PictureError(gr.Error):
    """A picture that cannot be used, said in a sentence that reaches the page and the API caller. Is a ValueError."""

    def __init__(self, message: str):
        super().__init__(message, title="Picture", print_exception=False)


def check_folder() -> None:
    """Return if gradio's folder of uploads can be written. Raises SystemExit, which says how to name another one."""
    folder = get_upload_folder()
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SystemExit(
            f"Uploads can't be kept in {folder} ({error.strerror}): set GRADIO_TEMP_DIR to one that can be written."
        ) from None


def own_file(path) -> str | None:
    """The real path of a plain file among the uploads or the examples, links resolved; None for all else."""
    if not isinstance(path, str) or "\0" in path or not os.path.isabs(path):
        return None
    plain = os.path.normpath(path)
    try:
        if not any(_inside(plain, root) for root in _roots()):
            return None  # before the disk is asked: nothing about a path elsewhere can be told from the time it takes
        real = os.path.realpath(plain, strict=True)
        if any(_inside(real, os.path.realpath(root)) for root in _roots()) and stat.S_ISREG(os.lstat(real).st_mode):
            return real
    except (OSError, ValueError):  # missing, unreadable, a name that no file can have
        pass
    return None


def _roots() -> tuple[str, ...]:
    folder = os.path.abspath(get_upload_folder())
    return folder, os.path.realpath(folder), str(EXAMPLES)


def _inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def open_file(path) -> BinaryIO:
    """The file open for reading if it is a plain one, never a link, a device or a pipe; `guard` has seen whose it is.

    Raises PictureError with the one sentence for all else.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags) if isinstance(path, str | Path) else None
    except (OSError, ValueError):
        descriptor = None
    if descriptor is not None and stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    if descriptor is not None:
        os.close(descriptor)
    raise PictureError(REFUSED)


# ---- what comes in ---------------------------------------------------------------------------------------------------


def content(path: str | Path) -> str:
    """The hash of an upload's or an example's bytes. Raises PictureError as `open_file`."""
    with open_file(path) as file:
        return hashlib.sha256(file.read()).hexdigest()


def accepted(value) -> dict | None:
    """What a picture box may get: None, or the file it was sent, with no more said of it than path, name and type.

    An example's own path becomes that of a copy in gradio's folder. Raises PictureError for anything else.
    """
    if value is None:
        return None
    real = own_file(value.get("path")) if isinstance(value, dict) else None
    if real is None:
        raise PictureError(REFUSED)
    if _inside(real, str(EXAMPLES)):
        real = processing_utils.save_file_to_cache(real, get_upload_folder())
    said = {key: value[key] for key in ("orig_name", "mime_type") if isinstance(value.get(key), str)}
    return {"path": real, "meta": META} | said


def check_nested(value) -> None:
    """Raises PictureError if a file that isn't ours is named anywhere inside a value for another kind of box."""
    for part in _dicts(value):
        if "path" in part and own_file(part["path"]) is None:
            raise PictureError(REFUSED)


def _dicts(value) -> Iterator[dict]:
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += part.values()
        elif isinstance(part, list | tuple):
            waiting += part


def guard(demo: gr.Blocks) -> None:
    """Have the app look at all that its events are sent, by whichever route, before gradio opens or fetches any of it.

    (Set on the instance, as with components.)
    """
    preprocess_data = demo.preprocess_data

    async def look_first(block_fn, inputs, state, explicit_call=False):
        checked = list(inputs)
        if len(checked) != len(block_fn.inputs):  # gradio's own error has no sentence for the caller
            takes = f"{block_fn.api_name} takes {len(block_fn.inputs)} values, {len(checked)} came"
            raise gr.Error(f"{takes}: docs/api.md and the page's own API view list them.", print_exception=False)
        for at, (block, value) in enumerate(zip(block_fn.inputs, checked, strict=False)):
            if isinstance(block, gr.Image):
                checked[at] = accepted(value)
            else:
                check_nested(value)
        return await preprocess_data(block_fn, checked, state, explicit_call)

    demo.preprocess_data = look_first


def guard_mcp(server) -> None:
    """The same for arguments of MCP tools, which gradio turns into files of the server's own before it calls the page.

    server: gradio's GradioMCPServer. Pictures arrive as data: URLs alone.
    """
    convert: Callable = server.convert_strings_to_filedata

    def look_first(value, positions):
        if any("path" in part for part in _dicts(value)):
            raise PictureError(REFUSED)
        for position in positions:
            sent = _at(value, position)
            if isinstance(sent, str) and not sent.startswith("data:"):
                raise PictureError(REFUSED)
        return convert(value, positions)

    server.convert_strings_to_filedata = look_first


def _at(value, position: list[str | int]):
    """The part of a nested value at these keys, None where there is none."""
    try:
        for key in position:
            value = value[key]
    except (KeyError, IndexError, TypeError):
        return None
    return value


class OwnFilesOnly:
    """ASGI around the app: its file routes serve plain files of the uploads and the examples, and fetch no address."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http":
            path = "/" + scope["path"].removeprefix(scope.get("root_path", "")).lstrip("/")
            asked = next((path.removeprefix(route) for route in FILE_ROUTES if path.startswith(route)), None)
            if path.rstrip("/") in CLOSED or (asked is not None and own_file(asked) is None):
                return await PlainTextResponse("There is no such file here.", 403)(scope, receive, send)
        await self.app(scope, receive, send)
