"""Autoencoders with one vector a picture: bound, sparsity, contraction by hand and closed form; what they draw."""

import dataclasses
import json
import math
import signal

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageDraw
from test_smoke import script as run_script
from test_smoke import weights_in

from hub_models import autoencoder, latents, store
from training import autoencoder as script
from training.autoencoder import codes, start
from training.data.sources import open_source

SIDE, SIZE = 16, 6
VECTOR = dataclasses.replace(
    script.PRESETS["vae-32"], dataset_name="emoji-sample", resolution=SIDE, crop_px=SIDE, latent_channels=SIZE,
    block_out_channels=(8, 8, 8, 16, 16), norm_num_groups=4, directions=(),
)  # fmt: skip
PLAIN = dataclasses.replace(VECTOR, likelihood="mixed", deterministic=True)
FLAGS = ["--resolution", "16", "--crop_px", "16", "--latent_channels", "6", "--random_ground", "0",
         "--block_out_channels", "8", "8", "8", "16", "16", "--label_column", "label"]  # fmt: skip


def drawing(number: int) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), "white")
    ImageDraw.Draw(image).ellipse((number, 2, number + 8, 12), fill=(40 * number, 90, 200))
    return image


@pytest.fixture(scope="module")
def served() -> autoencoder.Autoencoder:
    """A random model with one vector a picture, that knows two labels and a direction."""
    torch.manual_seed(0)
    vae = script.model.create_vae(VECTOR).eval().requires_grad_(False)
    with torch.no_grad():
        vae.decoder.conv_out.weight *= 10
    means, factors = torch.randn(2, SIZE), torch.randn(2, SIZE, SIZE).tril()
    space = latents.LatentSpace(["a", "b"], means, factors, {"frown → smile": torch.ones(SIZE)})
    return autoencoder.Autoencoder(vae, space=space)


# ---- the bound -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def linear():
    """A linear VAE at its optimum: probabilistic PCA (Tipping & Bishop 1999), whose posterior is diagonal."""
    draw, size = torch.Generator().manual_seed(0), 3
    x = torch.randn(40, 12, generator=draw, dtype=torch.double) @ torch.randn(
        12, 12, generator=draw, dtype=torch.double
    )
    centre = x.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    variance = values[:-size].mean()
    weight = vectors[:, -size:] * (values[-size:] - variance).sqrt()  # (12, 3)
    inner = weight.T @ weight + variance * torch.eye(size)
    mean = (x - centre) @ weight @ inner.inverse()
    logvar = (variance / inner.diag()).log().expand(40, size)
    gaussian = torch.distributions.MultivariateNormal(centre, weight @ weight.T + variance * torch.eye(12))
    return x, centre, weight, variance, mean, logvar, gaussian.log_prob(x).mean()


def bound_of(linear, shift=0.0, std=None) -> float:
    """The script's loss of the linear VAE; the mean over noise is exact: its square is summed over ± √D e_j."""
    x, centre, weight, variance, mean, logvar, _ = linear
    size = mean.shape[1]
    points = math.sqrt(size) * torch.cat([torch.eye(size), -torch.eye(size)]).double()
    cfg = dataclasses.replace(VECTOR, observation_std=std or float(variance.sqrt()))
    shape, total = (len(x), 3, 2, 2), 0.0
    for noise in points:
        z = mean + shift + (0.5 * logvar).exp() * noise
        made = (centre + z @ weight.T).view(shape)
        latent = (mean + shift).view(*mean.shape, 1, 1), logvar.reshape(*mean.shape, 1, 1)
        loss, parts = script.whole_loss(x.view(shape).float(), (made.float(), *latent), cfg)
        total += loss.item() / len(points)
    assert parts["bits_per_dim"].item() == pytest.approx(loss.item() / math.log(2) + math.log2(255 / 2))
    return total


def test_the_bound_of_a_linear_vae_is_its_log_likelihood(linear):
    """At the optimum the posterior is exact and the bound tight: -log p(x) of the closed form, for each value."""
    *_, log_likelihood = linear
    assert bound_of(linear) == pytest.approx(-log_likelihood.item() / 12, rel=1e-5)


