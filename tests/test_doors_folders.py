"""Folders of strangers: whatever stands in their JSON and safetensors files, `load` answers, or says why not.

VITRAIL_FOLDER_MUTATIONS=300 tries so many changes of each folder's files in place of a sample.
"""

import copy
import importlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import struct
import time
from pathlib import Path

import pytest
import torch
from families import FAMILIES

from apps import gallery
from apps.kit import launch
from hub_models import store
from tests import tiny_models

MUTATIONS = int(os.environ.get("VITRAIL_FOLDER_MUTATIONS", "24"))
SECONDS = 15  # for one folder on a busy core; most take a tenth of one
KINDS = {"timm": "classifier", "swin": "segmentation", "unet": "segmentation"}  # by what is in them
FOLDERS = {stem: stem for stem in FAMILIES if stem not in KINDS.values()} | KINDS
LOOK = object()  # the key goes
HUGE = [10**6, 10**7, 10**9, 10**30, -1, -(10**9), 0]
VALUES = [
    LOOK, *HUGE, 1.5, 1e300, float("nan"), True, None, "", "text", "10000000", "../../../../etc/passwd", [], ["text"],
    [1], [10**6] * 4, [10**9], [[1]], {}, {"a": 1}, {"a": {"b": [1]}},
]  # fmt: skip
DEEP = "[" * 100_000 + "]" * 100_000
WHOLE = {
    "empty": b"",
    "list": b"[]",
    "null": b"null",
    "text": b'"text"',
    "number": b"7",
    "cut": b'{"a": ',
    "zeros": bytes(99),
    "bom": b"\xef\xbb\xbf{}",
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "deep": DEEP.encode(),
    "latin": b'{"a": "\xe9"}',
    "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "digits": b'{"a": ' + b"9" * 100_000 + b"}",
    "deep value": b'{"a": ' + DEEP.encode() + b"}",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A sound folder of each kind."""
    root = tmp_path_factory.mktemp("folders")
    tiny_models.classifier(root / "timm")
    tiny_models.stable_diffusion(
        root / "text_to_image", extra={"guidance_scale": 2.0, "default_steps": 4, "styles": ["x"]}
    )
    tiny_models.segmenter(root / "swin", "swin")
    tiny_models.segmenter(root / "unet", "unet")
    for name in FOLDERS:
        if not (root / name).exists():
            FAMILIES[name].save(root / name)
    return {name: root / name for name in FOLDERS}


def opened(stem: str, folder: Path):
    return importlib.import_module(f"hub_models.{stem}").load(str(folder), device="cpu")


def outcome(stem: str, folder: Path) -> str:
    """ "loaded", "refused" for a sentence of CheckpointError, or what came out raw."""
    try:
        opened(stem, folder)
    except store.CheckpointError as error:
        sentence = str(error)
        good = "\n" not in sentence and len(sentence) < 2000
        return "refused" if good else f"no sentence: {sentence[:300]}"
    except BaseException as error:  # a Rust panic is no Exception
        return f"raw {type(error).__name__}: {str(error)[:200]}"
    return "loaded"


def in_a_child(function, *args, seconds: float) -> int:
    """The exit code of a fork of this process that runs function(*args); negative is a signal's, -9 also too late."""
    process = multiprocessing.get_context("fork").Process(target=function, args=args)
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode


def within_memory(gib: float) -> None:
    """From now on this process, which is a fork, may take so much address space more."""
    torch.set_num_threads(1)  # a fork has none of the threads it believes to have
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def keys_of(value, depth: int = 5) -> list[tuple]:
    """Where something can be changed in a JSON value: the keys that lead there, of each list its first place only."""
    if not depth:
        return []
    pairs = (
        list(value.items())[:60]
        if isinstance(value, dict)
        else list(enumerate(value))[:1]
        if isinstance(value, list)
        else []
    )
    return [path for key, inner in pairs for path in ((key,), *((key, *rest) for rest in keys_of(inner, depth - 1)))]


def changed(content, path: tuple, value):
    content = copy.deepcopy(content)
    place = content
    for key in path[:-1]:
        place = place[key]
    if value is LOOK:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


