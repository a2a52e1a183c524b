"""Files that are handed out: written beside and renamed, so that whoever downloads one meanwhile gets it whole.

gradio names a file after its content and writes it anew for equal content, over the one that is being served.
"""

import os
import tempfile
from pathlib import Path

from gradio import processing_utils
from gradio.utils import get_upload_folder
from gradio_client import utils as client_utils


def cached_file(data: bytes, name: str) -> str:
    """The path of a file in gradio's cache, from where it is served and an hour after its last use deleted."""
    return save_bytes(data, name, get_upload_folder())


def save_bytes(data: bytes, file_name: str, cache_dir: str) -> str:
    """As gradio's save_bytes_to_cache: the path of <cache_dir>/<hash of the content>/<name>."""
    if not Path(file_name).suffix:
        file_name += processing_utils.detect_audio_format(data)
    return place(Path(cache_dir) / processing_utils.hash_bytes(data) / Path(file_name).name, data)


def save_picture(img, cache_dir: str, name: str = "image", format: str = "webp") -> str:
    """As gradio's save_pil_to_cache."""
    return save_bytes(processing_utils.encode_pil_to_bytes(img, format), f"{name}.{format}", cache_dir)


def save_base64(base64_encoding: str, cache_dir: str, file_name: str | None = None) -> str:
    """As gradio's save_base64_to_cache; files that come inside a call of MCP."""
    extension = client_utils.get_extension(base64_encoding)
    name = client_utils.strip_invalid_filename_characters(file_name or (f"file.{extension}" if extension else "file"))
    data, _ = client_utils.decode_base64_to_binary(base64_encoding)
    return place(Path(cache_dir) / processing_utils.hash_base64(base64_encoding) / name, data)


def place(path: Path, data: bytes) -> str:
    """The absolute path, with the data in it. Its folder is named after the data: a file that is there is whole."""
    path.parent.mkdir(exist_ok=True, parents=True)
    path = path.resolve()
    try:
        os.utime(path)  # the files longest unused are deleted
        if path.stat().st_size == len(data):
            return str(path)
    except OSError:
        pass
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return str(path)


def whole_files() -> None:
    """Have gradio's own components write their answers as `place` does."""
    processing_utils.save_bytes_to_cache = save_bytes
    processing_utils.save_pil_to_cache = save_picture
    # its type is that of that one function
    processing_utils.save_base64_to_cache = save_base64  # ty: ignore[invalid-assignment]