def test_the_bound_is_looser_away_from_the_exact_posterior(linear):
    """By KL(q ‖ p(z|x)), which for a shift d of the mean is ½ Σ d² / σ²."""
    *_, logvar, log_likelihood = linear
    gap = 0.5 * (0.3**2 / logvar[0].exp()).sum().item()
    assert bound_of(linear, shift=0.3) == pytest.approx((gap - log_likelihood.item()) / 12, rel=1e-5)


def test_the_best_deviation_is_the_root_of_the_mean_squared_error(linear):
    draw = torch.Generator().manual_seed(1)
    x, made = torch.randn(4, 3, 2, 2, generator=draw), torch.randn(4, 3, 2, 2, generator=draw)
    latent = torch.randn(4, 2, 1, 1, generator=draw), torch.randn(4, 2, 1, 1, generator=draw)
    best = codes.gaussian_bound(x, made, *latent, None)[0].item()
    rmse = (x - made).square().mean().sqrt().item()
    assert codes.gaussian_bound(x, made, *latent, rmse)[0].item() == pytest.approx(best)
    assert all(codes.gaussian_bound(x, made, *latent, rmse * by)[0].item() > best + 1e-3 for by in (0.9, 1.1))
    nll = -torch.distributions.Normal(made, rmse).log_prob(x).mean()
    posterior = torch.distributions.Normal(latent[0], (0.5 * latent[1]).exp())
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum() / x.numel()
    assert best == pytest.approx((nll + kl).item(), rel=1e-5)


# ---- what else is asked of a code ------------------------------------------------------------------------------------


def test_the_sparsity_penalty_by_hand():
    half, tenth = math.atanh(0.5), math.atanh(0.1)
    code = torch.tensor([[half, -tenth], [-half, tenth]])[:, :, None, None]
    by_hand = 0.1 * math.log(0.1 / 0.5) + 0.9 * math.log(0.9 / 0.5)  # the second is at its target
    assert codes.sparsity_penalty(code, 0.1).item() == pytest.approx(by_hand, rel=1e-5)
    assert math.isfinite(codes.sparsity_penalty(torch.zeros(2, 3, 1, 1), 0.1).item())
    made = torch.zeros(2, 3, 4, 4), code, torch.zeros_like(code)
    cfg = dataclasses.replace(PLAIN, sparsity=0.1, sparsity_weight=0.5)
    loss, parts = script.whole_loss(torch.zeros(2, 3, 4, 4), made, cfg)
    assert loss.item() == pytest.approx(0.5 * by_hand) and parts["sparsity"].item() == pytest.approx(by_hand)


def test_only_the_largest_numbers_of_each_picture_are_kept():
    code = torch.tensor([[3.0, -4.0, 1.0, 0.5], [0.1, 0.2, -0.3, 0.0]]).view(2, 2, 2, 1)
    kept = torch.tensor([[3.0, -4.0, 0, 0], [0, 0.2, -0.3, 0]]).view(2, 2, 2, 1)
    assert torch.equal(autoencoder.k_largest(code, 2), kept)


@pytest.fixture
def encoder() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.SiLU(), torch.nn.Flatten(), torch.nn.Linear(64, 3)
    return torch.nn.Sequential(*layers).double()


def test_the_contraction_is_the_squared_norm_of_the_exact_jacobian(encoder):
    """Over probes √D e_j the mean is exact; over normal ones it is so in expectation; its gradient is the norm's."""
    x = torch.randn(2, 3, 4, 4, dtype=torch.double, requires_grad=True)
    exact = [torch.autograd.functional.jacobian(encoder, one[None], create_graph=True).square().sum() for one in x]
    exact = torch.stack(exact)
    code = encoder(x)
    by_rows = torch.stack([codes.contraction(code, x, math.sqrt(3) * e.expand(2, 3)) for e in torch.eye(3).double()])
    torch.testing.assert_close(by_rows.mean(0), exact, rtol=1e-5, atol=0)
    drawn = torch.stack([codes.contraction(code, x, torch.randn(2, 3).double()).detach() for _ in range(3000)])
    torch.testing.assert_close(drawn.mean(0), exact.detach(), rtol=0.08, atol=0)
    weights = list(encoder.parameters())
    mine = torch.autograd.grad(by_rows.mean(0).sum(), weights, allow_unused=True, retain_graph=True)
    wanted = torch.autograd.grad(exact.sum(), weights, allow_unused=True)
    for one, other in zip(mine, wanted, strict=True):
        if other is not None and other.abs().max() > 0:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-8)


