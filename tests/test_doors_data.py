"""Whatever a data set or a model folder names, only its own plain files are opened: each case by its own process."""

import io
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from hub_models import store
from hub_models.publish import packing, upload
from tests import tiny_models
from tests.commands import run_each
from tests.loopback_hub import loopback_hub

ROOT = Path(__file__).resolve().parent.parent
MEMORY_BYTES = 6 * 2**30  # of a process that opens data: /dev/zero ends there

# Opens each data set of a list and says what came of it, within half a minute.
OPEN = """
import datasets, json, signal, sys
from training.data import masks, sources

class Hung(BaseException):
    pass

def ring(*_):
    raise Hung

signal.signal(signal.SIGALRM, ring)
for line in sys.stdin:
    name, kind, folder = json.loads(line)
    signal.alarm(30)
    try:
        seen, skipped = [], 0
        for split in ("train", "validation"):
            open_it = masks.open_masks if kind == "masks" else sources.open_source
            source = open_it(folder, split=split)
            if kind == "masks":
                [source.mask(i) for i in range(len(source))]
            seen += [source.picture(i).size for i in range(len(source))]
            skipped += len(source.skipped)
        said = f"opened {len(seen)}, left out {skipped}, {(16, 16) in seen}"
    except sources.DataError as error:
        said = f"DataError: {error}"
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    signal.alarm(0)
    print(json.dumps([name, said]), flush=True)
"""


def png(side: int = 8, **texts) -> bytes:
    kept, file = PngImagePlugin.PngInfo(), io.BytesIO()
    for key, value in texts.items():
        kept.add_text(key, value)
    Image.new("RGB", (side, side), (90, 120, 30)).save(file, "PNG", pnginfo=kept)
    return file.getvalue()


def rows(*paths: str | None) -> list[dict]:
    """Twenty pictures with their bytes, and one more for each path."""
    return [{"bytes": png(), "path": f"{k}.png"} for k in range(20)] + [{"bytes": None, "path": p} for p in paths]


def parquet(folder: Path, name: str = "data/train-00000-of-00001.parquet", *, image: list[dict], **columns) -> Path:
    import datasets
    import pyarrow.parquet

    features = {"image": datasets.Image(decode=False)}
    for column, values in columns.items():
        features[column] = datasets.Image(decode=False) if isinstance(values[0], dict) else datasets.Value("string")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    schema = datasets.Features(features).arrow_schema
    pyarrow.parquet.write_table(pyarrow.Table.from_pydict({"image": image, **columns}, schema=schema), folder / name)
    return folder


