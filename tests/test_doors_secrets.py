"""No text with a secret in it leaves with a push, whatever file it is in; what is none is let through by its name."""

import base64
import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from hub_models import store
from hub_models.publish import packing, secret_scan, upload
from tests.loopback_hub import loopback_hub

ROOT = Path(__file__).resolve().parent.parent
README = "---\nlibrary_name: transformers\nlicense: mit\n---\n# A model\n"
DATA_README = "---\nlicense: mit\n---\n# Data\n"


def part(value: dict) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


# Put together here, so that no file of the repository holds what looks like one.
SECRETS = {
    "a password": ('"password": "', "hunter2-and-more", '"'),
    "a password of the environment": ("DB_PASSWORD=", "Tr0ub4dor&3", ""),
    "a private key": ("", "-----BEGIN OPENSSH " + "PRIVATE KEY-----", ""),
    "a PGP key": ("", "-----BEGIN PGP " + "PRIVATE KEY BLOCK-----", ""),
    "a JSON web token": ("", f"{part({'alg': 'HS256'})}.{part({'sub': 'me'})}.abcDEF123", ""),
    "an AWS secret": ("aws_secret_access_key = ", "wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + "0123456789", ""),
    "an Azure key": ("", "AccountKey=" + "aB3+" * 21 + "ab==", ""),
    "a Google key": ("", "AIza" + "Sy0_-" * 7, ""),
    "a Stripe key": ("", "sk_" + "live_" + "a1B2" * 6, ""),
    "a Slack token": ("", "xoxb-" + "123456789012-abcdefghijkl", ""),
    "a Slack hook": ("", "https://hooks.slack.com/" + "services/T0001/B0001/abcdefgh", ""),
    "a GitLab token": ("", "glpat-" + "a1B2c3D4e5" * 2, ""),
    "a GitHub token": ("", "ghp_" + "aB3" * 12, ""),
    "an npm token": ("", "npm_" + "aB3" * 12, ""),
    "a PyPI token": ("", "pypi-AgEIcHlwaS5vcmc" + "aB3-" * 20, ""),
    "an OpenAI key": ("", "sk-" + "A1b2C3d4E5" * 2 + "T3BlbkFJ" + "A1b2C3d4E5" * 2, ""),
    "a Twilio key": ("", "SK" + "0a" * 16, ""),
    "a SendGrid key": ("", "SG." + "a" * 22 + "." + "b" * 43, ""),
    "a Telegram token": ("", "123456789:" + "Ab" * 17 + "A", ""),
    "a password in an address": ("postgres", "://me:" + "s3cr3tpw@", "db.example.org/x"),
    "a Hugging Face token": ("", "hf_" + "aB3dE6gH9jK2mN5pQ8" * 2, ""),
}
HARMLESS = f"""The password is asked. Set HF_TOKEN to a token; password=password, `api_key: None`, token = get_token().
sha256: {"ab12" * 16}, a commit {"c3" * 20}, "pad_token": "[PAD]", "password": 5123, password: <your password>
data_hash {"0f" * 32}; a woman with a secret: a key to the garden. https://example.org/a:b@c
"""


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A picture with these chunks behind its header."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (90, 120, 30)).save(file, "PNG")
    whole = file.getvalue()
    made = b"".join(struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    return whole[:33] + made + whole[33:]


def itxt(text: str, packed: bool = True) -> bytes:
    content = text.encode()
    return b"parameters\0" + bytes([packed, 0]) + b"en\0\0" + (zlib.compress(content) if packed else content)


def with_exif(text: str, kind: str) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x010E] = text
    Image.new("RGB", (8, 8)).save(file, kind, exif=exif)
    return file.getvalue()


def with_xmp(text: str, kind: str) -> bytes:
    file = io.BytesIO()
    xmp = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'><d>{text}</d></x:xmpmeta>".encode()
    Image.new("RGB", (8, 8)).save(file, kind, xmp=xmp)
    return file.getvalue()


def in_jpeg_comment(text: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", comment=text.encode())
    return file.getvalue()


def escaped(text: str) -> bytes:
    return ('{"note": "' + "".join(f"\\u{ord(c):04x}" for c in text) + '"}').encode()


def inner(value) -> bytes:
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    values = ["one\ntwo", "three", None, value]
    pyarrow.parquet.write_table(
        pyarrow.table({"column": [v if isinstance(value, str) else None for v in values[:3]] + [value]}), file
    )
    return file.getvalue()


def described(text: str) -> bytes:
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    table = pyarrow.table({"column": ["one"]}).replace_schema_metadata({"about": text})
    pyarrow.parquet.write_table(table, file)
    return file.getvalue()


WAYS = {  # where a text can stand: {case: (kind of repository, file, its bytes, what is said of the place)}
    "UTF-16": ("model", "notes.txt", lambda t: f"one\n{t}\n".encode("utf-16"), "notes.txt, line 2"),
    "UTF-16, no mark": ("model", "notes.txt", lambda t: f"one\n{t}\n".encode("utf-16-be"), "notes.txt, line 2"),
    "UTF-8 with a mark": ("model", "notes.txt", lambda t: f"one\n{t}\n".encode("utf-8-sig"), "notes.txt, line 2"),
    "JSON, escaped": ("model", "more.json", escaped, "more.json, line 1"),
    "behind 5 MB": ("model", "notes.txt", lambda t: b"all is well\n" * 400_000 + t.encode(), "notes.txt, line 400001"),
    "tEXt": ("model", "a.png", lambda t: png((b"tEXt", b"Comment\0" + t.encode())), "a.png, text"),
    "zTXt": ("model", "a.png", lambda t: png((b"zTXt", b"Comment\0\0" + zlib.compress(t.encode()))), "a.png, text"),
    "iTXt": ("model", "a.png", lambda t: png((b"iTXt", itxt(t, False))), "a.png, text"),
    "iTXt, compressed": ("model", "a.png", lambda t: png((b"iTXt", itxt(t))), "a.png, text"),
    "behind a picture": ("model", "a.png", lambda t: png() + t.encode(), "a.png, text"),
    "EXIF of PNG": ("model", "a.png", lambda t: with_exif(t, "PNG"), "a.png, text"),
    "EXIF of JPEG": ("dataset", "a.jpg", lambda t: with_exif(t, "JPEG"), "a.jpg, text"),
    "XMP of JPEG": ("dataset", "a.jpg", lambda t: with_xmp(t, "JPEG"), "a.jpg, text"),
    "a comment of JPEG": ("dataset", "a.jpg", in_jpeg_comment, "a.jpg, text"),
    "CSV": ("dataset", "a.csv", lambda t: f"text\nfine\n{t}\n".encode(), "a.csv, line 3"),
    "JSON lines": (
        "dataset",
        "a.jsonl",
        lambda t: b'{"text": "fine"}\n' + json.dumps({"text": t}).encode(),
        "a.jsonl, line 2",
    ),
    "parquet": ("dataset", "a.parquet", lambda t: inner(t), "a.parquet, column column, row 3"),
    "parquet, a list": ("dataset", "a.parquet", lambda t: inner(["x", t]), "a.parquet, column column, row 3"),
    "parquet, nested": ("dataset", "a.parquet", lambda t: inner({"a": {"b": t}}), "a.parquet, column column, row 3"),
    "parquet, a picture": (
        "dataset",
        "a.parquet",
        lambda t: inner({"bytes": png((b"iTXt", itxt(t))), "path": None}),
        "a.parquet, column column, row 3",
    ),
    "parquet, WebP": (
        "dataset",
        "a.parquet",
        lambda t: inner({"bytes": with_xmp(t, "WEBP")}),
        "a.parquet, column column, row 3",
    ),
    "parquet, about it": ("dataset", "a.parquet", described, "a.parquet, metadata"),
}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "x"}')
    (folder / "README.md").write_text(README)
    safetensors.numpy.save_file({"w": np.arange(600, dtype=np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "README.md").write_text(DATA_README)
    (folder / "a.txt").write_text("fine\n")
    return folder


def refused(folder: Path, repo_type: str = "model", **options) -> str:
    """What a push of the folder is refused with."""

    with pytest.raises(packing.PushError) as caught:
        upload.check_push(folder, repo_type=repo_type, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", SECRETS)
def test_each_kind_of_secret_stops_a_push(model, name):
    before, secret, after = SECRETS[name]
    (model / "README.md").write_text(f"{README}\nSome words.\n{before}{secret}{after}\n")
    error = refused(model)
    assert "README.md, line 8" in error and "revoke it" in error and "--harmless README.md:line-8:" in error
    assert secret not in error and secret[-12:] not in error


@pytest.mark.parametrize("name", WAYS)
def test_a_secret_is_found_wherever_it_stands(model, data, name):
    kind, file, made, said = WAYS[name]
    folder = model if kind == "model" else data
    before, secret, after = SECRETS["a password"]
    (folder / file).write_bytes(made(f"{before}{secret}{after}"))
    error = refused(folder, kind)
    assert f"a password in {said}" in error and secret not in error
    (folder / file).write_bytes(made("Nothing but words, and a sha256: " + "ab12" * 16))

    assert file in upload.check_push(folder, repo_type=kind)


def test_names_of_files_and_headers_of_weights_are_texts_too(model):
    secret = SECRETS["a Stripe key"][1]
    safetensors.numpy.save_file({"w": np.ones(3)}, model / "model.safetensors", metadata={"by": secret})
    assert "a Stripe key in model.safetensors" in refused(model)
    safetensors.numpy.save_file({"w": np.ones(3)}, model / "model.safetensors")
    (model / f"{secret}.txt").write_text("fine\n")
    error = refused(model)
    assert "a Stripe key in a file, its name" in error and secret not in error


def test_a_bomb_in_a_picture_is_not_unpacked_and_does_not_pass(model):
    packed = zlib.compress(b"\0" * (300 << 20), 9)
    (model / "a.png").write_bytes(png((b"zTXt", b"Comment\0\0" + packed)))
    assert "a.png has compressed texts of more than 16 MiB: save it without them" in refused(model)


def test_words_about_secrets_are_none_and_what_ships_has_none(model, data):
    (model / "README.md").write_text(README + HARMLESS)
    (model / "vocab.txt").write_text("password\nsecret\ntoken\napi_key\n")
    (model / "more.json").write_text(json.dumps({"password": 7, "secret</w>": 8, "pad_token": "[PAD]", "token": "a"}))
    assert "vocab.txt" in upload.check_push(model)
    folders = [
        (path, "model")
        for stem in ("captioning", "segmentation", "text_to_image")
        for path in store.bundled(stem).values()
    ]
    for folder, kind in [*folders, (ROOT / "tests" / "data" / "emoji-sample", "dataset")]:
        names = packing.files_to_push(folder, repo_type=kind)
        assert [one.said for one in secret_scan.findings(folder, names)] == []


def test_one_finding_is_called_harmless_and_no_other_with_it(model):
    secret, other = SECRETS["a Twilio key"][1], SECRETS["a GitLab token"][1]
    (model / "README.md").write_text(f"{README}\nAn example: {secret}\n")
    place = re.search(r"--harmless (\S+)", refused(model))[1]

    assert upload.check_push(model, harmless=[place])
    (model / "README.md").write_text(f"{README}\nAn example: {secret} {other}\n")
    assert "a GitLab token" in refused(model, harmless=[place])
    (model / "README.md").write_text(f"{README}\nAn example: {secret[:-1]}b\n")
    assert "a Twilio key" in refused(model, harmless=[place]), "another secret at the same place"


@pytest.mark.timeout(300)
def test_the_command_refuses_before_it_asks_and_pushes_what_was_called_harmless(data, tmp_path):
    before, secret, after = SECRETS["a password in an address"]
    (data / "a.txt").write_text(f"fine\n{before}{secret}{after}\n")
    with loopback_hub() as hub:

        def publish(*more: str) -> subprocess.CompletedProcess:
            command = [
                sys.executable,
                "-m",
                "training.publish",
                str(data),
                "--repo_type",
                "dataset",
                "--repo_id",
                "org/x",
                *more,
            ]
            return subprocess.run(
                command, cwd=ROOT, env=hub.environment(tmp_path / "home"), capture_output=True, text=True, timeout=200
            )

        done = publish()
        assert done.returncode == 1 and hub.asked == [] and "Traceback" not in done.stderr
        assert "a password in an address in a.txt, line 2" in done.stderr
        assert "is kept, but was not pushed" in done.stderr and secret not in done.stdout + done.stderr
        place = re.search(r"--harmless (\S+)", done.stderr)[1].rstrip(";")
        done = publish("--harmless", place)
        assert done.returncode == 0 and "pushed to" in done.stdout, done.stderr
        assert hub.repos["datasets/org/x"]["a.txt"].endswith(b"db.example.org/x\n")


@pytest.mark.timeout(300)
def test_without_the_rules_a_push_says_what_to_install_and_a_model_still_loads(model):
    code = (
        "import sys; sys.modules['detect_secrets'] = None\n"
        "from hub_models import client, store; from hub_models.publish import packing, upload\n"
        "store.verify(sys.argv[1])\n"
        "with client.haste(): pass\n"
        "try:\n    upload.check_push(sys.argv[1])\n"
        "except packing.PushError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert "pip install 'vitrail[train]'" in done.stdout, done.stderr