def test_the_contraction_in_the_loss_is_of_the_encoder_that_is_trained():
    cfg = dataclasses.replace(PLAIN, contraction=0.25)
    torch.manual_seed(0)
    model = script.Reconstruction(script.model.create_vae(cfg), deterministic=True)
    x, noise = torch.randn(1, 3, SIDE, SIDE), torch.zeros(1, SIZE, 1, 1)
    probes = math.sqrt(SIZE) * torch.eye(SIZE).view(SIZE, 1, SIZE, 1, 1)
    parts = [script.whole_loss(x, model(x, noise, probe), cfg) for probe in probes]
    jacobian = torch.autograd.functional.jacobian(lambda x: model.vae.encode(x).latent_dist.mean, x)
    assert sum(p["contraction"] for _, p in parts).item() / SIZE == pytest.approx(
        jacobian.square().sum().item(), rel=1e-4
    )
    plain, _ = script.whole_loss(x, model(x, noise), cfg)
    assert (parts[0][0] - plain).item() == pytest.approx(0.25 * parts[0][1]["contraction"].item(), rel=1e-4)
    parts[0][0].backward()
    assert model.vae.encoder.conv_in.weight.grad.abs().max() > 0


def test_a_denoising_encoder_sees_noise_and_answers_for_the_clean_picture():
    source = open_source("emoji-sample", split="train")
    shape = (SIZE, 1, 1)
    clean = script.Crops(source, PLAIN, shape).sample(3, torch.Generator().manual_seed(4))
    noisy = script.Crops(source, dataclasses.replace(PLAIN, corruption_std=0.5), shape)
    sample = noisy.sample(3, torch.Generator().manual_seed(4))
    assert torch.equal(sample["picture"], clean["picture"]) and "seen" not in clean
    assert (sample["seen"] - sample["picture"]).std().item() == pytest.approx(0.5, rel=0.1)
    task = script.task_of(dataclasses.replace(PLAIN, corruption_std=0.5))
    [player] = task.players
    batch = {key: value[None] for key, value in sample.items()}
    loss, _ = player.loss(player.module, batch)
    made = player.module(batch["seen"], batch["noise"])[0]
    by_hand, _ = script.model.negative_bound(
        batch["picture"], made, torch.zeros(1), torch.zeros(1), dataclasses.replace(PLAIN, kl_weight=0)
    )
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_without_noise_the_stock_class_draws_the_mean():
    torch.manual_seed(0)
    vae = script.model.create_vae(PLAIN)
    model = script.Reconstruction(vae, deterministic=True)
    x = torch.randn(2, 3, SIDE, SIDE)
    made = [model(x, noise)[0] for noise in (torch.zeros(2, SIZE, 1, 1), torch.ones(2, SIZE, 1, 1))]
    assert torch.equal(*made), "no noise in training"
    done = script.finished(vae, np.stack([np.asarray(drawing(n)) for n in range(5)]), PLAIN)
    assert done.vae.config.scaling_factor == 1 and not done.vae.config.shift_factor
    with torch.no_grad():
        before, after = (one.encode(x).latent_dist for one in (vae, done.vae))
    assert torch.equal(before.mean, after.mean) and after.std.max() < 1e-6 < before.std.min()


# ---- what is known of the space --------------------------------------------------------------------------------------