def with_metadata(folder: Path, *names: str, **more) -> Path:
    folder.mkdir(parents=True)
    for k in range(3):
        (folder / f"{k}.png").write_bytes(png())
    lines = [{"file_name": name, "text": "a picture"} | more for name in ("0.png", "1.png", "2.png", *names)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def with_masks(folder: Path) -> Path:
    for part in ("images", "masks"):
        (folder / "train" / part).mkdir(parents=True)
    lines = []
    for k in range(3):
        (folder / "train" / "images" / f"{k}.png").write_bytes(png())
        Image.new("L", (8, 8), k % 2).save(folder / "train" / "masks" / f"{k}.png")
        lines.append(json.dumps({"file_name": f"images/{k}.png", "label_file_name": f"masks/{k}.png"}) + "\n")
    (folder / "train" / "metadata.jsonl").write_text("".join(lines))
    (folder / "id2label.json").write_text('{"0": "road", "1": "sky"}')
    return folder


PATHS = {  # what a row of a parquet file says instead of bytes: {case: path, {} stands for the folder around}
    "up": "../private.png",
    "far up": "../../../../../../../../../../../{}/private.png",
    "absolute": "{}/private.png",
    "zeros": "../../../../../../../../../../../../dev/zero",
    "zeros, absolute": "/dev/zero",
    "a pipe": "pipe.png",
    "a link": "link.png",
    "a link over a folder": "linked/private.png",
    "proc": "/proc/self/environ",
    "an address": "file://{}/private.png",
    "a chain": "zip://private.png::{}/private.zip",
    "of the hub": "hf://datasets/org/other/private.png",
    "a NUL": "../private.png\0.png",
    "vast": "vast.png",
    "too long": "../" + "x" * 5000,
    "a folder": "data",
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """{case: (kind, folder)}: data sets that name what isn't theirs."""
    around = tmp_path_factory.mktemp("around")
    (around / "private.png").write_bytes(png(16, Secret="a stranger's words"))
    (around / "elsewhere").mkdir()
    shutil.copy(around / "private.png", around / "elsewhere" / "private.png")
    made = {}

    def case(name: str, folder: Path, kind: str = "pictures"):
        made[name] = (kind, str(folder))

    for number, (name, path) in enumerate(PATHS.items()):
        folder = around / f"set{number}"
        parquet(folder, image=rows(path.replace("{}", str(around))))
        if name == "a pipe":
            os.mkfifo(folder / "pipe.png")
        elif name == "a link":
            (folder / "link.png").symlink_to("../private.png")
        elif name == "a link over a folder":
            (folder / "linked").symlink_to("../elsewhere")
        elif name == "vast":
            with (folder / "vast.png").open("wb") as file:
                file.truncate(8 * 2**30)  # of holes
        case(f"a row: {name}", folder)

    for column in ("license", "label", "text"):  # a column that would be decoded by itself
        folder = around / f"column-{column}"
        case(
            f"a column: {column}",
            parquet(folder, image=rows(), **{column: [{"bytes": None, "path": "/dev/zero"}] * 20}),
        )
    masks = parquet(around / "mask-rows", image=rows(), label=[{"bytes": None, "path": "../private.png"}] * 20)
    (masks / "id2label.json").write_text('{"0": "road", "1": "sky"}')
    case("a mask: up", masks, "masks")
    for name, target in {"link": "../private.png", "zeros": "/dev/zero"}.items():
        folder = with_masks(around / f"masks-{name}")
        (folder / "id2label.json").unlink()
        (folder / "id2label.json").symlink_to(target)
        case(f"id2label.json: {name}", folder, "masks")
    folder = with_masks(around / "masks-pipe")
    (folder / "id2label.json").unlink()
    os.mkfifo(folder / "id2label.json")
    case("id2label.json: a pipe", folder, "masks")
    folder = with_masks(around / "masks-deep")
    (folder / "id2label.json").write_text("[" * 100_000)
    case("id2label.json: deep", folder, "masks")
    folder = with_masks(around / "mask-link")
    (folder / "train" / "masks" / "1.png").unlink()
    (folder / "train" / "masks" / "1.png").symlink_to(around / "private.png")
    case("a mask: a link", folder, "masks")

    case("metadata: up", with_metadata(around / "meta-up", "../private.png"))
    case("metadata: absolute", with_metadata(around / "meta-absolute", str(around / "private.png")))
    folder = with_metadata(around / "meta-link", "3.png")
    (folder / "3.png").symlink_to("../private.png")
    case("metadata: a link", folder)
    folder = with_metadata(around / "meta-pipe")
    (folder / "metadata.jsonl").unlink()
    os.mkfifo(folder / "metadata.jsonl")
    case("metadata: a pipe", folder)
    for name, line in {"up": "../private/*.parquet", "absolute": f"{around}/private/train.parquet"}.items():
        parquet(around / "private", "train.parquet", image=rows())
        folder = parquet(around / f"card-{name}", image=rows())
        (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {line}\n---\n")
        case(f"the description: {name}", folder)
    folder = parquet(around / "card-pipe", image=rows())
    os.mkfifo(folder / "README.md")
    case("the description: a pipe", folder)
    folder = parquet(around / "data-link", image=rows())
    (folder / "data" / "validation-00000-of-00001.parquet").symlink_to(around / "private" / "train.parquet")
    case("the data: a link", folder)
    for name, kind in {"json": "train.jsonl", "arrays": "train.json"}.items():
        folder = around / f"lines-{name}"
        folder.mkdir()
        lines = [json.dumps({"image": {"bytes": None, "path": "../private.png"}}) + "\n"] * 3
        (folder / kind).write_text("".join(lines))
        case(f"a line: {name}", folder)
    folder = around / "loop"
    with_metadata(folder)
    (folder / "again").symlink_to(".")
    case("a link around", folder)

    # What has to go on being opened.
    folder = parquet(around / "good-rows", image=rows("images/1.png"))
    (folder / "images").mkdir()
    (folder / "images" / "1.png").write_bytes(png(16))
    case("good: a file inside", folder)
    folder = with_metadata(around / "good-link", "3.png")
    (folder / "kept").mkdir()
    (folder / "kept" / "x.dat").write_bytes(png(16))
    (folder / "3.png").symlink_to("kept/x.dat")
    case("good: a link inside", folder)
    (around / "by-link").symlink_to(folder)
    case("good: the folder by a link", around / "by-link")
    stray = [{"bytes": png(16), "path": "/not/of/this/machine/1.png"}, *rows()]
    case("good: bytes beside an absolute path", parquet(around / "good-absolute", image=stray))
    case("good: masks", with_masks(around / "good-masks"), "masks")
    case("good: a row without a file", parquet(around / "good-missing", image=rows() + rows("images/9.png")))
    return made


@pytest.fixture(scope="module")
def said(cases, tmp_path_factory):
    """{case: what a process said that opened it}."""
    done = subprocess.run(
        [sys.executable, "-c", OPEN],
        input="".join(json.dumps([name, *case]) + "\n" for name, case in cases.items()),
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path_factory.mktemp("home"))},
        cwd=tmp_path_factory.mktemp("here"),
        capture_output=True,
        text=True,
        timeout=600,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES)),
    )
    answers = dict(map(json.loads, filter(lambda line: line.startswith("["), done.stdout.splitlines())))
    assert answers.keys() == cases.keys(), done.stderr[-2000:]
    return answers