def mutations(folder: Path, seed: int):
    """(what is changed, a function that changes it in a copy of the folder), without end, drawn by the seed."""
    draw = random.Random(seed)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*.json"))
    contents = {file: json.loads((folder / file).read_text()) for file in files}
    while True:
        file = draw.choice(files)
        path, value = draw.choice(keys_of(contents[file]) or [()]), draw.choice(VALUES)
        if not path or draw.random() < 0.1:
            name = draw.choice(list(WHOLE))
            yield f"{file}: {name}", lambda copied, file=file, name=name: (copied / file).write_bytes(WHOLE[name])
            continue
        shown = "deleted" if value is LOOK else repr(value)[:40]
        text = json.dumps(changed(contents[file], path, value))
        yield f"{file}: {'.'.join(map(str, path))} = {shown}", lambda copied, f=file, t=text: (copied / f).write_text(t)


def try_all(stem: str, folder: Path, seed: int, count: int, report: Path) -> None:
    """One line of JSON for each change: before it is tried, and after."""
    within_memory(4)
    with report.open("w", buffering=1) as lines:
        for number, (what, change) in zip(range(count), mutations(folder, seed), strict=False):
            copied = report.parent / f"{report.stem}-{number}"
            shutil.copytree(folder, copied)
            change(copied)
            lines.write(json.dumps([what, "begun", 0]) + "\n")
            started = time.monotonic()
            answer = outcome(stem, copied)
            lines.write(json.dumps([what, answer, time.monotonic() - started]) + "\n")
            shutil.rmtree(copied)


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_changed_json_file_is_loaded_or_refused_in_a_sentence(folders, tmp_path, kind):
    report = tmp_path / "report.jsonl"
    status = in_a_child(try_all, FOLDERS[kind], folders[kind], len(kind), MUTATIONS, report, seconds=60 + 2 * MUTATIONS)
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert status == 0, f"{rows[-1]} ended the process: {status}"
    done = [row for row in rows if row[1] != "begun"]
    wrong = [row for row in done if row[1] not in ("loaded", "refused") or row[2] > SECONDS]
    print(
        kind, len(done), "tried,", sum(row[1] == "refused" for row in done), "refused, slowest", max(r[2] for r in done)
    )
    assert not wrong, f"{len(wrong)} of {len(done)}: {wrong[:8]}"
    assert len(done) == MUTATIONS and any(row[1] == "refused" for row in done)


def test_every_tried_folder_is_sound_before(folders):
    for kind, stem in FOLDERS.items():
        assert outcome(stem, folders[kind]) == "loaded", kind


# --- Manifests, indexes, headers, files that are none -----------------------------------------------------------------


@pytest.fixture
def model(folders, tmp_path) -> Path:
    """A copy of the captioner's folder."""
    return Path(shutil.copytree(folders["captioning"], tmp_path / "model"))