def test_gaussians_are_those_of_their_labels_and_draws_are_of_them():
    rng = np.random.default_rng(0)
    mixing, labels = rng.normal(size=(2, 3, 3)), np.repeat([0, 1], [4000, 4000])
    rows = np.stack([mixing[k] @ rng.normal(size=3) for k in labels]) + 5 * labels[:, None]
    means, factors = latents.gaussians(rows, labels, ["a", "b", "none"])
    np.testing.assert_allclose(means[1], rows[4000:].mean(0), rtol=1e-5)
    np.testing.assert_allclose((factors[0] @ factors[0].T), np.cov(rows[:4000].T, bias=True), atol=0.02)
    np.testing.assert_allclose(means[2], rows.mean(0), rtol=1e-5)
    space = latents.LatentSpace(["a", "b", "none"], means, factors)
    drawn = space.draw(["b"] * 4000 + [None] * 4000, torch.randn(8000, 3))
    np.testing.assert_allclose(torch.cov(drawn[:4000].T), factors[1] @ factors[1].T, atol=0.15)
    np.testing.assert_allclose(drawn[:4000].mean(0), means[1], atol=0.15)
    np.testing.assert_allclose(torch.cov(drawn[4000:].T), np.eye(3), atol=0.1)


def test_a_label_of_few_pictures_leans_on_the_others():
    """(n S_k + D S) / (n + D) by hand: one picture has no spread of its own."""
    rows, labels = np.array([[0.0, 0], [2, 0], [0, 2], [2, 2], [9, 9]]), np.array([0, 0, 0, 0, 1])
    _, factors = latents.gaussians(rows, labels, ["a", "b"])
    within = np.eye(2) * 4 / 5
    np.testing.assert_allclose(factors[1] @ factors[1].T, within * 2 / 3, rtol=1e-4)
    np.testing.assert_allclose(factors[0] @ factors[0].T, (4 * np.eye(2) + 2 * within) / 6, rtol=1e-4)


def test_a_walk_keeps_lengths_and_has_both_ends():
    first, second = torch.tensor([3.0, 0, 0]), torch.tensor([0.0, 1, 0])
    way = latents.between(first, second, 5)
    torch.testing.assert_close(way[0], first)
    torch.testing.assert_close(way[-1], second, rtol=0, atol=1e-6)
    torch.testing.assert_close(way.norm(dim=1), torch.tensor([3, 2.5, 2, 1.5, 1]))
    torch.testing.assert_close(way[2], torch.tensor([2**0.5, 2**0.5, 0]))  # half of the right angle
    torch.testing.assert_close(latents.between(first, -first, 3)[1], torch.zeros(3))
    torch.testing.assert_close(latents.between(first, 2 * first, 3)[1], 1.5 * first)


def test_drawn_walked_and_moved(served):
    labels, seeds = ["a", "any", 1, None], [3, 3, 4, 4]
    together = served.sample(labels, seeds)
    assert together.shape == (4, 3, SIDE, SIDE)
    for row, (label, seed) in enumerate(zip(labels, seeds, strict=True)):
        torch.testing.assert_close(together[row], served.sample([label], [seed])[0], rtol=0, atol=1e-3)
    z = torch.randn(SIZE, generator=torch.Generator().manual_seed(3))
    for how in ({}, {"temperature": 1}, {"temperature": 0}):
        by = how.get("temperature", autoencoder.TEMPERATURE)
        by_hand = served.decode((served.space.means[0] + by * served.space.factors[0] @ z).view(1, SIZE, 1, 1))
        torch.testing.assert_close(served.sample(["a"], [3], **how), by_hand, rtol=0, atol=1e-3)
        anything = served.decode((by * z).view(1, SIZE, 1, 1))
        torch.testing.assert_close(served.sample([None], [3], **how), anything, rtol=0, atol=1e-3)
    ends = served.decode(served.encode([drawing(0), drawing(5)])[0])
    walk = served.walk(drawing(0), drawing(5), 4)
    torch.testing.assert_close(walk[[0, -1]], ends, rtol=0, atol=1e-3)
    mean = served.encode([drawing(0)])[0]
    moved = served.moved(drawing(0), "frown → smile", amounts=[0, 2])
    torch.testing.assert_close(moved, served.decode(torch.cat([mean, mean + 2])), rtol=0, atol=1e-3)
    [between] = served.moved(drawing(0), "a", "b", amounts=[1])
    step = (served.space.means[1] - served.space.means[0]).view(1, SIZE, 1, 1)
    torch.testing.assert_close(between[None], served.decode(mean + step), rtol=0, atol=1e-3)
    assert (walk[0] - walk[-1]).abs().max() > 1e-2 and (moved[0] - moved[1]).abs().max() > 1e-2