@pytest.mark.timeout(600)
def test_only_a_data_sets_own_plain_files_are_opened(said):
    wrong = {
        name: words
        for name, words in said.items()
        if not name.startswith(("good:", "a column: license", "a column: text"))
    }
    wrong = {name: words for name, words in wrong.items() if not words.startswith("DataError: ")}
    assert wrong == {}


def test_a_column_of_pictures_that_nobody_asked_for_is_not_opened(said):
    assert said["a column: license"] == said["a column: text"] == "opened 20, left out 0, False"


def test_a_refusal_names_the_row_and_what_to_do(said):
    for name in PATHS:
        if name not in ("a pipe", "a link", "a link over a folder"):  # found before any row is looked at
            assert ", row 20: " in said[f"a row: {name}"], said[f"a row: {name}"]
    assert "put it there, or its bytes into the data" in said["a row: up"]
    assert "stranger" not in "".join(said.values()) and "\n" not in said["a row: too long"]
    assert all(len(words) < 700 for words in said.values())


def test_what_belongs_to_a_data_set_goes_on_being_opened(said):
    assert said["good: a file inside"] == "opened 21, left out 0, True"
    assert said["good: a link inside"] == said["good: the folder by a link"] == "opened 4, left out 0, True"
    assert said["good: bytes beside an absolute path"] == "opened 21, left out 0, True"
    assert said["good: masks"] == "opened 3, left out 0, False"
    assert said["good: a row without a file"] == "opened 40, left out 1, False"


