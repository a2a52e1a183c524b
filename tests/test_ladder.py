"""hub_models/ladder.py and training/ladder.py against closed forms, torch.distributions, and themselves drawn alone."""

import dataclasses
import json
import math

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from hub_models import ladder, store
from hub_models.ladder import Gaussian
from training import ladder as script
from training import likelihood

LABELS = ["a", "b"]


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> ladder.Ladder:
    folder = tiny_models.ladder_folder(tmp_path_factory.mktemp("ladder"))
    return ladder.load(str(folder), "cpu")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(256, size=(16, 16, 3), dtype=np.uint8)) for _ in range(3)]


def gaussian(*shape: int, seed: int = 0) -> Gaussian:
    draw = torch.Generator().manual_seed(seed)
    return Gaussian(*torch.randn(2, *shape, generator=draw))


def normal(of: Gaussian) -> Normal:
    return Normal(of.mean, (0.5 * of.logvar).exp())


# --- the two levels --------------------------------------------------------------------------------------------------


def test_what_is_merged_is_the_product_of_both():
    """Of densities, up to one constant: log q̂(z) + log p(z) - log q(z) is the same for every z."""
    seen, expected = gaussian(5), gaussian(5, seed=1)
    made = ladder.merged(seen, expected)
    z = torch.linspace(-3, 3, 7)[:, None].expand(7, 5)
    left = normal(seen).log_prob(z) + normal(expected).log_prob(z) - normal(made).log_prob(z)
    torch.testing.assert_close(left, left[:1].expand(7, 5), rtol=0, atol=1e-4)
    precisions = [(-one.logvar).exp() for one in (seen, expected)]
    torch.testing.assert_close((-made.logvar).exp(), sum(precisions))
    weighted = seen.mean * precisions[0] + expected.mean * precisions[1]
    torch.testing.assert_close(made.mean, weighted / sum(precisions))


def test_one_who_knows_nothing_or_everything():
    expected = gaussian(4)
    vague, sure = (Gaussian(torch.full((4,), 9.0), torch.full((4,), size)) for size in (60.0, -60.0))
    for mine, of in ((ladder.merged(vague, expected), expected), (ladder.merged(sure, expected), sure)):
        torch.testing.assert_close(mine.mean, of.mean)
        torch.testing.assert_close(mine.logvar, of.logvar)


def test_divergence_is_that_of_torch():
    q, p = gaussian(3, 2, 4, 4), gaussian(3, 2, 4, 4, seed=1)
    found = kl_divergence(Independent(normal(q), 3), Independent(normal(p), 3))
    torch.testing.assert_close(ladder.divergence(q, p), found)
    assert ladder.divergence(q, q).abs().max() < 1e-5


def test_noise_is_what_a_draw_was_made_of():
    one, noise = gaussian(6), torch.randn(6)
    torch.testing.assert_close(one.noise_of(one.at(noise)), noise)
    many = one.at(torch.randn(40_000, 6, generator=torch.Generator().manual_seed(3)))
    torch.testing.assert_close(many.mean(0), one.mean, rtol=0, atol=0.05)
    torch.testing.assert_close(many.var(0).log(), one.logvar, rtol=0, atol=0.05)


def test_the_bound_of_a_linear_ladder_is_the_evidence():
    """z₂ ~ N(0, 1), z₁ ~ N(a z₂, s), x ~ N(z₁, t): with the true posterior, merged, the bound is log p(x) for any x.

    p(x) = N(0, a² + s + t). The posterior of z₁ given z₂ and x is the merger of N(x, t), which is what is seen, with
    N(a z₂, s); that of z₂ is of x = a z₂ + noise of variance s + t. By Gauss and Hermite's quadrature.
    """
    a, s, t = 0.8, 0.5, 0.3
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    z, w = torch.tensor(nodes), torch.tensor(weights / weights.sum())
    for x in (-1.3, 0.0, 2.1):
        variance = 1 / (1 + a**2 / (s + t))
        top = Gaussian(torch.tensor([[variance * a * x / (s + t)]]).double(), torch.tensor([[variance]]).log().double())
        draws = top.at(z[:, None])  # (12, 1)
        prior = Gaussian(a * draws, torch.full_like(draws, math.log(s)))
        lower = ladder.merged(Gaussian(torch.full_like(draws, x), torch.full_like(draws, math.log(t))), prior)
        surprise = 0.5 * (((x - lower.mean) ** 2 + lower.logvar.exp()) / t + math.log(2 * math.pi * t))[:, 0]
        kl_top = ladder.divergence(top, Gaussian(torch.zeros(1, 1).double(), torch.zeros(1, 1).double()))
        nats = (w * (surprise + ladder.divergence(lower, prior))).sum() + kl_top[0]
        evidence = Normal(0.0, (a**2 + s + t) ** 0.5).log_prob(torch.tensor(x)).item()
        assert -nats.item() == pytest.approx(evidence, abs=1e-6)
        worse = ladder.divergence(Gaussian(top.mean + 0.5, top.logvar), Gaussian(top.mean, top.logvar))
        assert worse.item() > 0