def test_what_there_is_not_is_said(served):
    for call, words in (
        (lambda: served.sample(["c"], [1]), "label 'c' is unknown"),
        (lambda: served.sample(["a"], [1, 2]), "1 labels for 2 seeds"),
        (lambda: served.sample(["a"], [-1]), "seed -1"),
        (lambda: served.sample(["a"], [1], temperature=1.5), "no number from 0 to 1"),
        (lambda: served.sample(["a"], [1], temperature=float("nan")), "no number from 0 to 1"),
        (lambda: served.walk(drawing(0), drawing(1), 1), "steps 1"),
        (lambda: served.moved(drawing(0), "smile"), "kept are frown → smile"),
        (lambda: autoencoder.Autoencoder(served.vae).sample(["a"], [1]), "no Gaussians"),
        (lambda: autoencoder.Autoencoder(served.vae, resolution_px=32).sample([None], [1]), "2 × 2 vectors"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_a_saved_space_is_read_again_and_a_broken_one_refused(served, tmp_path):
    served.k_sparse, served.observation_std = 5, 0.25
    autoencoder.save_folder(tmp_path, served)
    served.k_sparse = served.observation_std = None
    again = autoencoder.load(str(tmp_path), device="cpu")
    assert (again.k_sparse, again.observation_std, again.space.label_names) == (5, 0.25, ["a", "b"])
    torch.testing.assert_close(again.space.factors, served.space.factors, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(again.space.direction("a", "b"), served.space.direction("a", "b"), rtol=1e-4, atol=1e-5)
    assert (again.encode([drawing(1)])[0] != 0).sum() == 5
    path = tmp_path / autoencoder.PREPROCESSOR
    saved = json.loads(path.read_text())
    space = saved["latents"]
    for changes in (
        {"k_sparse": 7}, {"observation_std": 0}, {"latents": []}, {"latents": space | {"means": [[0.0] * SIZE]}},
        {"latents": space | {"factors": space["factors"][:1]}}, {"latents": space | {"directions": {"x": ["a"]}}},
        {"latents": space | {"label_names": [1, 2]}}, {"latents": space | {"factors": [[[1.0]] * SIZE] * 2}},
    ):  # fmt: skip
        path.write_text(json.dumps(saved | changes))
        with pytest.raises(store.CheckpointError, match="export it again|correct it"):
            autoencoder.load(str(tmp_path), device="cpu")


# ---- the script ------------------------------------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "flags",
    [
        ["--likelihood", "gaussian"],
        ["--deterministic", "--corruption_std", "0.3", "--sparsity", "0.1", "--k_sparse", "4", "--contraction", "0.01"],
    ],
)
def test_killed_and_resumed_to_the_bit_and_opened_by_the_stock_class(flags, tmp_path):
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    run_script("autoencoder", whole, *FLAGS, *flags)
    run_script("autoencoder", run_dir, *FLAGS, *flags, die_after_saves=1, code=-signal.SIGKILL)
    run_script("autoencoder", run_dir, *FLAGS, *flags, "--resume_from_checkpoint", "latest")
    assert weights_in(run_dir / "export") == weights_in(whole / "export")
    assert weights_in(run_dir / "checkpoint-2") == weights_in(whole / "checkpoint-2")
    kept = [(folder / "export" / autoencoder.PREPROCESSOR).read_text() for folder in (whole, run_dir)]
    assert kept[0] == kept[1]
    model, stock = (
        autoencoder.load(str(whole / "export"), device="cpu"),
        AutoencoderKL.from_pretrained(whole / "export"),
    )
    z = torch.randn(2, SIZE, 1, 1)
    with torch.no_grad():
        assert torch.equal(model.decode(z), stock.eval().decode(z).sample.clamp(-1, 1))
    assert model.sample(["face", None], [0, 1]).shape == (2, 3, 16, 16)
    assert (model.observation_std is None) == ("--deterministic" in flags)
    assert model.k_sparse == (4 if "--k_sparse" in flags else None)


def test_directions_are_of_names_and_words_that_nobody_has_are_said():
    source = open_source("emoji-sample", split="train", label_column="label")
    names, size = source.column("name"), len(source)
    first, second = next(name for name in names if " " in name), next(name for name in names if " " not in name)
    means = torch.randn(size, SIZE)
    args = (means, torch.zeros(size, SIZE), source.labels, source.label_names, names)
    space = codes.space_of(*args, [f"{first}: {second}"])
    rows = [[row for row, name in enumerate(names) if f" {words} " in f" {name} "] for words in (first, second)]
    wanted = means[rows[1]].mean(0) - means[rows[0]].mean(0)
    torch.testing.assert_close(space.direction(f"{first} → {second}"), wanted)
    with pytest.raises(SystemExit, match="no training picture is called 'nowhere'"):
        codes.space_of(*args, ["nowhere:face"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"deterministic": True}, "has no bound"),
        ({"observation_std": 0}, "observation_std"),
        ({"sparsity": 1.0}, "sparsity"),
        ({"k_sparse": 0}, "k_sparse"),
        ({"contraction": math.inf}, "contraction"),
        ({"corruption_std": -1}, "corruption_std"),
        ({"directions": ("smile",)}, "words of names"),
    ],
)
def test_a_config_that_no_run_can_use_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(VECTOR, **changes)