@pytest.mark.timeout(300)
def test_a_data_set_of_the_hub_names_no_file_of_this_machine(tmp_path):
    private = tmp_path / "private.png"
    private.write_bytes(png(16))
    evil = parquet(tmp_path / "evil", image=rows(str(private)))
    folder = with_metadata(tmp_path / "pictures")
    with loopback_hub() as hub:
        name = "data/train-00000-of-00001.parquet"
        hub.create("datasets/org/evil")
        hub.commit("datasets/org/evil", {name: (evil / name).read_bytes()})
        hub.create("datasets/org/elsewhere")
        address = f"{hub.url}/datasets/org/evil/resolve/main/{name}"
        card = f"---\nconfigs:\n- config_name: default\n  data_files: {address}\n---\n"
        hub.commit("datasets/org/elsewhere", {name: (evil / name).read_bytes(), "README.md": card.encode()})
        hub.create("datasets/org/pictures")
        hub.commit("datasets/org/pictures", {path.name: path.read_bytes() for path in folder.iterdir()})
        asked = "".join(
            json.dumps([name, "pictures", f"org/{name}"]) + "\n" for name in ("evil", "elsewhere", "pictures")
        )
        done = subprocess.run(
            [sys.executable, "-c", OPEN],
            input=asked,
            env=hub.environment(tmp_path / "home"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=200,
        )
    answers = dict(map(json.loads, filter(lambda line: line.startswith("["), done.stdout.splitlines())))
    assert "row 20" in answers["evil"] and "may name none" in answers["evil"], answers
    assert answers["elsewhere"].startswith("DataError: ") and "elsewhere" in answers["elsewhere"], answers
    assert answers["pictures"] == "opened 3, left out 0, False", answers


# ---- models: one rule for links, of Spaces, bundles and pushes -------------------------------------------------------


def snapshot(cache: Path, model: Path) -> Path:
    """The model as the Hub's cache holds it: links into blobs."""
    repo = cache / "models--org--tiny"
    folder = repo / "snapshots" / ("a1" * 20)
    (repo / "blobs").mkdir(parents=True)
    for path in sorted(p for p in model.rglob("*") if p.is_file()):
        large = path.suffix == ".safetensors"
        blob = repo / "blobs" / (store.file_sha256(path) if large else store.git_sha1(path))
        shutil.copy(path, blob)
        link = folder / path.relative_to(model)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny_models.segmenter(tmp_path_factory.mktemp("models"))
    (folder / "README.md").write_text("---\nlicense: mit\nlibrary_name: transformers\n---\n# Tiny\n")
    return folder


@pytest.fixture(scope="module")
def spaces(model, tmp_path_factory) -> dict[str, tuple]:
    """{case: (what `python spaces/build.py` says to such a folder, the Space's folder)}, in one process."""
    home = tmp_path_factory.mktemp("spaces")
    folder = shutil.copytree(model, home / "mine")
    (folder / "README.md").unlink()
    (home / "private.md").write_text("---\nlicense: a-strangers-words\n---\nprivate\n")
    (folder / "README.md").symlink_to(home / "private.md")
    folders = {"of the cache": snapshot(home / "cache", model), "a card that is a link": folder}
    lines = [["segmentation", "--model", path, "--output", home / case] for case, path in folders.items()]
    done = run_each("spaces/build.py", lines, os.environ | {"HF_HOME": str(home / "home")}, ROOT)
    return {case: (said, home / case) for case, said in zip(folders, done, strict=True)}


@pytest.mark.timeout(300)
def test_a_model_of_the_hubs_cache_is_built_with_its_weights(model, spaces):
    done, built = spaces["of the cache"]
    assert done.returncode == 0, done.stderr
    weights = list((built / "hub_models" / "weights" / "segmentation").rglob("*.safetensors"))
    assert [path.read_bytes() for path in weights] == [(model / "model.safetensors").read_bytes()]
    assert not any(path.is_symlink() for path in built.rglob("*"))


@pytest.mark.timeout(300)
def test_a_card_that_is_a_link_gives_a_space_no_words(spaces):
    done, built = spaces["a card that is a link"]
    assert done.returncode == 1 and "README.md is a link" in done.stderr and "put the file itself there" in done.stderr
    assert not built.exists() and "Traceback" not in done.stderr


def links(tmp_path: Path, model: Path) -> dict[str, Path]:
    """{case: folder}: models whose weights or other files are links that don't stay where they may."""
    made = {}
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in model.iterdir():
        (plain / path.name).symlink_to(path)
    made["to another folder"] = plain
    cached = snapshot(tmp_path / "one", model)
    (cached / "config.json").unlink()
    (cached / "config.json").symlink_to(model / "config.json")
    made["out of the cache"] = cached
    cached = snapshot(tmp_path / "two", model)
    blob = (cached / "README.md").resolve()
    blob.unlink()
    blob.symlink_to(model / "README.md")
    made["a blob that is a link"] = cached
    cached, other = snapshot(tmp_path / "three", model), snapshot(tmp_path / "four", model)
    (cached / "README.md").unlink()
    (cached / "README.md").symlink_to((other / "README.md").resolve())
    made["to another repo's blob"] = cached
    cached = snapshot(tmp_path / "five", model)
    (tmp_path / "five" / "models--org--tiny").rename(tmp_path / "five" / "mine")
    made["no cache of the Hub"] = tmp_path / "five" / "mine" / "snapshots" / cached.name
    inner = shutil.copytree(model, tmp_path / "inner")
    (inner / "config.json").rename(inner / "config.dat")
    (inner / "config.json").symlink_to("config.dat")
    made["to a file beside it"] = inner
    return made


@pytest.mark.timeout(300)
def test_other_links_are_refused_by_each_way_out(model, tmp_path):
    from training import publish

    sys.path.insert(0, str(ROOT / "spaces"))
    import build

    for name, folder in links(tmp_path, model).items():
        with pytest.raises(store.CheckpointError, match="is a link"):
            build.build("segmentation", tmp_path / "space", [str(folder)])
        assert not (tmp_path / "space").exists(), name
        with pytest.raises(packing.PushError, match="is a link"):
            upload.check_push(folder)
        with pytest.raises(packing.PushError, match="is a link"):
            with publish.staged(folder, "org/name"):
                pass
    snapshot_folder = snapshot(tmp_path / "good", model)
    assert upload.check_push(snapshot_folder) == packing.files_to_push(model)


@pytest.mark.timeout(300)
def test_an_export_with_a_link_is_not_bundled(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "mine")
    (folder / "run.json").write_text("{}")
    (tmp_path / "words.txt").write_text("a stranger's words")
    (folder / "vocab.txt").symlink_to(tmp_path / "words.txt")

    packing.write_manifest(folder)
    code = "import sys; from pathlib import Path; from hub_models import store; store.WEIGHTS = Path(sys.argv.pop(1)); "
    code += "from training import publish; publish.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "weights"), str(folder), "--bundle", "segmentation/mine"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1 and "vocab.txt is a link" in done.stderr, done.stderr
    assert not (tmp_path / "weights").exists()