def refusal(folder: Path, stem: str = "captioning") -> str:
    """The sentence; hanging ends the test."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"{folder} hangs"))
    signal.alarm(60)
    try:
        with pytest.raises(store.CheckpointError) as caught:
            opened(stem, folder)
    finally:
        signal.alarm(0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


WRONG_MANIFESTS = [
    [], None, 7, "x", {}, {"files": []}, {"files": {"config.json": []}}, {"files": {"config.json": None}},
    {"files": {"config.json": {}}}, {"files": {"config.json": {"size": "1", "sha256": "x"}}},
    {"files": {"config.json": {"size": 1}}}, {"files": {"config.json": {"size": 1, "sha256": 5}}},
    {"files": {"../../etc/passwd.json": {"size": 1, "sha256": "x"}}},
    {"files": {"/etc/a.json": {"size": 1, "sha256": "x"}}}, {"files": {"": {"size": 1, "sha256": "x"}}},
    {"files": {"a\0.json": {"size": 1, "sha256": "x"}}},
]  # fmt: skip


@pytest.mark.parametrize("content", WRONG_MANIFESTS, ids=str)
def test_a_manifest_of_the_wrong_form(model, content):
    (model / store.MANIFEST).write_text(json.dumps(content))
    assert store.MANIFEST in refusal(model)


@pytest.mark.parametrize(
    "name", ["manifest.json", "model.safetensors.index.json", "config.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize("what", [what for what in WHOLE if what not in ("list", "null", "text", "number")])
def test_a_file_that_is_no_json(model, name, what):
    (model / name).write_bytes(WHOLE[what])
    assert name in refusal(model)


@pytest.mark.parametrize("text", ['{"files": {}, "files": {}}', '{"files": {"a": NaN}}', '{"files": {"a": 1e999}}'])
def test_twice_and_not_a_number(model, text):
    (model / "manifest.json").write_text(text)
    assert "manifest.json" in refusal(model)


WRONG_SHARDS = [1, [], None, "../model.safetensors", "/etc/passwd", "a\0", "x" * 5000]


@pytest.mark.parametrize("shards", [[], None, "x", *({"a": file} for file in WRONG_SHARDS)], ids=lambda v: str(v)[:30])
def test_an_index_of_the_wrong_form(model, shards):
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert "weight_map" in refusal(model)


def header(entries: dict | str, data: bytes = bytes(16), length: int | None = None) -> bytes:
    text = (entries if isinstance(entries, str) else json.dumps(entries)).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(4,), offsets=(0, 16)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HEADERS = {
    "negative": header({"a": entry(offsets=[-16, 0])}),
    "backwards": header({"a": entry(offsets=[16, 0])}),
    "floats": header({"a": entry(offsets=[0.0, 16.0])}),
    "texts": header({"a": entry(offsets=["0", "16"])}),
    "booleans": header({"a": entry(dtype="U8", shape=[1], offsets=[False, True])}, bytes(1)),
    "one offset": header({"a": entry(offsets=[16])}),
    "no offsets": header({"a": {"dtype": "F32", "shape": [4]}}),
    "offsets object": header({"a": entry(offsets={"0": 0, "1": 16})}),
    "dtype unknown": header({"a": entry(dtype="F31")}),
    "dtype number": header({"a": entry(dtype=7)}),
    "shape text": header({"a": entry(shape="4")}),
    "shape negative": header({"a": entry(shape=[-2, -2])}),
    "shape huge": header({"a": entry(shape=[2**62, 2**62, 4])}),
    "shape deep": header({"a": entry(shape=[[4]])}),
    "does not fit": header({"a": entry(shape=[3])}),
    "past the end": header({"a": entry(shape=[2**40], offsets=[0, 2**42])}),
    "twice": header("{" + ", ".join(['"a": {"dtype":"F32","shape":[4],"data_offsets":[0,16]}'] * 2) + "}"),
    "overlap": header({"a": entry(), "b": entry()}),
    "gap": header({"a": entry(shape=[1], offsets=[0, 4]), "b": entry(shape=[1], offsets=[12, 16])}),
    "list": header("[]"),
    "entry list": header('{"a": []}'),
    "entry null": header('{"a": null}'),
    "metadata only": header('{"__metadata__": {"a": "b"}}', b""),
    "metadata list": header('{"__metadata__": [], "a": {"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'),
    "length of everything": header({"a": entry()}, length=2**63),
    "length beyond": header({"a": entry()}, length=2**20),
    "length of nothing": header({"a": entry()}, length=0),
    "deep": header(DEEP),
    "deep shape": header('{"a": {"dtype":"F32","data_offsets":[0,16],"shape":' + DEEP + "}}"),
    "digits": header('{"a": {"dtype":"F32","shape":[4],"data_offsets":[0,' + "9" * 5000 + "]}}"),
    "not a number": header('{"a": {"dtype":"F32","shape":[4],"data_offsets":[0,NaN]}}'),
    "no UTF-8": struct.pack("<Q", 4) + b'{"\xff"' + bytes(16),
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_broken_header_of_weights(model, what):
    (model / "model.safetensors").write_bytes(HEADERS[what])
    assert "model.safetensors" in refusal(model)


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "config.json",
        "tokenizer.json",
        "preprocessor_config.json",
        "vocab.txt",
        "model.safetensors",
        "model.safetensors.index.json",
        "generation_config.json",
    ],
)
@pytest.mark.parametrize("what", ["dangling", "loop", "folder", "fifo", "device", "linked fifo"])
def test_something_else_where_a_file_belongs(model, name, what):
    path = model / name
    path.unlink(missing_ok=True)
    if what == "dangling":
        path.symlink_to(model / "nowhere")
    elif what == "loop":
        path.symlink_to(path)
    elif what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(model.parent / "pipe")
        path.symlink_to(model.parent / "pipe")
    assert name in refusal(model)


def test_a_linked_folder_is_not_passed_over(folders, tmp_path):
    model = Path(shutil.copytree(folders["text_to_image"], tmp_path / "model"))
    (model / "unet").rename(tmp_path / "elsewhere")
    (model / "unet").symlink_to(tmp_path / "elsewhere")
    assert "link to a folder" in refusal(model, "text_to_image")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs somebody who is not allowed to")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "manifest.json", "vocab.txt"])
def test_a_file_that_may_not_be_read(model, name):
    shutil.copytree(model, own := Path("/tmp") / f"doors-{os.getpid()}-{name}")
    (own / name).touch()
    try:
        for path in (own, *own.rglob("*")):
            path.chmod(0o755)
        (own / name).chmod(0)
        os.seteuid(65534)
        try:
            with pytest.raises(store.CheckpointError, match=f"{name} cannot be read"):
                store.verify(own)
        finally:
            os.seteuid(0)
    finally:
        shutil.rmtree(own)


# --- Sizes that a config asks for -------------------------------------------------------------------------------------

SIZES = [
    ("timm", "config.json", "model_args.depth", 1_000_000),
    ("timm", "config.json", "model_args.depth", 5_000),
    ("timm", "config.json", "model_args.embed_dim", 1_000_000),
    ("timm", "config.json", "model_args.img_size", 8192),
    ("timm", "config.json", "model_args.features_only", True),
    ("timm", "config.json", "model_args.pretrained_cfg_overlay", {}),
    ("timm", "config.json", "model_args.checkpoint_path", "/etc/passwd"),
    ("timm", "config.json", "num_classes", 10**9),
    ("timm", "config.json", "label_names", 7),
    ("timm", "config.json", "label_names", [1, 2, 3]),
    ("timm", "config.json", "architecture", "hf-hub:org/evil"),
    ("timm", "config.json", "architecture", ["x"]),
    ("timm", "config.json", "pretrained_cfg", []),
    ("timm", "config.json", "model_args", [1]),
    ("captioning", "config.json", "decoder.num_hidden_layers", 1_000_000),
    ("captioning", "config.json", "decoder.vocab_size", 10**9),
    ("captioning", "config.json", "decoder.vocab_size", 10**6),
    ("captioning", "config.json", "encoder.image_size", 10**6),
    ("captioning", "config.json", "encoder.depths", [500_000, 500_000]),
    ("captioning", "config.json", "decoder.hidden_size", 10**6),
    ("captioning", "tokenizer_config.json", "model_max_length", "twelve"),
    ("captioning", "tokenizer_config.json", "model_max_length", -5),
    ("captioning", "preprocessor_config.json", "size", {"height": 10**9, "width": 10**9}),
    ("captioning", "preprocessor_config.json", "size", {"height": 0, "width": 0}),
    ("captioning", "preprocessor_config.json", "size", {"height": "32", "width": "32"}),
    ("captioning", "generation_config.json", "decoder_start_token_id", 10**5),
    ("clip", "config.json", "vision_config.image_size", 10**6),
    ("clip", "config.json", "text_config.num_hidden_layers", 10**6),
    ("ddpm", "unet/config.json", "block_out_channels", [8] * 1000),
    ("ddpm", "unet/config.json", "layers_per_block", 10**6),
    ("ddpm", "unet/config.json", "num_class_embeds", 10**6),
    ("ddpm", "unet/config.json", "sample_size", 10**6),
    ("ddpm", "scheduler/scheduler_config.json", "num_train_timesteps", 10**9),
    ("ddpm", "scheduler/scheduler_config.json", "num_train_timesteps", 0),
    ("ddpm", "preprocessor_config.json", "label_names", {"a": 1}),
    ("gan", "config.json", "channels", [8] * 1000),
    ("gan", "config.json", "z_dim", 10**6),
    ("gan", "discriminator/config.json", "num_labels", 10**6),
    ("ladder", "config.json", "channels", [8] * 1000),
    ("detection", "config.json", "backbone_config.embed_dim", 10**6),
    ("detection", "config.json", "decoder_ffn_dim", 10**6),
    ("detection", "config.json", "d_model", 10**6),
    ("ladder", "config.json", "top_dim", 10**6),
    ("ladder", "config.json", "lower_channels", 10**6),
    ("ladder", "config.json", "observation_std", -1),
    ("pretrain", "config.json", "model_args.depth", 10**6),
    ("pretrain", "config.json", "model_args.in_chans", 10**6),
    ("autoencoder", "config.json", "layers_per_block", 10**6),
    ("autoencoder", "config.json", "latent_channels", 10**6),
    ("text_to_image", "vae/config.json", "layers_per_block", 10**6),
    ("text_to_image", "text_encoder/config.json", "num_hidden_layers", 10**6),
    ("text_to_image", "unet/config.json", "layers_per_block", 10**6),
    ("tokens", "config.json", "n_layer", 10**6),
    ("tokens", "config.json", "n_embd", 10**6),
    ("tokens", "config.json", "vocab_size", 20),
    ("tokens", "vq/config.json", "num_vq_embeddings", 10**6),
    ("tokens", "preprocessor_config.json", "label_names", ["a"]),
    ("tokens", "preprocessor_config.json", "palette", [[1, 2]]),
    ("translation", "config.json", "channels", [8] * 1000),
    ("translation", "config.json", "style_dim", 10**6),
    ("translation", "config.json", "resolution_px", 10**6),
    ("translation", "discriminator/config.json", "num_styles", 10**6),
    ("swin", "preprocessor_config.json", "max_side_px", 99_999),
    ("swin", "config.json", "backbone_config.embed_dim", 10**6),
    ("swin", "config.json", "backbone_config.window_size", 8192),
    ("unet", "config.json", "encoder_depth", 10**6),
    ("unet", "config.json", "decoder_channels", [10**6] * 5),
    ("unet", "config.json", "encoder_name", "tu-hf-hub:org/evil"),
]


def try_size(kind: str, folder: Path, report: Path) -> None:
    within_memory(4)
    started = time.monotonic()
    report.write_text(json.dumps([outcome(FOLDERS[kind], folder), time.monotonic() - started]))


@pytest.mark.parametrize(("kind", "file", "path", "value"), SIZES, ids=lambda value: str(value)[:30])
def test_a_config_asks_for_more_than_there_is(folders, tmp_path, kind, file, path, value):
    copied = Path(shutil.copytree(folders[kind], tmp_path / "model"))
    content = json.loads((copied / file).read_text())
    (copied / file).write_text(json.dumps(changed(content, tuple(path.split(".")), value)))
    assert in_a_child(try_size, kind, copied, tmp_path / "report", seconds=60) == 0, "it ended the process, or hung"
    answer, seconds = json.loads((tmp_path / "report").read_text())
    assert answer == "refused" and seconds < SECONDS, (answer, seconds)


# --- The app ----------------------------------------------------------------------------------------------------------


def test_the_gallery_says_which_model_is_broken_and_serves_the_rest(folders, tmp_path):
    broken = Path(shutil.copytree(folders["timm"], tmp_path / "broken"))
    (broken / store.MANIFEST).write_text('{"files": {"config.json": []}}')
    demos = tuple(demo for demo in gallery.DEMOS if demo.PAGE.stem in ("classifier", "ddpm"))
    models = gallery.load_models(
        [f"classifier={broken}", f"classifier={folders['timm']}", f"ddpm={folders['ddpm']}"], demos
    )
    assert isinstance(models["classifier"][str(broken)], store.CheckpointError)
    cards = {demo.PAGE.stem: gallery.card(demo.PAGE, models[demo.PAGE.stem]) for demo in demos}
    assert "1 of 2 models could not be loaded" in cards["classifier"] and "v-missing" not in cards["ddpm"]
    app = gallery.build(models, demos)
    app.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        import httpx

        page = httpx.get(app.local_url + "ddpm", timeout=60)
        assert page.status_code == 200
        home = httpx.get(app.local_url, timeout=60).text
        assert "1 of 2 models could not be loaded" in home
    finally:
        app.close()
    assert launch.model_line("broken", models["classifier"][str(broken)]).startswith("broken: not loaded.")


@pytest.mark.parametrize(("kind", "place"), [("captioning", "."), ("clip", "."), ("text_to_image", "tokenizer")])
def test_a_tokenizer_without_its_words_is_refused(tmp_path, kind, place):
    """transformers makes one of five marks of it, and every text is the same to the model."""
    FAMILIES[kind].save(tmp_path)
    (tmp_path / "manifest.json").unlink(missing_ok=True)
    (tmp_path / place / "tokenizer.json").unlink()
    with pytest.raises(store.CheckpointError, match="tokenizer has no words"):
        FAMILIES[kind].load(tmp_path)
