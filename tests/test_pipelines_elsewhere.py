"""LoRA under the names of other programs, in the page, and pipelines as others keep them: one file, fp16 alone."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from hub_models import autoencoder, clip, ddpm, store
from hub_models import text_to_image as contract
from hub_models.text_to_image import single
from training import text_to_image as script


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_models.stable_diffusion(tmp_path_factory.mktemp("base") / "sd", text="clip")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))


def drawn(model: contract.TextToImage) -> np.ndarray:
    *_, last = model.generate("a red apple", [3], num_inference_steps=3, guidance_scale=1)
    return last.latents.numpy()


@pytest.fixture(scope="module")
def loras(base, tmp_path_factory) -> dict[str, Path]:
    """{format: export folder} of the same training in each naming."""
    home, found = tmp_path_factory.mktemp("loras"), {}
    for name in ("diffusers", "kohya"):
        flags = ["--lora_rank", "4", "--learning_rate", "0.1", "--ema_decay", "0", "--lora_format", name, "--no_cache"]
        script.main(["--preset", "tiny", "--cpu", "--pretrained_model_name_or_path", str(base), *flags,
                     "--output_dir", str(home / name)])  # fmt: skip
        found[name] = home / name / "export"
    return found


@pytest.mark.parametrize("name", ["diffusers", "kohya"])
def test_a_lora_opens_in_stock_diffusers_and_in_the_page_and_both_draw_alike(base, loras, name):
    file = loras[name] / contract.folder.adapters.FILE
    keys = list(load_file(file))
    if name == "kohya":  # what ComfyUI and AUTOMATIC1111 look for
        assert all(key.startswith("lora_unet_") and key.count(".") <= 2 for key in keys)
        layers = {key.partition(".")[0] for key in keys}
        assert set(keys) == {f"{k}.{end}" for k in layers for end in ("lora_down.weight", "lora_up.weight", "alpha")}
    pipe = DiffusionPipeline.from_pretrained(base)
    pipe.load_lora_weights(loras[name])
    pipe.fuse_lora()
    plain, tuned = contract.load(str(base), "cpu"), contract.load(str(base), "cpu", lora=str(loras[name]))
    stock = contract.TextToImage(pipe, name="stock", weights_sha256="")
    assert np.abs(drawn(tuned) - drawn(plain)).max() > 0.05
    np.testing.assert_allclose(drawn(tuned), drawn(stock), atol=1e-5)
    assert tuned.weights_sha256 != plain.weights_sha256 and tuned.name == f"{base} + {name}"
    by_file = contract.load(str(base), "cpu", lora=str(file))
    assert by_file.weights_sha256 == tuned.weights_sha256 and (drawn(by_file) == drawn(tuned)).all()


def test_both_namings_hold_the_same_lora(loras):
    said = [(loras[name] / "README.md").read_text().count("--lora_format kohya, which") for name in loras]
    assert said == [1, 0], "how to convert it"
    ours, theirs = (load_file(loras[name] / contract.folder.adapters.FILE) for name in ("diffusers", "kohya"))
    theirs = {key: value for key, value in theirs.items() if not key.endswith("alpha")}
    assert len(ours) == len(theirs)
    shapes = [sorted(tuple(v.shape) for v in part.values()) for part in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert sum(float(v.double().sum()) for v in ours.values()) == pytest.approx(
        sum(float(v.double().sum()) for v in theirs.values())
    )


def test_a_lora_in_the_place_of_a_model_says_what_to_do_with_it(base, loras):
    with pytest.raises(store.CheckpointError, match=r"is a LoRA.*--model sd --lora .*export"):
        contract.load(str(loras["diffusers"]), "cpu")
    for wrong, words in ((base / "unet" / "config.json", "is no LoRA"), (base, "holds 0")):
        with pytest.raises(store.CheckpointError, match=words):
            contract.load(str(base), "cpu", lora=str(wrong))


def test_a_lora_of_another_model_is_refused(loras, tmp_path):
    other = tmp_path / "other.safetensors"
    tensors = load_file(loras["diffusers"] / contract.folder.adapters.FILE)
    save_file({key.replace("blocks.1", "blocks.7"): value for key, value in tensors.items()}, other)
    base = tiny_models.stable_diffusion(tmp_path / "sd", text="clip")
    with pytest.raises(store.CheckpointError, match="does not fit"):
        contract.load(str(base), "cpu", lora=str(other))


# ---- as others keep them ---------------------------------------------------------------------------------------------


def only_fp16(folder: Path) -> Path:
    for path in list(folder.rglob("*.safetensors")):
        save_file({k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}, path,
                  metadata={"format": "pt"})  # fmt: skip
        path.rename(path.with_name(path.stem + ".fp16.safetensors"))
    return folder


@pytest.mark.parametrize("stem", ["text_to_image", "ddpm", "clip", "autoencoder"])
def test_a_folder_whose_weights_are_an_fp16_variant_opens(stem, tmp_path):
    make = {"text_to_image": tiny_models.stable_diffusion, "ddpm": tiny_models.ddpm_folder,
            "clip": tiny_models.dual_encoder, "autoencoder": tiny_models.autoencoder_folder}[stem]  # fmt: skip
    module = {"text_to_image": contract, "ddpm": ddpm, "clip": clip, "autoencoder": autoencoder}[stem]
    folder = only_fp16(Path(make(tmp_path / stem)))
    (folder / "manifest.json").unlink(missing_ok=True)
    model = module.load(str(folder), "cpu")
    parts = (
        [model.pipe.unet]
        if stem == "text_to_image"
        else [getattr(model, "unet", None) or getattr(model, "model", None) or model.vae]
    )  # noqa: E501
    assert all(p.dtype == torch.float32 for part in parts for p in part.parameters())


RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip
ENDS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip


def ldm_unet(key: str, layers: int) -> str:
    """The name of a U-Net's tensor in the first Stable Diffusion's own file."""
    for ours, theirs in ENDS.items():
        if key.startswith(ours + "."):
            return f"model.diffusion_model.{theirs}{key.removeprefix(ours)}"
    way, block, kind, number, rest = re.fullmatch(r"(down|up|mid)_blocks?\.?(\d+)?\.(\w+?)\.(\d+)\.(.*)", key).groups()
    n, at = int(number), {"resnets": "0", "attentions": "1"}.get(kind)
    name, _, end = rest.partition(".")
    inner = f"{RESNET[name]}.{end}" if kind == "resnets" else rest
    if way == "mid":
        return f"model.diffusion_model.middle_block.{1 if kind == 'attentions' else 2 * n}.{inner}"
    if kind == "downsamplers":
        return f"model.diffusion_model.input_blocks.{(int(block) + 1) * (layers + 1)}.0.op.{end}"
    if kind == "upsamplers":
        attended = any(f"up_blocks.{block}.attentions" in other for other in KEYS)
        return f"model.diffusion_model.output_blocks.{(int(block) + 1) * (layers + 1) - 1}.{1 + attended}.{rest}"
    place = 1 + int(block) * (layers + 1) + n if way == "down" else int(block) * (layers + 1) + n
    return f"model.diffusion_model.{'in' if way == 'down' else 'out'}put_blocks.{place}.{at}.{inner}"


KEYS: list[str] = []  # of the U-Net that is renamed


def ldm_vae(key: str, blocks: int) -> str:
    """The same of its autoencoder."""
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    for ours, theirs in {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}.items():
        key = key.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
    key = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda m: f"up.{blocks - 1 - int(m[1])}.block.", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", key)
    return "first_stage_model." + key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")


def one_file(folder: Path, path: Path) -> Path:
    """The pipeline in one file, under the names of the first Stable Diffusion, as web interfaces keep it."""
    unet, vae, text = (
        load_file(next((folder / part).glob("*.safetensors"))) for part in ("unet", "vae", "text_encoder")
    )
    layers, blocks = (json.loads((folder / part / "config.json").read_text()) for part in ("unet", "vae"))
    KEYS[:] = list(unet)
    tensors = {ldm_unet(key, layers["layers_per_block"]): value for key, value in unet.items()}
    tensors |= {ldm_vae(key, len(blocks["block_out_channels"])): value for key, value in vae.items()}
    tensors |= {f"cond_stage_model.transformer.text_model.{key}": value for key, value in text.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf"


def test_a_single_file_that_cannot_be_converted_here_says_how_to_convert_it(base, home, tmp_path):
    file = one_file(base, tmp_path / "models" / "dream.safetensors")
    for name in (file, file.parent):  # the file, or a folder with nothing else in it
        with pytest.raises(store.CheckpointError) as caught:
            contract.load(str(name), "cpu")
        said = str(caught.value)
        assert "single-file checkpoint" in said and "from_single_file" in said and ".save_pretrained('dream')" in said
    assert not list((home / "vitrail").glob("*.tmp"))
    pickled = tmp_path / "dream.ckpt"
    pickled.write_bytes(b"\x80\x02")
    with pytest.raises(store.CheckpointError, match=r"no \.safetensors file"):
        contract.load(str(pickled), "cpu")


def test_a_single_file_opens_where_the_configs_of_its_kind_are_in_the_cache(base, home, tmp_path, monkeypatch):
    """diffusers tells the kind by the tensors, and takes configs of that kind from the cache: here of the tiny one."""
    snapshot = tmp_path / "cached"
    shutil.copytree(base, snapshot, ignore=shutil.ignore_patterns("*.safetensors"))
    import diffusers.loaders.single_file as loader

    monkeypatch.setattr(loader, "_download_diffusers_model_config_from_hub", lambda *_, **__: str(snapshot))
    file = one_file(base, tmp_path / "models" / "dream.safetensors")
    model, stock = contract.load(str(file), "cpu"), contract.load(str(base), "cpu")
    np.testing.assert_allclose(drawn(model), drawn(stock), atol=1e-5)
    [folder] = (home / "vitrail").iterdir()
    assert folder.name.startswith("dream-")
    monkeypatch.setattr(single.StableDiffusionPipeline, "from_single_file", lambda *_, **__: pytest.fail("made again"))
    assert contract.load(str(file), "cpu").weights_sha256 == model.weights_sha256
