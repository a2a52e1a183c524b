"""hub_models/gan.py and training/gan.py against closed forms, the papers' own formulas, and themselves drawn alone."""

import dataclasses
import json
import math

import numpy as np
import pytest
import tiny_models
import torch
import torch.nn.functional as F

from hub_models import drawing, gan, store
from training import gan as script

LABELS = ["circle", "square", "star"]
KINDS = ("dcgan", "style")
P, Q = [1 / 2, 1 / 4, 1 / 4, 0], [1 / 8, 1 / 4, 1 / 8, 1 / 2]  # real and drawn, over four outcomes
REAL, DRAWN = [0, 0, 0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 3, 3, 3, 3]  # eight of either in these shares


def model(kind: str = "style", *, noisy: bool = True) -> gan.GAN:
    """A random model of 16 px, its noise inputs strong enough to be seen."""
    torch.manual_seed(0)
    generator = gan.Generator(kind, [16, 16, 8], 8, LABELS).eval()
    for layer in generator.modules():
        if isinstance(layer, gan.StyledLayer) and noisy:
            torch.nn.init.constant_(layer.strength, 0.5)
    return gan.GAN(generator, gan.Discriminator([16, 16, 8], 3).eval(), name="tiny", weights_sha256="0" * 64)


# --- the game --------------------------------------------------------------------------------------------------------


def divergence(p: list[float], q: list[float]) -> float:
    """Jensen and Shannon's, in nats."""

    def kl(a, b):
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x)

    middle = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    return (kl(p, middle) + kl(q, middle)) / 2


@pytest.mark.parametrize("loss", ["minimax", "non-saturating"])
def test_the_best_discriminator_measures_the_divergence_of_two_distributions(loss):
    """Goodfellow et al. 2014, proposition 1 and theorem 1: it is p / (p + q), and is worth 2 JSD - log 4."""
    logits = torch.tensor([math.log(p / q) if p else -60.0 for p, q in zip(P, Q, strict=True)], requires_grad=True)
    value = -script.discriminator_loss(loss, logits[REAL], logits[DRAWN])
    assert value.item() == pytest.approx(2 * divergence(P, Q) - math.log(4), abs=1e-6)
    [gradient] = torch.autograd.grad(value, logits)
    assert gradient.abs().max() < 1e-6
    learned = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([learned], lr=0.1)
    for _ in range(600):
        optimizer.zero_grad()
        script.discriminator_loss(loss, learned[REAL], learned[DRAWN]).backward()
        optimizer.step()
    torch.testing.assert_close(learned[:3].sigmoid(), logits[:3].sigmoid(), rtol=0, atol=1e-3)
    assert learned[3].sigmoid() < 0.01


@pytest.mark.parametrize("loss", ["minimax", "non-saturating", "relativistic"])
def test_who_cannot_tell_gains_nothing(loss):
    same = torch.zeros(8)
    assert script.discriminator_loss(loss, same, same).item() == pytest.approx(
        math.log(2) if loss == "relativistic" else math.log(4)
    )


@pytest.mark.parametrize(
    ("loss", "slope"),
    [
        ("minimax", lambda real, drawn: -drawn.sigmoid()),  # of log(1 - D): nothing where D is sure
        ("non-saturating", lambda real, drawn: drawn.sigmoid() - 1),
        ("relativistic", lambda real, drawn: (drawn - real).sigmoid() - 1),
    ],
)
def test_what_the_generator_learns_from_a_logit(loss, slope):
    real, drawn = torch.tensor([2.0, -1.0]), torch.tensor([-8.0, 3.0], requires_grad=True)
    [gradient] = torch.autograd.grad(script.generator_loss(loss, real, drawn) * 2, drawn)
    torch.testing.assert_close(gradient, slope(real, drawn.detach()))


def test_the_penalty_is_of_each_picture_alone_and_of_a_plane_its_slope():
    x = torch.randn(4, 3, 8, 8, requires_grad=True)
    slope = torch.randn(3 * 8 * 8)
    torch.testing.assert_close(
        script.zero_centred_penalty(x.flatten(1) @ slope, x), slope.square().sum().expand(4), rtol=1e-5, atol=0
    )
    discriminator, label = model().discriminator, torch.tensor([0, 1, 2, 0])
    x = torch.randn(4, 3, 16, 16, requires_grad=True)
    together = script.zero_centred_penalty(discriminator(x, label), x)
    for row in range(4):
        alone = x.detach()[row : row + 1].requires_grad_()
        [one] = script.zero_centred_penalty(discriminator(alone, label[row : row + 1]), alone)
        torch.testing.assert_close(one, together[row], rtol=1e-4, atol=1e-6)


