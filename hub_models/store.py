"""Where a checkpoint is, whether it is sound, and how it comes from the Hub: reading alone, publish writes.

A checkpoint is a folder that a stock class loads: JSON, text and safetensors. Nothing else is read, nothing is ever
unpickled, and no code that comes with a model is run. `manifest.json` in it holds size and sha256 of every file,
because the Hub client compares sizes only and safetensors loads flipped bytes and NaN without complaint.
"""

import contextlib
import difflib
import hashlib
import re
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import safetensors
from huggingface_hub import get_token, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from hub_models import bounds, stock
from hub_models.client import haste
from hub_models.documents import CheckpointError, read_header, read_json, read_object, within

WEIGHTS = Path(__file__).parent / "weights"
MANIFEST = "manifest.json"

READ = (".safetensors", ".json", ".txt")  # what a model is made of: pulled, and held to the manifest
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".msgpack", ".h5", ".npz")
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")

# Safetensors dtype → the unsigned integer of the same width, and the exponent bits that are all set in NaN and Inf
# only.
FLOATS = {
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F32": ("<u4", 0x7F80_0000),
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
}


# Files that libraries open: a key twice, or NaN, in one of these means one thing here and another there.
OPENED = re.compile(r"(config|index|manifest|tokenizer|vocab|added_tokens|special_tokens_map)[^/]*\.json$")

STOCK_NAMES = ("model", "diffusion_pytorch_model")  # what libraries call a file of weights

# Stems some of whose bundled checkpoints are a folder inside those of another stem.
PARTS = {"autoencoder": ("text_to_image", "vae")}


def bundled(stem: str) -> dict[str, Path]:
    """{name: folder} of the checkpoints that come with the repository, sorted. Some are a part of another stem's."""
    found = {path.name: path for path in WEIGHTS.glob(f"{stem}/*") if path.is_dir()}
    home, part = PARTS.get(stem, (stem, ""))
    found |= {path.name: path / part for path in WEIGHTS.glob(f"{home}/*") if (path / part).is_dir()}
    return dict(sorted(found.items()))


def variants(stem: str) -> list[str]:
    """The names of the checkpoints that come with the repository, sorted."""
    return list(bundled(stem))


def whole_of(folder: Path) -> Path:
    """The folder whose manifest speaks of this one: itself, or the pipeline that it is a part of."""
    part = not (folder / MANIFEST).is_file() and (folder.parent / MANIFEST).is_file()
    return folder.parent if part else folder


def resolve(stem: str, name: str | Path) -> Path:
    """The verified folder of a checkpoint: a bundled variant, else a folder, else "org/repo[@revision]" from the Hub.

    A name without a slash never asks the Hub. What comes from there is cached, and the cache serves when the Hub
    doesn't. Raises CheckpointError.
    """
    name = str(name)
    ours = bundled(stem)
    if name in ours:
        folder = ours[name]
    elif here := _folder_here(name):
        folder = here
    elif REPO_ID.fullmatch(name):
        folder = _pull(*name.partition("@")[::2])
        _check_blobs(folder)
    elif "/" in name or "\\" in name:
        raise CheckpointError(f"{name} is no folder here and no Hub id of the form org/repo or org/repo@revision")
    else:
        guess = difflib.get_close_matches(name, ours, n=1)
        known = ", ".join(ours) if ours else "none yet"
        raise CheckpointError(
            f"no {stem} variant is called {name!r}"
            + (f" (did you mean {guess[0]!r}?)" if guess else "")
            + f": bundled are {known}; a folder or org/repo works too"
        )
    verify(folder)
    return folder


def _folder_here(name: str) -> Path | None:
    try:
        folder = Path(name).expanduser()
        return folder if name and folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # a name too long for a file, of nobody's home, with a NUL in it
        return None


@contextlib.contextmanager
def opening(folder: Path) -> Generator[None]:
    """Whatever else a foreign folder makes a library raise in the block, as CheckpointError that names the folder."""
    try:
        yield
    except CheckpointError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # what Rust's libraries raise
            raise
        raise CheckpointError(
            f"{folder} cannot be opened ({type(error).__name__}: {one_line(error)}): download or export it again"
        ) from error


def _pull(repo_id: str, revision: str) -> Path:
    patterns = [f"*{suffix}" for suffix in READ]
    try:
        with haste():
            return Path(snapshot_download(repo_id, revision=revision or None, allow_patterns=patterns))
    except RepositoryNotFoundError as error:
        reason = f"the Hub shows no model {repo_id} to you: check the spelling, and HF_TOKEN if it is private or gated"
        raise CheckpointError(reason) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repo_id} has no revision {revision!r}: leave @… off for the newest") from error
    except LocalEntryNotFoundError as error:
        reason = f"{repo_id} is neither a folder here nor in the Hub's cache, and the Hub can't be reached"
        raise CheckpointError(f"{reason}: go online once, or name a bundled variant") from error
    except Exception as error:  # the client's own errors, the transport's, a full disk: none of them may end an app
        raise CheckpointError(f"{repo_id} could not be pulled ({one_line(error)}): try again") from error