def test_a_linear_ladder_draws_what_its_gaussians_say():
    """Moments of z₂ and of z₁ = a z₂ + … by `at`, as `sample` draws them, against the joint Gaussian's."""
    noise = torch.randn(2, 50_000, 1, generator=torch.Generator().manual_seed(5))
    top = Gaussian(torch.tensor([[1.0]]), torch.tensor([[math.log(2.0)]])).at(noise[0])
    lower = Gaussian(0.8 * top, torch.full_like(top, math.log(0.5))).at(noise[1])
    joint = MultivariateNormal(torch.tensor([1.0, 0.8]), torch.tensor([[2.0, 1.6], [1.6, 1.78]]))
    drawn = torch.cat([top, lower], 1)
    torch.testing.assert_close(drawn.mean(0), joint.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.T.cov(), joint.covariance_matrix, rtol=0, atol=0.06)


# --- what is trained -------------------------------------------------------------------------------------------------


def test_the_loss_is_the_negative_bound_and_says_each_level(ours):
    model, draw = ours.model, torch.Generator().manual_seed(0)
    batch = {"picture": torch.rand(3, 3, 16, 16, generator=draw) * 2 - 1, "label": torch.tensor([0, 1, 1]),
             "noise": torch.randn(3, model.noise_dim, generator=draw)}  # fmt: skip
    player = script.WarmedUp(model, 0)
    with torch.no_grad():
        loss, parts = script.negative_bound(batch["picture"], *player(batch))
        passed = model(batch["picture"], batch["noise"])
    z_top, noise = passed.top.at(batch["noise"][:, :4]), batch["noise"][:, 4:].view(3, *model.lower_shape)
    features, prior = model.expect(z_top)
    torch.testing.assert_close(passed.lower_prior.mean, prior.mean)
    torch.testing.assert_close(passed.pixels, model.decode(features, passed.lower.at(noise)))
    classes = model.prior.weight[batch["label"]]
    top = kl_divergence(normal(passed.top), Normal(classes[:, :4], (0.5 * classes[:, 4:]).exp())).sum(1).mean()
    lower = kl_divergence(normal(passed.lower), normal(passed.lower_prior)).sum((1, 2, 3)).mean()
    assert [parts["kl_top"].item(), parts["kl_lower"].item()] == pytest.approx([top.item(), lower.item()], rel=1e-4)
    std = (passed.pixels - batch["picture"]).square().mean().sqrt()
    surprise = -Normal(passed.pixels, std).log_prob(batch["picture"]).mean()
    assert loss.item() == pytest.approx((surprise + (top + lower) / 768).item(), rel=1e-5)
    assert parts["bits_per_dim"].item() == pytest.approx(loss.item() / math.log(2) + math.log2(255 / 2))


def test_warm_up_is_counted_in_the_checkpoint_and_weighs_the_divergence_alone(ours):
    player, picture = script.WarmedUp(ours.model, 4), torch.zeros(1, 3, 16, 16)
    batch = {"picture": picture, "label": torch.tensor([0]), "noise": torch.zeros(1, ours.model.noise_dim)}
    with torch.no_grad():
        made = [player(batch) for _ in range(6)]
    assert [one[3] for one in made] == [0.25, 0.5, 0.75, 1, 1, 1]
    again = script.WarmedUp(ours.model, 4)
    again.load_state_dict(player.state_dict())
    assert again(batch)[3] == 1 and script.WarmedUp(ours.model, 0)(batch)[3] == 1
    (half, parts), (whole, same) = (script.negative_bound(picture, *made[0][:3], weight) for weight in (0.5, 1.0))
    kl = (parts["kl_top"] + parts["kl_lower"]).item() / 768
    assert kl > 0 and (whole - half).item() == pytest.approx(kl / 2, rel=1e-3)
    assert parts["bits_per_dim"] == same["bits_per_dim"]