def test_the_penalty_is_differentiated_a_second_time():
    """By central differences in a weight; in bf16 the loop's autocast gives the same direction."""
    torch.manual_seed(0)
    discriminator, label = gan.Discriminator([16, 8], 3).double(), torch.tensor([0, 1])
    x, weight = torch.randn(2, 3, 8, 8, dtype=torch.double, requires_grad=True), discriminator.layers[1].weight

    def penalty(module, x):
        return script.zero_centred_penalty(module(x, label), x).double().sum()

    [gradient] = torch.autograd.grad(penalty(discriminator, x), weight)
    step = torch.randn(weight.shape, dtype=torch.double)
    values = []
    for sign in (1, -1):
        weight.data += sign * 1e-4 * step
        values.append(penalty(discriminator, x).item())
        weight.data -= sign * 1e-4 * step
    assert (gradient * step).sum().item() == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-2)
    single, x = discriminator.float(), x.detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        rough = penalty(single, x)
    [half] = torch.autograd.grad(rough, single.layers[1].weight)
    assert F.cosine_similarity(half.flatten().double(), gradient.flatten(), dim=0) > 0.99


def test_pictures_are_shifted_on_white_and_each_by_itself(monkeypatch):
    real_rand, x = torch.rand, torch.rand(16, 3, 16, 16) * 2 - 1
    monkeypatch.setattr(torch, "rand", lambda *size, **how: torch.full(size, 0.5))  # colours stay as they are
    seen = script.augmented(x)
    wide, places = F.pad(x, [2] * 4, value=1.0), set()
    for one, whole in zip(seen, wide, strict=True):
        shifts = [(y, x) for y in range(5) for x in range(5)
                  if torch.allclose(whole[:, y : y + 16, x : x + 16], one, atol=1e-6)]  # fmt: skip
        assert len(shifts) == 1
        places |= set(shifts)
    assert len(places) > 5
    monkeypatch.setattr(torch, "rand", real_rand)
    grey = torch.zeros(2, 3, 16, 16, requires_grad=True)
    seen = script.augmented(grey)
    assert seen.shape == grey.shape and not torch.allclose(seen[0, :, 8, 8], seen[1, :, 8, 8])  # brighter or darker
    [gradient] = torch.autograd.grad(seen.sum(), grey)
    assert gradient.abs().sum() > 0


def test_each_player_learns_against_the_other():
    served = model()
    cfg = dataclasses.replace(script.PRESETS["tiny"], augment=False)
    generator, discriminator = script.players_of(cfg, served.model, served.discriminator)
    batch = {
        "picture": torch.rand(4, 3, 16, 16),
        "noise": served.latents(range(4)),
        "label": torch.tensor([0, 1, 2, 0]),
    }
    loss, _ = generator.loss(generator.module, batch)
    z, noise = batch["noise"].split([8, served.model.noise_dim], 1)
    made = served.model(z, noise, batch["label"])
    real, drawn = (served.discriminator(x, batch["label"]) for x in (batch["picture"], made))
    torch.testing.assert_close(loss, F.softplus(real - drawn).mean())
    loss.backward()
    assert all(p.grad is not None for p in served.model.parameters())
    loss, numbers = discriminator.loss(discriminator.module, batch)
    slopes = []
    for x in (batch["picture"], made.detach()):
        x.requires_grad_()
        [slope] = torch.autograd.grad(served.discriminator(x, batch["label"]).sum(), x)
        slopes.append(slope.square().sum((1, 2, 3)).mean())
    assert [numbers["r1"], numbers["r2"]] == pytest.approx([slope.item() for slope in slopes], rel=1e-4)
    torch.testing.assert_close(loss, F.softplus(drawn - real).mean() + 0.25 * sum(slopes), rtol=1e-4, atol=1e-5)
    assert numbers["told_apart"] == (real > drawn).float().mean()
    bare = script.players_of(dataclasses.replace(cfg, gradient_penalty=0.0), served.model, served.discriminator)[1]
    torch.testing.assert_close(bare.loss(bare.module, batch)[0], F.softplus(drawn - real).mean())