def _check_blobs(folder: Path) -> None:
    """Raise if a pulled file is not what the Hub said it sends: the cache names each by its sha256, or git's hash.

    The client compares sizes only, and never looks at a file again that lies in its cache.
    """
    for path in sorted(folder.rglob("*")):
        blob = path.resolve()
        if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", blob.name):
            found = file_sha256(blob) if len(blob.name) == 64 else git_sha1(blob)
            if found != blob.name:
                raise CheckpointError(
                    f"{path.relative_to(folder)} came damaged (its checksum isn't the Hub's): delete {blob} and try "
                    "again"
                )


def verify(folder: str | Path, *, manifest_required: bool = False) -> None:
    """Return if every file that a model is made of is there, whole, unaltered and finite.

    Raises CheckpointError for: a missing file, an LFS pointer, an HTML page, a folder or file of pickles, a truncated
    or foreign safetensors file, NaN or Inf among the weights, and, where there is a manifest, another size or sha256.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is missing: train it, or name a bundled variant or org/repo")
    with opening(folder):
        _verify(folder, manifest_required)


def _verify(folder: Path, manifest_required: bool) -> None:
    files = list(_plain_files(folder))
    weights = [p for p in files if p.suffix == ".safetensors"]
    if not weights:
        pickles = [p.name for p in files if p.suffix in PICKLED]
        reason = f"its weights are pickled ({', '.join(pickles[:3])}) and pickles are never opened" if pickles else ""
        raise CheckpointError(
            f"{folder} holds no .safetensors file{': ' + reason if reason else ''}; "
            "save the model again with safe_serialization=True, or pick a repository that has safetensors"
        )
    for path in files:
        if path.suffix in READ:
            check_kind(path)
    _check_parts(folder)
    _check_manifest(folder, required=manifest_required)
    for path in weights:
        check_weights(path)


def _plain_files(folder: Path) -> Iterator[Path]:
    """The files of a model folder, sorted. Raises CheckpointError for what isn't one, and would be opened as one."""
    for path in sorted(folder.rglob("*")):
        if stays_home(path.relative_to(folder)):
            continue
        if path.is_file():
            yield path
        elif path.is_dir():
            if path.is_symlink():
                raise CheckpointError(f"{path} is a link to a folder: put the folder itself there")
            if path.suffix in READ:
                raise CheckpointError(f"{path} is a folder where a file belongs: download or export it again")
        elif path.exists():
            raise CheckpointError(f"{path} is no plain file: remove it")
        elif path.suffix in READ:
            raise CheckpointError(f"{path} is a link to nothing: download it again, or remove it")