@pytest.mark.parametrize("name", ["vae-32", "plain-32"])
def test_the_shipped_presets_fit_their_place(name):
    cfg = script.PRESETS[name]
    vae = script.model.create_vae(cfg)
    assert sum(p.numel() for p in vae.parameters()) * 2 <= 4 << 20
    assert autoencoder.Autoencoder(vae).latent_shape == (cfg.latent_channels, 1, 1)


# ---- how a run begins ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "stride", "pad", "side"), [(3, 1, 1, 1), (3, 1, 1, 2), (3, 2, 0, 4), (1, 1, 0, 3)])
def test_taps_are_those_that_do_not_fall_beside_the_picture(kernel, stride, pad, side):
    layer = torch.nn.Conv2d(1, 1, kernel, stride, pad, bias=False)
    torch.nn.init.ones_(layer.weight)
    picture = torch.ones(1, 1, side, side)
    picture = torch.nn.functional.pad(picture, (0, 1, 0, 1)) if stride == 2 else picture  # as Downsample2D does
    counted = layer(picture)
    assert start.taps_inside(layer, picture.shape[-1], counted.shape[-1]) == pytest.approx(counted.mean().item())


def test_a_picture_gets_through_a_fresh_network_to_its_vector_and_back():
    torch.manual_seed(0)
    cfg = script.PRESETS["vae-32"]
    vae = script.model.create_vae(cfg)
    means = vae.encode(torch.randn(64, 3, 32, 32)).latent_dist
    assert 0.3 < means.mean.std(0).mean() < 3 and means.std.mean() < 0.5, "a signal, and less noise"
    decoded = vae.decode(torch.randn(64, cfg.latent_channels, 1, 1)).sample
    assert 0.02 < decoded.std(0).mean() < 0.3, "grey, and of each vector another"
    stock = script.model.create_vae(dataclasses.replace(cfg, crop_px=64, resolution=64))
    assert stock.encode(torch.randn(64, 3, 32, 32)).latent_dist.mean.std(0).mean() < 0.1, "without it there is none"
