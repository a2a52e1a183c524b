"""hub_models/store.py: every way a checkpoint can be wrong is named; what is pushed and pulled is what was meant."""

import json
import os
import pickle
import time

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from hub_models import store
from hub_models.publish import halves, packing, upload
from tests.loopback_hub import loopback_hub

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1\nsize 12345\n"
)


def make_model(folder, **tensors):
    """A small pipeline folder: one component with weights, one without, a transformers config and a card."""
    (folder / "unet").mkdir(parents=True)
    (folder / "scheduler").mkdir()
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "X"]}
    (folder / "model_index.json").write_text(json.dumps(index | {"safety_checker": [None, None]}))
    (folder / "unet" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlibrary_name: diffusers\n---\n# A model\n")
    tensors = tensors or {"w": np.arange(600, dtype=np.float32).reshape(20, 30) / 7, "n": np.arange(4)}
    safetensors.numpy.save_file(tensors, weights_of(folder), metadata={"format": "pt"})
    return folder


def weights_of(folder):
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "model")


def refused(folder, **kwargs) -> str:
    """What verify says; one sentence that names a file."""
    with pytest.raises(store.CheckpointError) as caught:
        store.verify(folder, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sound_folder_passes_with_and_without_manifest(model):
    store.verify(model)
    assert "manifest.json" in refused(model, manifest_required=True)
    manifest = packing.write_manifest(model)
    store.verify(model, manifest_required=True)
    path = "unet/diffusion_pytorch_model.safetensors"
    assert manifest["files"][path] == {"sha256": store.file_sha256(model / path), "size": (model / path).stat().st_size}
    assert sorted([*manifest["files"], "manifest.json"]) == packing.files_to_push(model)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (POINTER, "git lfs pull"),
        (b"\n<!DOCTYPE html><html><body>Not found</body></html>", "HTML page"),
        (b"", "is empty"),
        (b"PK\x03\x04" + bytes(200), "pickle"),
        (pickle.dumps({"w": 1}), "pickle"),
        (b"abc", "cut short"),
        (b"\xff" * 64, "cut short or no safetensors"),
        ((20).to_bytes(8, "little") + b"this is not json...." + bytes(8), "header is broken"),
    ],
)
def test_something_else_under_the_name_of_the_weights(model, content, said):
    weights_of(model).write_bytes(content)
    message = refused(model)
    assert said in message and "diffusion_pytorch_model.safetensors" in message