def check_kind(path: Path) -> None:
    """Raise if the file is something else under this name: what a download that went wrong leaves."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): mend its permissions") from error
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a git-lfs pointer, not the file: run `git lfs pull`, or download it again")
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise CheckpointError(f"{path} is an HTML page saved under this name: download the file itself (…/resolve/…)")
    if not start:
        raise CheckpointError(f"{path} is empty: download or export it again")
    if path.suffix == ".safetensors" and start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05")):
        raise CheckpointError(f"{path} is a pickle under another name and is not opened: save it as safetensors")
    if path.suffix == ".json":
        config = path.name.endswith("config.json") or path.name == "model_index.json"
        content = read_json(
            path, strict=bool(OPENED.search(path.name)), **({"max_bytes": bounds.MAX_CONFIG_BYTES} if config else {})
        )
        if config:
            if not isinstance(content, dict):
                raise CheckpointError(
                    f"{path} holds a {type(content).__name__} where an object belongs: export it again"
                )
            stock.check(path, content)
            bounds.check(path, content)


def _check_parts(folder: Path) -> None:
    """Raise if a part that the folder's own index names is missing: a pipeline's component, a shard."""
    if not (folder / "config.json").is_file() and not (folder / "model_index.json").is_file():
        raise CheckpointError(f"{folder} has neither config.json nor model_index.json: it is no model folder")
    if (folder / "model_index.json").is_file():
        for part, kind in read_object(folder / "model_index.json").items():
            if part != "_class_name" and isinstance(kind, list) and any(kind) and not (folder / part).is_dir():
                raise CheckpointError(f"{folder / part} is missing, model_index.json names it: download it again")
    for index in folder.rglob("*.safetensors.index.json"):
        shards = read_object(index).get("weight_map")
        if not isinstance(shards, dict) or not all(within(shard) for shard in shards.values()):
            raise CheckpointError(f"{index}: weight_map must give each tensor a file of this folder; download it again")
        for shard in sorted(set(shards.values())):
            if not (index.parent / shard).is_file():
                raise CheckpointError(f"{index.parent / shard} is missing, {index.name} names it: download it again")


def _check_manifest(folder: Path, *, required: bool) -> None:
    path = whole_of(folder) / MANIFEST
    if not path.is_file():
        if required:
            raise CheckpointError(f"{path} is missing: export the run again, it is written last")
        return
    part = "" if path.parent == folder else f"{folder.name}/"
    files = read_object(path).get("files")
    if not isinstance(files, dict):
        raise CheckpointError(f"{path} lists no files: export the run again")
    for name, said in sorted(files.items()):
        if not within(name) or not isinstance(said, dict):
            raise CheckpointError(
                f"{path}: {name[:60]!r} is no file of this folder with a size and a sha256; export it again"
            )
        if type(said.get("size")) is not int or not isinstance(said.get("sha256"), str):
            raise CheckpointError(f"{path} has no size and sha256 of {name[:60]}: export the run again")
        if Path(name).suffix not in READ or not name.startswith(
            part
        ):  # a card and its pictures may be edited on the Hub
            continue
        file = path.parent / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing, {MANIFEST} names it: download or export it again")
        if file.stat().st_size != said["size"]:
            size = f"{file.stat().st_size:,} bytes instead of {said['size']:,}"
            raise CheckpointError(f"{file} has {size}: delete it and download or export it again")
        if file_sha256(file) != said["sha256"]:
            raise CheckpointError(
                f"{file} is altered (its sha256 isn't the manifest's): delete it and download it again"
            )


def check_weights(path: Path) -> None:
    """Raise if a tensor of the file holds NaN or Inf, or the file is no sound safetensors file."""
    for name, dtype, _, raw in read_tensors(path):
        if dtype in FLOATS:
            integer, exponent = FLOATS[dtype]
            bits = raw.view(integer)
            if ((bits & exponent) == exponent).any():
                raise CheckpointError(
                    f"{path} has NaN or Inf in {name!r}: the training diverged, take a checkpoint before"
                )


def read_tensors(path: Path) -> Iterator[tuple[str, str, list[int], np.ndarray]]:
    """(name, dtype, shape, bytes as uint8 (N,)) of each tensor, read in place. Raises CheckpointError."""
    header, begin = read_header(path)
    try:
        with safetensors.safe_open(path, "np"):  # the library's own rules: overlaps, gaps, bytes behind the end
            pass
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is broken ({one_line(error)}): download or export it again") from error
    data = np.memmap(path, np.uint8, "r", begin) if path.stat().st_size > begin else np.zeros(0, np.uint8)
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        yield name, entry["dtype"], entry["shape"], data[start:stop]


def variant_of(folder: Path) -> str | None:
    """The variant in which alone a model folder has its weights, "fp16" of model.fp16.safetensors; None mostly."""
    names = [path.name.removesuffix(".safetensors").split(".") for path in folder.glob("*.safetensors")]
    variants = {parts[1].partition("-")[0] for parts in names if len(parts) == 2 and parts[0] in STOCK_NAMES}
    plain = any(parts[0].partition("-")[0] in STOCK_NAMES for parts in names if len(parts) == 1)
    return None if plain or len(variants) != 1 else variants.pop()


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_sha1(path: str | Path) -> str:
    """git's name for a file's content, in hex."""
    digest = hashlib.sha1(b"blob %d\0" % Path(path).stat().st_size)
    with Path(path).open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def weights_sha256(folder: str | Path) -> str:
    """One hash of all safetensors files of a folder: the sha256 of what `sha256sum` prints for their sorted paths."""
    folder = Path(folder)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.safetensors"))
    return hashlib.sha256("".join(f"{file_sha256(folder / n)}  {n}\n" for n in names).encode()).hexdigest()


def stays_home(relative: Path) -> bool:
    """Whether a file is hidden or of a checkpoint: no part of a model, and never pushed."""
    return any(part.startswith((".", "checkpoint-")) for part in relative.parts)


def one_line(error: BaseException) -> str:
    """What an exception says in one line of at most 300 characters, with tokens masked."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"  # the Hub's own words stand in the last line
    return masked(text)[:300]


def masked(text: str) -> str:
    """The text with tokens of the Hub, the one in use among them, made unreadable."""
    if token := get_token():
        text = text.replace(token, "***")
    return re.sub(r"hf_[A-Za-z0-9]+", "hf_***", text)