# --- drawing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("demodulate", [True, False])
def test_a_modulated_convolution_is_that_of_karras_2020(demodulate):
    torch.manual_seed(0)
    layer = gan.ModulatedConv(6, 4, 3, 5, demodulate=demodulate)
    x, w = torch.randn(3, 6, 8, 8), torch.randn(3, 5)
    for row, style in enumerate(layer.style(w)):
        weight = layer.weight * style[None, :, None, None]  # eq. 1
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()  # eq. 3
        expected = F.conv2d(x[row : row + 1], weight, layer.bias, padding=1)
        torch.testing.assert_close(layer(x, w)[row : row + 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_depends_on_its_own_seed_and_label_alone(kind):
    ours = model(kind)
    seeds, labels = [5, 2**63 - 1, 5, 5], ["star", 1, "star", "circle"]
    together = [np.asarray(picture).astype(int) for picture in ours.draw(labels, seeds)]
    [alone] = ours.draw([2], [5])
    assert alone.size == (16, 16) and alone.mode == "RGB"
    assert np.abs(together[0] - np.asarray(alone)).max() <= 1 and np.abs(together[0] - together[2]).max() <= 1
    assert np.abs(together[0] - together[1]).max() > 1 and np.abs(together[0] - together[3]).max() > 1


@pytest.mark.parametrize("kind", KINDS)
def test_truncation_goes_to_the_middle_of_a_label(kind):
    ours = model(kind, noisy=False)
    pixels = {psi: ours.paint(ours.latents([1, 2, 3]), [0, 0, 1], psi) for psi in (0, 0.5, 1)}
    torch.testing.assert_close(pixels[0][0], pixels[0][1])
    assert not torch.allclose(pixels[0][0], pixels[0][2], atol=1e-3)
    apart = [(pixels[psi][0] - pixels[psi][1]).square().mean() for psi in (0, 0.5, 1)]
    assert apart[0] < apart[1] < apart[2]
    z, noise = ours.latents([1, 2, 3]).split([8, ours.model.noise_dim], 1)
    torch.testing.assert_close(pixels[1], ours.model(z, noise, torch.tensor([0, 0, 1])).clamp(-1, 1))
    label = torch.tensor([2])
    many = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(9))
    mean = ours.model.styles(many, label.expand(len(many))).mean(0)
    torch.testing.assert_close(ours.model.centre(label)[0], mean, rtol=0, atol=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_a_walk_goes_from_one_picture_to_the_other(kind):
    ours = model(kind)
    walk = [np.asarray(picture).astype(int) for picture in ours.walk(3, 4, "star", 5)]
    ends = [np.asarray(picture).astype(int) for picture in ours.draw(["star"] * 2, [3, 4])]
    assert len(walk) == 5
    assert np.abs(walk[0] - ends[0]).max() <= 1 and np.abs(walk[-1] - ends[1]).max() <= 1
    assert np.abs(walk[2] - ends[0]).max() > 1 and np.abs(walk[2] - ends[1]).max() > 1


def test_a_great_circle():
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    way = gan.slerp(a, b, torch.tensor([[0.0], [1 / 3], [1.0]]))
    torch.testing.assert_close(way, torch.tensor([[2.0, 0.0], [3**0.5, 1.0], [0.0, 2.0]]))
    torch.testing.assert_close(gan.slerp(a, a, torch.tensor([[0.5]])), a[None])
    assert gan.slerp(a[:0], b[:0], torch.tensor([[0.5]])).shape == (1, 0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda ours: ours.draw(["star"], [1, 2]), "1 labels for 2 seeds"),
        (lambda ours: ours.draw([], []), "0 labels"),
        (lambda ours: ours.draw(["moon"], [1]), "choose a number from 0 to 2, or one of circle, square, star"),
        (lambda ours: ours.draw([None], [1]), "no null label"),
        (lambda ours: ours.draw([0], [-1]), "seed -1"),
        (lambda ours: ours.draw([0], [1], truncation=1.5), "from 0 to 1"),
        (lambda ours: ours.draw([0], [1], truncation=math.nan), "from 0 to 1"),
        (lambda ours: ours.walk(1, 2, 0, 1), "steps 1 is not an integer from 2"),
        (lambda ours: gan.GAN(ours.model, name="bare").tell([], []), "bare comes without its discriminator"),
        (lambda ours: gan.Generator("pix2pix", [8], 4, LABELS), "choose one of dcgan, style"),
        (lambda ours: gan.Discriminator([8, 12], 3), "multiples of 8"),
    ],
)
def test_what_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call(model())