def test_every_truncation_is_caught(model):
    whole = weights_of(model).read_bytes()
    for size in [1, 7, 8, 9, 50, len(whole) // 2, len(whole) - 1]:
        weights_of(model).write_bytes(whole[:size])
        assert "cut short" in refused(model)
    weights_of(model).write_bytes(whole + b"more")
    assert "broken" in refused(model)


def test_flipped_byte_and_wrong_size_need_the_manifest(model):
    packing.write_manifest(model)
    whole = bytearray(weights_of(model).read_bytes())
    whole[-9] ^= 1
    weights_of(model).write_bytes(whole)
    assert "altered" in refused(model)
    weights_of(model).write_bytes(whole[:-5])
    assert "bytes instead of" in refused(model)
    weights_of(model).unlink()
    (model / "other.safetensors").write_bytes(safetensors.numpy.save({"w": np.ones(3)}))
    assert "is missing" in refused(model)


def test_card_may_be_edited_but_config_may_not(model):
    packing.write_manifest(model)
    (model / "README.md").write_text("---\nlibrary_name: diffusers\n---\nedited on the Hub\n")
    store.verify(model, manifest_required=True)
    (model / "unet" / "config.json").write_text('{"_class_name": "UNet3DModel"}')
    assert "unet/config.json is altered" in refused(model)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_not_a_number_is_found_in_every_precision(tmp_path, dtype, value):
    values = np.linspace(-6e4, 6e4, 1001).astype(dtype)
    store.verify(make_model(tmp_path / "good", w=values))
    values[500] = value
    assert "NaN or Inf in 'w'" in refused(make_model(tmp_path / "bad", w=values))


def test_not_a_number_is_found_in_bfloat16(model):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    save_file({"w": torch.tensor([1.0, 3e38, -2.5], dtype=torch.bfloat16)}, weights_of(model))
    store.verify(model)
    save_file({"w": torch.tensor([1.0, float("nan")], dtype=torch.bfloat16)}, weights_of(model))
    assert "NaN or Inf" in refused(model)


def test_pickles_are_never_opened(model, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    weights_of(model).unlink()
    (model / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    message = refused(model)
    assert "pickle" in message and "safe_serialization" in message
    assert not (tmp_path / "exploded").exists()


def test_missing_parts_are_named(model, tmp_path):
    assert "nowhere" in refused(tmp_path / "nowhere")
    (model / "scheduler" / "scheduler_config.json").unlink()
    (model / "scheduler").rmdir()
    assert "scheduler is missing" in refused(model)
    (model / "model_index.json").unlink()
    assert "config.json" in refused(model)
    (model / "config.json").write_text("{]")
    assert "config.json is not JSON" in refused(model)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    assert "model-00001-of-00002.safetensors is missing" in refused(model)


def test_verify_is_fast(tmp_path):
    folder = make_model(tmp_path / "big", **{f"w{i}": np.full((1024, 512), 0.5, np.float16) for i in range(10)})
    packing.write_manifest(folder)
    store.verify(folder)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        store.verify(folder)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.2, f"10 MB took {min(times):.3f} s"


def test_to_half_keeps_values_and_dtypes_where_it_should(tmp_path):
    floats = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    folder = make_model(
        tmp_path / "m", w=floats, d=floats.astype(np.float64), i=np.arange(5), s=np.array(2.5, np.float32)
    )
    inner = {"model_type": "swin", "torch_dtype": "float16"}
    nested = {"model_type": "upernet", "dtype": "float16", "backbone_config": inner, "id2label": {"0": "sky"}}
    (folder / "config.json").write_text(json.dumps(nested))
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text('{"architecture": "vit", "pretrained_cfg": {"mean": [0.5]}}')
    packing.write_manifest(folder)
    halves.to_half(folder)
    store.verify(folder, manifest_required=True)
    tensors = safetensors.numpy.load_file(weights_of(folder))
    assert {k: str(v.dtype) for k, v in tensors.items()} == {
        "w": "float16",
        "d": "float16",
        "i": "int64",
        "s": "float16",
    }
    assert (tensors["w"] == floats.astype(np.float16)).all() and tensors["s"].shape == ()
    with safe_open(weights_of(folder), "np") as file:
        assert file.metadata() == {"format": "pt"}
    assert weights_of(folder).stat().st_mode & 0o777 == 0o644
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == config["backbone_config"]["dtype"] == "float32"
    assert "torch_dtype" not in config["backbone_config"] and "dtype" not in config["id2label"]
    for other in ("unet", "vae"):
        assert "dtype" not in json.loads((folder / other / "config.json").read_text())
    before = weights_of(folder).read_bytes()
    halves.to_half(folder)
    assert weights_of(folder).read_bytes() == before


def test_to_half_of_bfloat16_matches_torch(model):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    values = torch.randn(100, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    save_file({"w": values}, weights_of(model))
    halves.to_half(model)
    assert torch.equal(load_file(weights_of(model))["w"], values.half())


def test_to_half_refuses_what_fp16_cannot_hold(tmp_path):
    folder = make_model(tmp_path / "m", w=np.float32([1, 70000]))
    with pytest.raises(store.CheckpointError, match="65504"):
        halves.to_half(folder)


def test_weights_hash_is_that_of_sha256sum(model):
    import subprocess

    line = "find . -name '*.safetensors' | sed 's,^./,,' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    expected = subprocess.run(line, shell=True, cwd=model, capture_output=True, text=True, check=True).stdout.split()[0]
    first = store.weights_sha256(model)
    assert first == expected
    (model / "README.md").write_text("other")
    assert store.weights_sha256(model) == first


def test_only_allowed_files_are_pushed(model, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    for name in [
        ".env",
        "optimizer.bin",
        "state.pt",
        "x.pkl",
        ".hidden/a.json",
        "checkpoint-5/model.safetensors",
        "metrics.jsonl",
    ]:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("x")
    clean = ["README.md", "model_index.json", "scheduler/scheduler_config.json", "unet/config.json"]
    clean += ["unet/diffusion_pytorch_model.safetensors"]
    assert packing.files_to_push(model) == clean
    (model / "link.json").symlink_to(secret)
    assert packing.files_to_push(model) == clean
    with pytest.raises(packing.PushError, match="link.json is a link"):
        upload.push(model, "org/name")
    (model / "link.json").unlink()
    (model / "linked").symlink_to(tmp_path)
    assert packing.files_to_push(model) == clean
    with pytest.raises(packing.PushError, match="linked is a link"):
        upload.push(model, "org/name")


def test_names_without_a_slash_stay_here(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "WEIGHTS", tmp_path)
    monkeypatch.setattr(store, "snapshot_download", lambda *a, **k: pytest.fail("asked the Hub"))
    make_model(tmp_path / "ddpm" / "emoji-32")
    make_model(tmp_path / "ddpm" / "emoji-64")
    assert store.variants("ddpm") == ["emoji-32", "emoji-64"] and store.variants("clip") == []
    assert store.resolve("ddpm", "emoji-32") == tmp_path / "ddpm" / "emoji-32"
    assert store.resolve("ddpm", tmp_path / "ddpm" / "emoji-64") == tmp_path / "ddpm" / "emoji-64"
    with pytest.raises(store.CheckpointError, match="did you mean 'emoji-32'.*bundled are emoji-32, emoji-64"):
        store.resolve("ddpm", "emoji-3")
    with pytest.raises(store.CheckpointError, match="none yet"):
        store.resolve("clip", "small")
    for name in ["", "/no/such/folder", "a/b/c", "../ddpm", "org/name@", "https://x.example/org/name"]:
        with pytest.raises(store.CheckpointError):
            store.resolve("ddpm", name)


def test_a_bundled_autoencoder_is_a_part_and_its_whole_answers_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "WEIGHTS", tmp_path)
    whole = make_model(tmp_path / "text_to_image" / "emoji")
    (whole / "unet").rename(whole / "vae")
    (whole / "model_index.json").write_text('{"_class_name": "P", "vae": ["diffusers", "AutoencoderKL"]}')
    packing.write_manifest(whole)
    assert (
        store.variants("autoencoder") == ["emoji"] and store.whole_of(whole / "vae") == store.whole_of(whole) == whole
    )
    assert store.resolve("autoencoder", "emoji") == whole / "vae"
    store.verify(whole / "vae", manifest_required=True)
    (whole / "scheduler" / "scheduler_config.json").write_text("{ }")  # not of this part
    assert store.resolve("autoencoder", "emoji") == whole / "vae"
    (whole / "vae" / "config.json").write_text('{"_class_name": "UNet2DModem"}')
    with pytest.raises(store.CheckpointError, match="vae/config.json is altered"):
        store.resolve("autoencoder", "emoji")
    own = make_model(tmp_path / "autoencoder" / "vae-32")  # one that stands by itself, beside it
    assert store.variants("autoencoder") == ["emoji", "vae-32"] and store.variants("text_to_image") == ["emoji"]
    assert store.resolve("autoencoder", "vae-32") == own == store.whole_of(own)


PUSH = """
from hub_models import store
from hub_models.publish import upload
try:
    print(upload.push({folder!r}, "org/name"))
except store.CheckpointError as error:
    print("refused:", error)
"""
PULL = """
from hub_models import store
try:
    folder = store.resolve("ddpm", {name!r})
    print(store.weights_sha256(folder), *sorted(p.name for p in folder.rglob("*") if p.is_file()))
except store.CheckpointError as error:
    print("refused:", error)
"""


def test_push_and_pull_over_http(model, tmp_path):
    packing.write_manifest(model)
    (model / ".env").write_text("HF_TOKEN=hf_secret")
    (model / "unet" / "optimizer.bin").write_text("x")
    with loopback_hub() as hub:
        assert hub.python(PUSH.format(folder=str(model)), tmp_path / "home").stdout == f"{hub.url}/org/name\n"
        assert sorted(hub.repos["org/name"]) == packing.files_to_push(model)
        hub.python(PUSH.format(folder=str(model)), tmp_path / "home")
        assert len(hub.commits["org/name"]) == 1, "an unchanged folder made a second commit"

        hub.repos["org/name"]["unet/evil.bin"] = b"pickle"
        fresh = hub.python(PULL.format(name="org/name"), tmp_path / "pull").stdout.split()
        assert fresh[0] == store.weights_sha256(model)
        assert "evil.bin" not in fresh and "README.md" not in fresh
        pinned = hub.python(PULL.format(name=f"org/name@{hub.sha('org/name')}"), tmp_path / "pull").stdout.split()
        assert pinned == fresh
        hub.faults.append(("GET|HEAD", 503))
        offline = hub.python(PULL.format(name="org/name"), tmp_path / "pull", HF_HUB_OFFLINE="1").stdout.split()
        assert offline == fresh


def test_what_the_hub_refuses_is_one_line_without_the_token(model, tmp_path):
    with loopback_hub() as hub:
        for pattern, status in [("repos/create", 401), ("/commit/", 403), ("/tree/", 404)]:
            hub.faults[:] = [(f"(GET|POST) .*{pattern}", status)]
            done = hub.python(PUSH.format(folder=str(model)), tmp_path / "home")
            assert done.stdout.startswith("refused: org/name was not pushed") and done.stdout.count("\n") == 1
            assert str(status) in done.stdout and "repeat with: python -m training.publish" in done.stdout
            assert "hf_Secret" not in done.stdout + done.stderr
        hub.faults.clear()
        absent = hub.python(PULL.format(name="org/absent"), tmp_path / "pull").stdout
        assert "refused" in absent and "org/absent" in absent and "HF_TOKEN" in absent
        revision = hub.python(PULL.format(name="org/name@v9"), tmp_path / "pull").stdout
        assert "no revision 'v9'" in revision
        cold = hub.python(PULL.format(name="org/name"), tmp_path / "cold", HF_HUB_OFFLINE="1").stdout
        assert "cache" in cold and "bundled variant" in cold


def test_wrong_bytes_of_the_right_length_are_caught_after_a_pull(model, tmp_path):
    packing.write_manifest(model)
    with loopback_hub() as hub:
        hub.python(PUSH.format(folder=str(model)), tmp_path / "home")
        name = "unet/diffusion_pytorch_model.safetensors"
        content = bytearray(hub.repos["org/name"][name])
        content[-3] ^= 4
        hub.repos["org/name"][name] = bytes(content)
        assert "altered" in hub.python(PULL.format(name="org/name"), tmp_path / "pull").stdout
