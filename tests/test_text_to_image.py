"""training/text_to_image: its cache, its loss, and the folders it writes, against the stock pipelines."""

import dataclasses
import json
import math

import numpy as np
import pytest
import tiny_models
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from hub_models import autoencoder as autoencoder_contract
from hub_models import text_to_image as contract
from training import checkpoint
from training import text_to_image as script
from training.data.sources import open_source
from training.diffusion import diffusion_loss

PROMPT = "a red apple"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of a random autoencoder, a random dual encoder, and a stock Stable Diffusion with a CLIPTextModel."""
    home = tmp_path_factory.mktemp("parts")
    return {
        "vae": tiny_models.autoencoder_folder(home / "vae"),
        "clip": tiny_models.dual_encoder(home / "clip"),
        "sd": tiny_models.stable_diffusion(home / "sd", text="clip"),
    }


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def source():
    return open_source("emoji-sample", split="train")


def config(parts, **changes) -> script.config.TextToImageConfig:
    changes = {"vae_name_or_path": str(parts["vae"]), "clip_name_or_path": str(parts["clip"]), "cpu": True} | changes
    return dataclasses.replace(script.PRESETS["tiny"], **changes)


def run(folder, *flags) -> None:
    script.main(["--preset", "tiny", "--cpu", "--output_dir", str(folder), *map(str, flags)])


def stock_picture(pipe, **settings) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    draw = torch.Generator().manual_seed(3)
    return np.asarray(pipe(PROMPT, num_inference_steps=4, generator=draw, **settings).images[0]).astype(int)


def losses(source, parts, steps=3, **changes) -> list[float]:
    cfg = config(parts, **changes)
    torch.manual_seed(0)
    model, vae = script.model.create_model(cfg)
    model.pipe.unet.eval()
    selection = script.selection.select(source)
    samples = script.latents.LatentCaptions(selection, model, vae, cfg)
    scheduler = DDPMScheduler.from_config(model.pipe.scheduler.config)
    values = []
    for step in range(steps):
        drawn = [
            samples.sample(i, torch.Generator().manual_seed(100 * step + i)) for i in range(8 * step, 8 * step + 8)
        ]
        batch = torch.utils.data.default_collate(drawn)
        with torch.no_grad():
            latents, states = script.latents.conditions(batch, model, vae)
            values += diffusion_loss(
                model.pipe.unet, scheduler, latents, batch["noise"], batch["timestep"], encoder_hidden_states=states
            ).tolist()
    return values


# ---- data and cache --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
def test_cached_and_uncached_losses_are_the_same_numbers(source, parts, flip):
    """The same pictures, captions, views, noise and drops; what is cached is what would have been computed."""
    changes = {"random_flip": flip, "caption_dropout": 0.4, "start_dropout": 0.3 * flip}
    cached, uncached = (losses(source, parts, no_cache=no_cache, **changes) for no_cache in (False, True))
    assert cached == pytest.approx(uncached, rel=1e-3)
    assert len({round(value, 5) for value in cached}) == 24
    if flip:
        assert cached != pytest.approx(losses(source, parts), rel=1e-3)


def test_where_the_start_is_dropped_words_alone_are_told(parts):
    """Its first token has then the state that it has in a prompt without words; all others stay, and other samples."""
    model, _ = script.model.create_model(config(parts))
    states = model.text_states(["a red apple", "a dog"]).half()  # (2, L, D)
    nothing = script.latents.start_of_nothing(model)
    assert torch.equal(nothing, model.text_states([""])[0, 0].half()) and not torch.equal(nothing, states[0, 0])
    told = script.latents.without_start(states, torch.tensor([True, False]), nothing)
    assert torch.equal(told[0, 0], nothing) and torch.equal(told[0, 1:], states[0, 1:])
    assert torch.equal(told[1], states[1]) and told.dtype == states.dtype


def test_a_share_of_dropped_starts_changes_no_other_draw(source, parts):
    usual, dropped = (losses(source, parts, start_dropout=share) for share in (0.0, 0.5))
    same = [a == b for a, b in zip(usual, dropped, strict=True)]
    assert 4 < sum(same) < 20, "half of 24 samples, by the luck of the draw"


def test_the_cache_is_made_once_and_mended(source, parts, cache, capsys):
    def times_made() -> tuple[int, int]:
        text = capsys.readouterr().out
        return text.count("latents of 72 pictures made once"), text.count("captions made once")

    fresh = losses(source, parts)
    assert times_made() == (1, 1)
    assert losses(source, parts) == fresh and times_made() == (0, 0)
    latents, states = (next(cache.glob(f"{kind}-*/*.npy")) for kind in ("latents", "states"))
    content = bytearray(latents.read_bytes())
    content[-5] ^= 1  # one bit of one number
    latents.write_bytes(content)
    assert losses(source, parts) == fresh and times_made() == (1, 0)
    states.write_bytes(states.read_bytes()[:-64])  # cut short
    assert losses(source, parts) == fresh and times_made() == (0, 1)
    (latents.parent / "manifest.json").write_text("{")
    (states.parent / "manifest.json").unlink()  # as if killed before the end
    assert losses(source, parts) == fresh and times_made() == (1, 1)
    assert not list(cache.glob("*.tmp"))


def test_other_data_weights_or_transforms_are_another_cache(source, parts, cache, tmp_path):
    losses(source, parts)
    before = len(list(cache.glob("latents-*/"))), len(list(cache.glob("states-*/")))
    assert before == (1, 1)
    losses(source, parts, random_flip=True)  # other pictures, the same texts
    assert (len(list(cache.glob("latents-*/"))), len(list(cache.glob("states-*/")))) == (2, 1)
    other = autoencoder_contract.load(str(parts["vae"]), "cpu")
    other.vae.quant_conv.bias.data[0] += 1e-3
    autoencoder_contract.save_folder(tmp_path / "vae", other)
    losses(source, parts, vae_name_or_path=str(tmp_path / "vae"))
    assert len(list(cache.glob("latents-*/"))) == 3


def test_a_cache_that_cannot_be_written_says_what_to_do(source, parts, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "file"))
    with pytest.raises(checkpoint.RunError, match="VITRAIL_CACHE"):
        losses(source, parts)


def test_states_are_those_of_the_stock_pipeline_and_dropped_captions_are_the_empty_one(source, parts):
    cfg = config(parts, caption_dropout=0.5)
    model, vae = script.model.create_model(cfg)
    samples = script.latents.LatentCaptions(script.selection.select(source), model, vae, cfg)
    empty, dropped = model.pipe.encode_prompt([""], "cpu", 1, False)[0][0], 0
    for index in range(40):
        sample = samples.sample(index, torch.Generator().manual_seed(index))
        states = sample["states"].float()
        texts = samples.selection.captions[index]
        known = model.pipe.encode_prompt(texts, "cpu", 1, False)[0]
        if torch.allclose(states, empty, atol=2e-3):
            dropped += 1
        else:
            assert min((states - one).abs().max() for one in known) < 2e-3
    assert 10 <= dropped <= 30


def test_groups_and_styles_restrict_the_pictures(source):
    everything = script.selection.select(source)
    assert len(everything) == len(source) == 72
    part = script.selection.select(source, groups=("food-drink", "objects"), styles=("noto",))
    groups, styles = source.column("group"), source.column("style")
    expected = [i for i in range(72) if groups[i] in ("food-drink", "objects") and styles[i] == "noto"]
    assert part.rows.tolist() == expected and 0 < len(part) < 72
    assert part.data_hash != everything.data_hash
    assert part.prompts[0].endswith(", noto style") and part.captions[0][0] + ", noto style" == part.prompts[0]
    with pytest.raises(SystemExit, match="smileys-emotion"):
        script.selection.select(source, groups=("smiley",))


def test_captions_of_somebody_elses_folder(tmp_path):
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        for i in range(3):
            Image.new("RGB", (8, 12), (80 * i, 0, 0)).save(tmp_path / split / f"{i}.png")
        lines = [json.dumps({"file_name": f"{i}.png", "text": f"picture\u200b {i}"}) for i in range(3)]
        (tmp_path / split / "metadata.jsonl").write_text("\n".join(lines))
    selection = script.selection.select(open_source(str(tmp_path), split="train"))
    assert selection.captions == [["picture 0"], ["picture 1"], ["picture 2"]] and selection.prompts[1] == "picture 1"


# ---- loss ------------------------------------------------------------------------------------------------------------


def test_zero_terminal_snr_ends_in_noise_alone_and_draws(parts, tmp_path):
    run(
        tmp_path / "run",
        "--zero_terminal_snr",
        "--vae_name_or_path",
        parts["vae"],
        "--clip_name_or_path",
        parts["clip"],
    )
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "run" / "export")
    assert pipe.scheduler.alphas_cumprod[-1] == 0 and pipe.scheduler.config.timestep_spacing == "trailing"
    model = contract.load(str(tmp_path / "run" / "export"), device="cpu")
    for sampler in contract.SAMPLERS:
        *_, last = model.generate(PROMPT, [1], num_inference_steps=4, sampler=sampler)
        assert last.latents.isfinite().all()
    assert losses_of(tmp_path / "run") == pytest.approx([1.0, 1.0], abs=0.9)


def losses_of(run_dir) -> list[float]:
    rows = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


# ---- what is written -------------------------------------------------------------------------------------------------


def test_a_stock_folder_is_tuned_and_stays_stock(parts, tmp_path):
    """CLIPTextModel, ε, no file of ours: two steps move the U-Net and nothing else."""
    run(tmp_path / "run", "--pretrained_model_name_or_path", parts["sd"], "--learning_rate", "1e-2")
    export = tmp_path / "run" / "export"
    before, after = DiffusionPipeline.from_pretrained(parts["sd"]), DiffusionPipeline.from_pretrained(export)
    assert type(after.text_encoder).__name__ == "CLIPTextModel" and after.safety_checker is None
    assert after.scheduler.config.prediction_type == "epsilon" and after.unet.config.sample_size == 8
    for part, moved in (("unet", True), ("vae", False), ("text_encoder", False)):
        old, new = getattr(before, part).state_dict(), getattr(after, part).state_dict()
        assert old.keys() == new.keys()
        apart = max((old[key] - new[key]).abs().max().item() for key in old)
        assert apart > 5e-3 if moved else apart < 5e-3, part  # fp16 rounds the rest
    assert before.tokenizer(PROMPT)["input_ids"] == after.tokenizer(PROMPT)["input_ids"]
    theirs = stock_picture(after, guidance_scale=3.0)
    mine = contract.load(str(export), device="cpu")
    *_, last = mine.generate(PROMPT, [3], num_inference_steps=4, guidance_scale=3.0, sampler="ddim")
    assert np.abs(np.asarray(mine.decode(last.latents)[0]).astype(int) - theirs).max() <= 1
    assert mine.preview(last.latents).shape == (1, 8, 8, 3), "a linear map was fitted to an autoencoder that had none"
    assert autoencoder_contract.load(str(export), "cpu").latent_to_rgb is not None
    with pytest.raises(SystemExit, match="resolution 32"):
        run(tmp_path / "other", "--pretrained_model_name_or_path", parts["sd"], "--resolution", "64")


def test_a_lora_opens_in_the_stock_pipeline_and_changes_the_picture(parts, tmp_path):
    flags = "--lora_rank 4 --learning_rate 0.1 --ema_decay 0".split()
    run(tmp_path / "run", "--pretrained_model_name_or_path", parts["sd"], *flags)
    export = tmp_path / "run" / "export"
    tensors = load_file(export / script.model.LORA_FILE)
    assert tensors and all("lora" in key and min(value.shape) <= 4 for key, value in tensors.items())
    saved = checkpoint.find(tmp_path / "run", "latest").tensors("model")
    assert sum(t.numel() for t in saved.values()) == sum(t.numel() for t in tensors.values()), "the base is not saved"

    pipe = DiffusionPipeline.from_pretrained(parts["sd"])
    plain = stock_picture(pipe)
    pipe.load_lora_weights(export)
    tuned = stock_picture(pipe)
    assert np.abs(tuned - plain).max() > 2
    pipe.unload_lora_weights()
    assert (stock_picture(pipe) == plain).all(), "the base is as it was"
    about = json.loads((export / "config.json").read_text())
    assert about["base_model_name_or_path"] == "sd" and about["r"] == 4
    assert "load_lora_weights" in (export / "README.md").read_text()


def test_a_lora_resumes_where_it_was_killed(parts, tmp_path):
    flags = ["--pretrained_model_name_or_path", parts["sd"], "--lora_rank", "2"]
    constant = [*flags, "--lr_scheduler", "constant"]
    run(tmp_path / "whole", *constant)
    run(tmp_path / "parts", *constant, "--max_train_steps", "1")
    run(tmp_path / "parts", *constant, "--resume_from_checkpoint", "latest")
    whole, both = (load_file(tmp_path / name / "export" / script.model.LORA_FILE) for name in ("whole", "parts"))
    assert whole.keys() == both.keys() and all(torch.equal(whole[key], both[key]) for key in whole)


def test_flags_that_make_no_sense_are_refused(tmp_path, capsys):
    for flags, words in (
        (["--lora_rank", "4"], "pretrained_model_name_or_path"),
        (["--caption_dropout", "1"], "caption_dropout"),
        (["--zero_terminal_snr", "--prediction_type", "epsilon"], "v_prediction"),
        (["--cross_attention_levels", "True"], "cross_attention_levels"),
    ):
        with pytest.raises(SystemExit):
            run(tmp_path / "run", *flags)
        assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ---- evaluation ------------------------------------------------------------------------------------------------------


def test_strata_are_the_same_in_every_evaluation(source, parts):
    cfg = config(parts)
    model, vae = script.model.create_model(cfg)
    scheduler = DDPMScheduler.from_config(model.pipe.scheduler.config)
    first, second = (script.evaluation.Strata(script.selection.select(source), model, vae) for _ in range(2))
    value = first.loss(model.pipe.unet.eval(), scheduler)
    assert value == second.loss(model.pipe.unet, scheduler) and math.isfinite(value)


def test_prompts_of_the_sample_sheet_are_forty():
    from training import samples

    prompts = samples.prompts()
    assert len(prompts) == len(set(prompts)) == 40
    assert all(prompt == contract.normalise_prompt(prompt) for prompt in prompts)
