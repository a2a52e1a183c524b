"""hub_models/autoencoder.py against stock diffusers and algebra; training/autoencoder.py against the loss by hand."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from children import run
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image, ImageDraw

from hub_models import autoencoder, store
from hub_models.publish import halves, packing
from training import autoencoder as script
from training import metrics
from training.data.sources import DataError, open_source

CHANNELS, SIDE = 4, 32


def small_vae(**changes) -> AutoencoderKL:
    """A random stock autoencoder that reduces by 4 and whose latents have a mean and a scale of their own."""
    torch.manual_seed(3)
    settings = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (8, 8, 16),
        "norm_num_groups": 4,
        "latent_channels": CHANNELS,
        "sample_size": SIDE,
        "mid_block_add_attention": False,
        "scaling_factor": 0.7,
    }
    vae = AutoencoderKL(**(settings | changes)).eval().requires_grad_(False)
    with torch.no_grad():
        if vae.quant_conv is not None:
            vae.quant_conv.bias[:CHANNELS] += torch.tensor([1.0, -2.0, 0.5, 3.0])
        vae.decoder.conv_out.weight *= 20  # a fresh decoder hardly answers to its latents
    return vae


def drawing(number: int, size=(48, 40)) -> Image.Image:
    """Some transparent art."""
    image = Image.new("RGBA", size)
    rng = np.random.default_rng(number)
    for _ in range(3):
        x, y = rng.integers(0, 24, 2).tolist()
        ImageDraw.Draw(image).ellipse((x, y, x + 16, y + 14), fill=(*rng.integers(0, 256, 3).tolist(), 255))
    return image


DRAWINGS = [drawing(number) for number in range(6)]


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """uint8 (N, SIDE, SIDE, 3)."""
    return np.stack([np.asarray(autoencoder.frame(drawing(n), SIDE, (255, 255, 255))) for n in range(24)])


@pytest.fixture(scope="module")
def config() -> script.config.AutoencoderConfig:
    return script.PRESETS["tiny"]


@pytest.fixture
def folder(tmp_path, pictures, config):
    """An exported folder, fp16 and with a manifest, as a run leaves it."""
    autoencoder.save_folder(tmp_path / "vae", script.model.finished(small_vae(), pictures, config))
    halves.to_half(tmp_path / "vae")
    packing.write_manifest(tmp_path / "vae")
    return tmp_path / "vae"


def pipeline_around(vae: AutoencoderKL, kind=StableDiffusionPipeline):
    """A stock pipeline without text models: prompt embeddings are given."""
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        sample_size=SIDE // 4,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    parts = {"text_encoder": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None}
    pipe = kind(vae=vae, unet=unet, scheduler=DDIMScheduler(), requires_safety_checker=False, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# ---- the contract ----------------------------------------------------------------------------------------------------


def test_the_folder_is_what_stock_autoencoderkl_loads_in_fp32_to_the_bit(folder):
    stock, model = AutoencoderKL.from_pretrained(folder).eval(), autoencoder.load(str(folder), device="cpu")
    x = model.preprocess(DRAWINGS)
    with torch.no_grad():
        posterior = stock.encode(x).latent_dist
        mean, std = model.encode(DRAWINGS)
        assert torch.equal(mean, posterior.mean * stock.config.scaling_factor)
        assert torch.equal(std, posterior.std * stock.config.scaling_factor)
        assert torch.equal(model.decode(mean), stock.decode(mean / stock.config.scaling_factor).sample.clamp(-1, 1))
    assert mean.shape == std.shape == (6, *model.latent_shape) == (6, CHANNELS, 8, 8)
    assert model.decode(mean).shape == (6, 3, SIDE, SIDE)
    assert model.parameters == sum(p.numel() for p in stock.parameters())


def test_stock_stable_diffusion_decodes_and_encodes_in_the_same_scale(folder):
    """The whole of text-to-image stands on this: the pipeline and we mean the same by "latents"."""
    model = autoencoder.load(str(folder), device="cpu")
    latents = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    pipe = pipeline_around(AutoencoderKL.from_pretrained(folder))
    seen = []
    prompt = {"prompt_embeds": torch.zeros(2, 3, 8), "guidance_scale": 1.0, "num_inference_steps": 2, "eta": 0.0}
    drawn = pipe(
        **prompt,
        latents=latents,
        height=SIDE,
        width=SIDE,
        output_type="np",
        callback_on_step_end=lambda pipe, step, t, values: seen.append(values["latents"].clone()) or values,
    ).images
    ours = model.decode(seen[-1]).permute(0, 2, 3, 1).numpy() / 2 + 0.5
    np.testing.assert_allclose(ours, drawn, atol=1e-6)
    assert drawn.std() > 0.05  # a picture, not a grey field on which anything agrees

    to_image = pipeline_around(pipe.vae, StableDiffusionImg2ImgPipeline)
    x = model.preprocess(DRAWINGS[:2])
    mean, std = model.encode(DRAWINGS[:2])
    pipe_draw, draw = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    to_image.scheduler.set_timesteps(10)
    t = to_image.scheduler.timesteps[-1:].repeat(2)
    noisy = to_image.prepare_latents(x, t, 2, 1, torch.float32, "cpu", generator=pipe_draw)
    sample = mean + std * torch.randn(mean.shape, generator=draw)
    noise = torch.randn(mean.shape, generator=draw)
    torch.testing.assert_close(noisy, to_image.scheduler.add_noise(sample, noise, t), rtol=0, atol=1e-5)


def test_the_mean_is_folded_away_and_the_pictures_stay(pictures, config):
    vae = small_vae()
    done = script.model.finished(vae, pictures, config)
    before, after = (autoencoder.Autoencoder(v, resolution_px=SIDE) for v in (vae, done.vae))
    x = autoencoder.from_uint8(pictures)
    mean, std = done.encode_tensor(x)
    torch.testing.assert_close(mean.mean((0, 2, 3)), torch.zeros(CHANNELS), rtol=0, atol=1e-5)
    assert (mean.square() + std.square()).mean().item() == pytest.approx(1, abs=1e-4)
    assert vae.config.scaling_factor == 0.7 and not done.vae.config.shift_factor  # the one given is as it was
    old = before.encode_tensor(x)[0]
    assert old.mean((0, 2, 3)).abs().max() > 0.5  # there was something to fold
    torch.testing.assert_close(done.decode(mean), before.decode(old), rtol=0, atol=3e-4)
    corner = torch.randn(1, CHANNELS, 3, 5)  # exact at the borders too, where convolutions see zeros
    same = (corner / done.vae.config.scaling_factor + _offset(vae, done.vae)) * 0.7
    torch.testing.assert_close(done.decode(corner), before.decode(same), rtol=0, atol=3e-4)


def _offset(vae, folded) -> torch.Tensor:
    return (vae.quant_conv.bias - folded.quant_conv.bias)[:CHANNELS].view(1, -1, 1, 1)


def test_a_model_without_quant_conv_gets_a_shift_that_is_honoured(pictures, config):
    vae = small_vae(use_quant_conv=False, use_post_quant_conv=False)
    done = script.model.finished(vae, pictures, config)
    mean, std = done.encode_tensor(autoencoder.from_uint8(pictures))
    assert mean.mean().item() == pytest.approx(0, abs=1e-5)
    assert (mean.square() + std.square()).mean().item() == pytest.approx(1, abs=1e-4)
    whole = vae.decode(vae.encode(autoencoder.from_uint8(pictures)).latent_dist.mean).sample.clamp(-1, 1)
    torch.testing.assert_close(done.decode(mean), whole, rtol=0, atol=3e-4)
    with pytest.raises(ValueError, match="has none"):
        autoencoder.centred(vae, torch.zeros(CHANNELS), 1.0)


def test_a_frozen_encoder_keeps_its_latents(pictures, config):
    vae = small_vae()
    done = script.model.finished(vae, pictures, dataclasses.replace(config, freeze_encoder=True))
    assert done.vae is vae and vae.config.scaling_factor == 0.7


def test_the_preview_is_the_least_squares_solution(folder, pictures):
    model = autoencoder.load(str(folder), device="cpu")
    latents = model.encode_tensor(autoencoder.from_uint8(pictures))[0]
    cells = pictures.reshape(len(pictures), 8, 4, 8, 4, 3).mean((2, 4)).reshape(-1, 3) / 127.5 - 1  # area means
    rows = latents.permute(0, 2, 3, 1).reshape(-1, CHANNELS).double().numpy()
    rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    solution = np.linalg.solve(rows.T @ rows, rows.T @ cells)  # the normal equations
    np.testing.assert_allclose(model.latent_to_rgb, solution[:-1], atol=5e-3)  # measured in fp32, served in fp16
    np.testing.assert_allclose(model.latent_to_rgb_bias, solution[-1], atol=5e-3)
    preview = model.preview(latents)
    assert preview.shape == (24, 8, 8, 3) and preview.dtype == np.uint8
    wanted = np.clip((rows @ solution + 1) * 127.5, 0, 255).reshape(preview.shape)
    assert np.abs(preview - wanted).max() < 3


def test_fit_latent_to_rgb_finds_a_known_map_and_survives_a_dead_channel():
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(5, 3, 4, 4, generator=draw)
    latents[:, 2] = 0
    weight, bias = torch.tensor([[0.1, 0.2, -0.3], [0.05, 0.0, 0.4]]), torch.tensor([0.1, -0.2, 0.3])
    colours = torch.einsum("bchw,cd->bdhw", latents[:, :2], weight) + bias.view(1, 3, 1, 1)
    found, found_bias = autoencoder.fit_latent_to_rgb(
        latents, colours.repeat_interleave(2, -1).repeat_interleave(2, -2)
    )
    torch.testing.assert_close(found[:2], weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(found_bias, bias, rtol=0, atol=1e-6)
    assert found[2].abs().max() < 1e-6


def test_preprocess_is_whole_on_the_ground_in_a_square():
    model = autoencoder.Autoencoder(small_vae(), ground=(255, 0, 0))
    oblong = Image.new("RGBA", (64, 32), (0, 0, 255, 255))
    oblong.paste((0, 0, 0, 0), (0, 0, 32, 32))  # its left half is clear
    x = model.preprocess([oblong, oblong.convert("RGB").resize((7, 7))])
    assert x.shape == (2, 3, SIDE, SIDE)
    red, blue = torch.tensor([1.0, -1, -1]), torch.tensor([-1.0, -1, 1])
    assert torch.equal(x[0, :, 2, 16], red) and torch.equal(x[0, :, 16, 4], red) and torch.equal(x[0, :, 16, 28], blue)
    assert model.encode([oblong])[0].shape == (1, *model.latent_shape)


def test_any_pipeline_folder_serves_its_vae_and_a_preview(tmp_path):
    vae = small_vae()
    vae.save_pretrained(tmp_path / "pipe/vae")
    (tmp_path / "pipe/model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]})
    )
    model = autoencoder.load(str(tmp_path / "pipe"), device="cpu")
    assert (model.resolution_px, model.latent_shape) == (SIDE, (CHANNELS, 8, 8))
    fresh = torch.randn(20, CHANNELS, 4, 4).repeat_interleave(2, -1).repeat_interleave(2, -2)
    drawn = autoencoder.to_uint8(torch.nn.functional.adaptive_avg_pool2d(model.decode(fresh), (8, 8))).astype(float)
    rows = fresh.permute(0, 2, 3, 1).reshape(-1, CHANNELS).numpy()
    rows = np.concatenate([rows, np.ones((len(rows), 1), rows.dtype)], axis=1)
    best = rows @ np.linalg.lstsq(rows, drawn.reshape(-1, 3), rcond=None)[0]  # no map could be nearer on these latents
    best_error, error = (np.square(made.reshape(drawn.shape) - drawn).mean() for made in (best, model.preview(fresh)))
    assert error < 1.1 * best_error and error < 0.98 * np.square(drawn - drawn.mean((0, 1, 2))).mean()


def test_a_bundled_name_is_the_vae_of_text_to_image(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "WEIGHTS", tmp_path / "weights")
    with pytest.raises(store.CheckpointError, match="bundled are none yet"):
        autoencoder.load("emoji")
    target = tmp_path / "weights/text_to_image/emoji"
    target.mkdir(parents=True)
    folder.rename(target / "vae")
    index = {"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]}
    (target / "model_index.json").write_text(json.dumps(index))
    model = autoencoder.load("emoji", device="cpu")
    assert model.weights_sha256 == store.weights_sha256(target / "vae") and model.latent_to_rgb is not None


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json"),
        (lambda f: edit(f / "config.json", _class_name="VQModel"), "of a VQModel"),
        (lambda f: edit(f / "config.json", block_out_channels=[8, 8, 32]), "autoencoder"),
        (lambda f: edit(f / "config.json", layers_per_block=2), "disagree|Missing key"),
        (lambda f: edit(f / "config.json", scaling_factor=0), "scaling_factor"),
        (lambda f: edit(f / "preprocessor_config.json", resolution_px=30), "no multiple of 4"),
        (lambda f: edit(f / "preprocessor_config.json", ground=[1, 2]), "ground"),
        (lambda f: edit(f / "preprocessor_config.json", latent_to_rgb=[[1, 2, 3]]), r"instead of \(4, 3\)"),
        (lambda f: edit(f / "preprocessor_config.json", latent_to_rgb="grey"), "no table of numbers"),
        (lambda f: (f / "preprocessor_config.json").write_text("{"), "preprocessor_config.json"),
    ],
)
def test_a_bad_folder_is_a_checkpoint_error_that_names_the_cause(folder, spoil, words):
    (folder / store.MANIFEST).unlink()
    spoil(folder)
    with pytest.raises(store.CheckpointError, match=words):
        autoencoder.load(str(folder), device="cpu")


# ---- the training ----------------------------------------------------------------------------------------------------


def test_the_loss_is_the_bound_and_its_other_terms_written_out(config):
    cfg = dataclasses.replace(config, mse_weight=0.7, gradient_weight=0.3, kl_weight=0.25)
    draw = torch.Generator().manual_seed(0)
    picture, made = torch.rand(2, 3, 4, 4, generator=draw), torch.rand(2, 3, 4, 4, generator=draw)
    mean, logvar = torch.randn(2, 5, 2, 2, generator=draw), torch.randn(2, 5, 2, 2, generator=draw)
    loss, parts = script.model.negative_bound(picture, made, mean, logvar, cfg)
    posterior = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum() / picture.numel()
    right = (made[..., 1:] - made[..., :-1]) - (picture[..., 1:] - picture[..., :-1])
    down = (made[..., 1:, :] - made[..., :-1, :]) - (picture[..., 1:, :] - picture[..., :-1, :])
    gradient = right.abs().mean() + down.abs().mean()
    l1, mse = (made - picture).abs().mean(), (made - picture).square().mean()
    assert parts["kl"].item() == pytest.approx(kl.item(), rel=1e-5)
    assert loss.item() == pytest.approx((l1 + 0.7 * mse + 0.3 * gradient + 0.25 * kl).item(), rel=1e-5)


def test_a_crop_is_a_part_of_the_picture_and_a_function_of_its_draw(config):
    source = open_source("emoji-sample", split="train")
    crops = script.model.Crops(source, dataclasses.replace(config, random_ground=0.0), (4, 4, 4))
    whole = autoencoder.from_uint8(script.model.white_pictures(source, config.resolution)[5:6])[0]  # (3, 32, 32)
    corners = set()
    for seed in range(4):
        sample = crops.sample(5, torch.Generator().manual_seed(seed))
        again = crops.sample(5, torch.Generator().manual_seed(seed))
        assert torch.equal(sample["picture"], again["picture"]) and torch.equal(sample["noise"], again["noise"])
        assert (sample["picture"].shape, sample["noise"].shape) == ((3, 16, 16), (4, 4, 4))
        windows = whole.unfold(1, 16, 1).unfold(2, 16, 1)  # (3, 17, 17, 16, 16)
        error = (windows - sample["picture"][:, None, None]).abs().amax((0, 3, 4))
        assert error.min() < 1.01 / 127.5  # one of the windows, within the rounding of a byte
        corners.add(int(error.argmin()))
    assert len(corners) > 1
    grounds = script.model.Crops(source, dataclasses.replace(config, random_ground=1.0), (4, 4, 4))
    assert not torch.equal(
        grounds.sample(5, torch.Generator().manual_seed(0))["picture"],
        crops.sample(5, torch.Generator().manual_seed(0))["picture"],
    )


def test_pictures_are_moved_and_mirrored_and_nothing_else(config):
    source = open_source("emoji-sample", split="train")
    cfg = dataclasses.replace(config, crop_px=config.resolution, random_ground=0.0, shift_px=2, random_flip=True)
    crops, side = script.model.Crops(source, cfg, (4, 4, 4)), config.resolution
    whole = autoencoder.from_uint8(script.model.white_pictures(source, side)[5:6])  # (1, 3, 32, 32)
    wide = torch.nn.functional.pad(whole, (2, 2, 2, 2), mode="replicate")[0]
    seen = set()
    for seed in range(24):
        picture = crops.sample(5, torch.Generator().manual_seed(seed))["picture"]
        errors = {
            (top, left, flip): (wide[:, top : top + side, left : left + side].flip([2] * flip) - picture).abs().max()
            for top in range(5) for left in range(5) for flip in (0, 1)
        }  # fmt: skip
        place = min(errors, key=errors.get)
        assert errors[place] < 1.01 / 127.5  # within the rounding of a byte
        seen.add(place)
    assert {top for top, _, _ in seen} == set(range(5)) and {flip for _, _, flip in seen} == {0, 1}
    plain = script.model.Crops(source, dataclasses.replace(cfg, shift_px=0, random_flip=False), (4, 4, 4))
    assert (plain.sample(5, torch.Generator().manual_seed(0))["picture"] - whole[0]).abs().max() < 1.01 / 127.5


def test_it_learns_and_two_grounds_are_not_one(config):
    """Sixty steps on six drawings: better than the grey it starts from, by a lot."""
    cfg = dataclasses.replace(config, latent_channels=8, kl_weight=1e-3)
    torch.manual_seed(0)
    model = script.model.Reconstruction(script.model.create_vae(cfg))
    pictures = np.stack([np.asarray(autoencoder.frame(d, SIDE, (255, 255, 255))) for d in DRAWINGS])
    x = autoencoder.from_uint8(pictures)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        loss, _ = script.model.negative_bound(x, *model(x, torch.randn(6, 8, 8, 8)), cfg)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    served = autoencoder.Autoencoder(model.vae.eval(), resolution_px=SIDE)
    after = metrics.psnr(script.model.reconstruct(served, pictures, batch_size=4), pictures).mean()
    constant = np.broadcast_to(pictures.mean((1, 2), keepdims=True).astype(np.uint8), pictures.shape)
    assert after > metrics.psnr(constant, pictures).mean() + 3


def test_it_starts_from_a_stock_folder_of_another_shape(tmp_path, config):
    small_vae().save_pretrained(tmp_path / "pipe/vae")
    (tmp_path / "pipe/model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    cfg = dataclasses.replace(config, pretrained_model_name_or_path=str(tmp_path / "pipe"), freeze_encoder=True)
    vae = script.model.start_from(cfg)
    trained = {name.split(".")[0] for name, p in vae.named_parameters() if p.requires_grad}
    assert trained == {"decoder", "post_quant_conv"} and vae.training
    base = small_vae().state_dict()
    for name, value in vae.state_dict().items():
        assert torch.equal(value, base[name]), name


def _train(argv: list[str]) -> None:
    script.main(argv)


def test_it_fine_tunes_a_stock_pipeline_folder_into_one_of_ours(tmp_path):
    """What comes out is stock and measured: latents of mean 0 and deviation 1 over the training pictures."""
    small_vae(scaling_factor=0.18215).save_pretrained(tmp_path / "pipe/vae")
    (tmp_path / "pipe/model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    argv = [
        "--preset",
        "tiny",
        "--cpu",
        "--pretrained_model_name_or_path",
        str(tmp_path / "pipe"),
        "--output_dir",
        str(tmp_path / "run"),
    ]
    code, text = run(_train, argv, log=tmp_path / "log")
    assert code == 0, text
    model = autoencoder.load(str(tmp_path / "run/export"), device="cpu")
    mean, std = model.encode_tensor(
        autoencoder.from_uint8(script.model.white_pictures(open_source("emoji-sample", split="train"), SIDE))
    )
    assert model.vae.config.scaling_factor != 0.18215
    torch.testing.assert_close(mean.mean((0, 2, 3)), torch.zeros(CHANNELS), rtol=0, atol=5e-3)  # biases are fp16
    assert (mean.square() + std.square()).mean().item() == pytest.approx(1, abs=0.01)
    assert "fine-tuned from" in (tmp_path / "run/export/README.md").read_text()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--crop_px", "18"], "multiples of 4"),
        (["--resolution", "34"], "multiples of 4"),
        (["--crop_px", "64"], "must not exceed --resolution 32"),
        (["--shift_px", "32"], "--shift_px must lie in"),
        (["--norm_num_groups", "3"], "multiples of --norm_num_groups 3"),
        (["--kl_weight", "nan"], "kl_weight"),
        (["--random_ground", "2"], "random_ground"),
        (["--freeze_encoder"], "has to be trained"),
        (["--pretrained_model_name_or_path", "no-such-variant"], "no autoencoder variant"),
    ],
)
def test_a_wrong_flag_is_said_before_anything_starts(flags, words, tmp_path, capsys):
    with pytest.raises((SystemExit, store.CheckpointError)) as stopped:
        script.main(["--preset", "tiny", "--cpu", "--output_dir", str(tmp_path / "run"), *flags])
    assert words in f"{stopped.value} {capsys.readouterr().err}"
    assert not (tmp_path / "run").exists()


def test_the_shipped_preset_fits_its_place():
    vae = script.model.create_vae(script.config.EMOJI)
    assert sum(p.numel() for p in vae.parameters()) <= 3_200_000
    assert autoencoder.Autoencoder(vae).latent_shape == (24, 8, 8)
    assert not any("attentions" in name for name in vae.state_dict())


def test_data_that_is_not_there_is_said(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        script.main(["--preset", "tiny", "--dataset_name", "/nowhere/pictures", "--output_dir", str(tmp_path / "run")])