def test_bits_of_held_out_pictures_have_the_labels_nats_and_the_models_deviation(ours):
    x, labels = torch.rand(70, 3, 16, 16) * 2 - 1, np.arange(70) % 2
    costs, rmse = script.bound_of(ours, x, labels)
    noise = torch.randn(64, ours.model.noise_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        passed = ours.model(x[:64], noise)
        first = script.bound_of(ours, x[:64], labels[:64])[0]
        kls = [one.mean() for one in script.divergences(ours.model, passed, torch.from_numpy(labels[:64]))]
    nats = -Normal(passed.pixels, 0.2).log_prob(x[:64]).mean() + (sum(kls) + math.log(2)) / 768
    assert first["bits_per_dim"] == pytest.approx(nats.item() / math.log(2) + math.log2(127.5), rel=1e-4)
    assert first["kl_top"] == pytest.approx(kls[0].item(), rel=1e-4)
    assert costs != first and rmse > 0.3
    free = ladder.Ladder(script.rebuilt(ours.model, observation_std=None))
    best = script.bound_of(free, x, labels)[0]["bits_per_dim"]
    assert best < costs["bits_per_dim"]
    known = ladder.Ladder(script.rebuilt(ours.model, observation_std=rmse))
    assert script.bound_of(known, x, labels)[0]["bits_per_dim"] == pytest.approx(best)


def test_pixels_apart_cost_what_their_gaussians_do():
    x = np.random.default_rng(0).normal(120, 20, (4000, 2, 2, 3)).clip(0, 255).round().astype(np.uint8)
    entropy = 0.5 * math.log2(2 * math.pi * math.e * 20**2)  # of bytes, so fine that a sum is an integral
    assert likelihood.bits_of_pixels_apart(x) == pytest.approx(entropy, abs=0.01)


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_a_picture_depends_on_its_own_seed_and_label_alone(ours):
    together = ours.sample(["b", 1, "b", "a"], [5, 2**63 - 1, 5, 5])
    alone = ours.sample([1], [5])
    assert alone.shape == (1, 3, 16, 16) and alone.abs().max() <= 1
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(together[2:3], alone, rtol=0, atol=1e-5)
    assert all((together[0] - together[row]).abs().max() > 0.01 for row in (1, 3))


def test_reconstructions_are_of_the_means_and_a_walk_ends_there(ours, pictures):
    back = ours.reconstruct(pictures)
    top, seen = ours.model.encode(ours.preprocess(pictures))
    features, prior = ours.model.expect(top.mean)
    expected = ours.model.decode(features, ladder.merged(seen, prior).mean).clamp(-1, 1)
    torch.testing.assert_close(back, expected)
    walk = ours.walk(*pictures[:2], steps=5)
    assert walk.shape == (5, 3, 16, 16)
    torch.testing.assert_close(walk[[0, -1]], back[:2], rtol=0, atol=1e-4)
    assert min((walk[2] - end).abs().max() for end in walk[[0, -1]]) > 0.01


def test_levels_keep_the_top_and_draw_the_lower_one_anew(ours, pictures):
    levels = ours.levels(pictures[0], seeds=[3, 4, 3])
    torch.testing.assert_close(levels.both, ours.reconstruct(pictures[:1])[0])
    assert levels.top_alone.shape == (3, 3, 16, 16)
    assert torch.equal(levels.top_alone[0], levels.top_alone[2])
    assert not torch.allclose(levels.top_alone[0], levels.top_alone[1], atol=1e-3)
    features, prior = ours.model.expect(ours.model.encode(ours.preprocess(pictures[:1]))[0].mean)
    noise = torch.randn(1, ours.model.noise_dim, generator=torch.Generator().manual_seed(3))[:, 4:]
    z = prior.mean + (0.5 * prior.logvar).exp() * noise.view(1, *ours.model.lower_shape)
    for made, lower in ((levels.top_alone[:1], z), (ours.reconstruct_tensor(ours.preprocess(pictures[:1]),
                                                                           top_alone=True), prior.mean)):  # fmt: skip
        torch.testing.assert_close(made, ours.model.decode(features, lower).clamp(-1, 1), rtol=0, atol=1e-5)
    other = ours.levels(pictures[1], seeds=[3]).top_alone[0]
    assert not torch.allclose(other, levels.top_alone[0], atol=1e-3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda ours: ours.sample(["a"], [1, 2]), "1 labels for 2 seeds"),
        (lambda ours: ours.sample([], []), "0 labels"),
        (lambda ours: ours.sample(["moon"], [1]), "choose a number from 0 to 1, or one of a, b"),
        (lambda ours: ours.sample([None], [1]), "no null label"),
        (lambda ours: ours.sample(["a"], [-1]), "seed -1"),
        (lambda ours: ours.walk(*[Image.new("RGB", (4, 4))] * 2, steps=1), "steps 1 is not an integer from 2"),
        (lambda ours: ours.levels(Image.new("RGB", (4, 4)), seeds=[0.5]), "seed 0.5"),
        (lambda ours: ladder.LadderVAE(16, [8], 4, 2, LABELS), "a list of 2 to 8 numbers"),
        (lambda ours: ladder.LadderVAE(16, [8, 12], 4, 2, LABELS), "multiples of 8"),
        (lambda ours: ladder.LadderVAE(18, [8, 8, 8], 4, 2, LABELS), "no multiple of 4"),
        (lambda ours: ladder.LadderVAE(16, [8, 8], 4, 2, []), "not a list of text"),
        (lambda ours: ladder.LadderVAE(16, [8, 8], 4, 2, LABELS, 0.0), "no number above 0"),
    ],
)
def test_what_is_refused_in_a_sentence(ours, call, words):
    with pytest.raises(ValueError, match=words):
        call(ours)