def test_a_receipt_draws_its_picture_again():
    ours = model()
    receipt = json.loads(json.dumps(ours.receipt(["star"], [7], truncation=0.5)))
    assert drawing.altered_fields(receipt) == [] and receipt["labels"] == ["star"] and receipt["size"] == [16, 16]
    [picture] = ours.draw(["star"], [7], truncation=0.5)

    def again():
        return ours.draw(receipt["labels"], list(map(int, receipt["seeds"])), truncation=receipt["truncation"])[0]

    said = drawing.verify(receipt, picture, again, weights_sha256=ours.weights_sha256, device=ours.device)
    assert said == drawing.Verdict("identical", ())
    assert drawing.altered_fields(receipt | {"truncation": 1.0}) == ["truncation"]


# --- folders and scores ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_draws_and_tells_the_same(kind, tmp_path):
    ours = model(kind)
    gan.save_folder(tmp_path / "whole", ours)
    served = gan.load(str(tmp_path / "whole"), "cpu")
    assert served.label_names == LABELS and served.resolution_px == 16 and served.parameters == ours.parameters
    [mine], [theirs] = (each.draw(["square"], [3]) for each in (ours, served))
    assert mine.tobytes() == theirs.tobytes()
    np.testing.assert_allclose(ours.tell([mine, mine], [0, 1]), served.tell([theirs, theirs], [0, 1]), atol=1e-6)
    told = ours.discriminator(torch.tensor(np.asarray(mine)).permute(2, 0, 1)[None] / 127.5 - 1, torch.tensor([1]))
    assert ours.tell([mine], ["square"]) == pytest.approx(told.item(), abs=1e-5)
    gan.save_folder(tmp_path / "bare", gan.GAN(ours.model))
    assert gan.load(str(tmp_path / "bare"), "cpu").discriminator is None


def test_players_that_do_not_fit_are_refused(tmp_path):
    gan.save_folder(tmp_path, gan.GAN(model().model, gan.Discriminator([16, 16, 8], 4)))
    with pytest.raises(store.CheckpointError, match="reads 16 px and 4 labels, the generator draws 16 px and 3:"):
        gan.load(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    for wrong, words in (({"kind": "x"}, "choose one of"), ({"z_dim": 16}, "disagree"), ({"channels": 8}, "a list of")):
        (tmp_path / "config.json").write_text(json.dumps(config | wrong))
        with pytest.raises(store.CheckpointError, match=words):
            gan.load(str(tmp_path))


def test_told_apart_counts_pairs():
    ours = model()
    real, labels = torch.rand(70, 3, 16, 16), np.arange(70) % 3
    drawn = torch.rand(70, 3, 16, 16)
    mine, theirs = (ours.discriminator(x, torch.from_numpy(labels)) for x in (real, drawn))
    assert 0 < script.told_apart(ours, real, drawn, labels) == (mine > theirs).sum().item() / 70 < 1
    assert script.told_apart(ours, real, real, labels) == 0


def test_other_labels_leave_all_but_the_embedding(tmp_path, capsys):
    gan.save_folder(tmp_path, model())
    cfg = dataclasses.replace(script.PRESETS["tiny"], pretrained_model_name_or_path=str(tmp_path))
    generator, discriminator = script.start_from(cfg, ["a", "b"])
    assert "labels differ" in capsys.readouterr().out
    assert generator.label_names == ["a", "b"] and discriminator.reads == (16, 2)
    for new, old in ((generator, model().model), (discriminator, model().discriminator)):
        assert all(p.requires_grad for p in new.parameters()) and new.training
        assert new.embedding.weight.shape[0] == 2
        theirs = old.state_dict()
        for name, value in new.state_dict().items():
            assert name.startswith("embedding") or torch.equal(value, theirs[name])
    (tmp_path / "discriminator" / "config.json").unlink()
    (tmp_path / "discriminator" / "model.safetensors").unlink()
    (tmp_path / "discriminator").rmdir()
    script.start_from(cfg, LABELS)
    assert "no discriminator: a new one" in capsys.readouterr().out


@pytest.mark.parametrize("changed", [{"resolution": 32}, {"channels": (16, 8)}, {"gradient_penalty": -1.0}])
def test_a_config_that_no_run_can_use(changed):
    with pytest.raises(ValueError, match="--(discriminator_)?(channels|gradient_penalty)"):
        dataclasses.replace(script.PRESETS["tiny"], **changed)


def test_tiny_folders_are_of_either_kind(tmp_path):
    for kind in KINDS:
        assert gan.load(str(tiny_models.gan_folder(tmp_path / kind, kind=kind)), "cpu").label_names == ["a", "b"]