# --- folders ---------------------------------------------------------------------------------------------------------


def test_what_was_saved_draws_the_same_and_a_wrong_config_is_refused(ours, tmp_path):
    ladder.save_folder(tmp_path, ours)
    served = ladder.load(str(tmp_path), "cpu")
    assert (served.label_names, served.resolution_px, served.parameters) == (LABELS, 16, ours.parameters)
    assert served.model.observation_std == 0.2
    assert torch.equal(served.sample(["a"], [3]), ours.sample(["a"], [3]))
    config = json.loads((tmp_path / "config.json").read_text())
    for wrong, words in (({"top_dim": 8}, "disagree"), ({"channels": 8}, "a list of"), ({"label_names": ["a"]}, "dis")):
        (tmp_path / "config.json").write_text(json.dumps(config | wrong))
        with pytest.raises(store.CheckpointError, match=words):
            ladder.load(str(tmp_path))


def test_other_labels_leave_all_but_the_priors(tmp_path, capsys):
    folder = str(tiny_models.ladder_folder(tmp_path))
    cfg = dataclasses.replace(script.PRESETS["tiny"], pretrained_model_name_or_path=folder)
    made, old = script.start_from(cfg, ["x", "y", "z"]), ladder.load(folder, "cpu").model
    assert "labels differ" in capsys.readouterr().out
    assert made.training and all(p.requires_grad for p in made.parameters()) and made.label_names == ["x", "y", "z"]
    theirs = old.state_dict()
    for name, value in made.state_dict().items():
        assert value.shape[0] == 3 if name == "prior.weight" else torch.equal(value, theirs[name])
    with pytest.raises(SystemExit, match="draws 16 px"):
        script.start_from(dataclasses.replace(cfg, resolution=32), LABELS)


@pytest.mark.parametrize("changed", [{"resolution": 18}, {"channels": (16,)}, {"top_dim": 0}, {"kl_warmup_steps": -1}])
def test_a_config_that_no_run_can_use(changed):
    with pytest.raises(ValueError, match="--(channels|top_dim|kl_warmup_steps)|at least 1"):
        dataclasses.replace(script.PRESETS["tiny"], **changed)
