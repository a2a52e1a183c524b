"""hub_models/energy.py on energies whose distribution is known; training/energy.py against its loss by hand."""

import dataclasses
import math

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch.nn import functional as F

from hub_models import energy, store
from training import energy as script
from training import metrics
from training.data.sources import open_source
from training.order import Order

TINY = dataclasses.replace(script.PRESETS["tiny"], cpu=True)
NAMES = ["a", "b"]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> energy.EnergyModel:
    """A random model, whose energies differ by picture and label."""
    return energy.load(str(tiny_models.energy_folder(tmp_path_factory.mktemp("energy"))), device="cpu")


def drawing(number: int) -> Image.Image:
    image = Image.new("RGB", (24, 20), "white")
    ImageDraw.Draw(image).ellipse((number, 2, number + 12, 16), fill=(40 * number % 256, 90, 200))
    return image


DRAWINGS = [drawing(number) for number in range(5)]


# ---- Langevin dynamics -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_size", [1e-4, 5e-3])
def test_chains_on_a_gaussians_energy_end_in_that_gaussian(step_size):
    """A step on (x - m)² / 2s² is linear: its chain's variance is 2h / (1 - (1 - h/s²)²), which tends to s² with h."""
    mean, std, chains = 0.2, 0.1, 20_000
    draw = torch.Generator().manual_seed(0)

    def known(x):
        return ((x - mean) ** 2 / (2 * std**2)).sum(1)

    steps = 3000 if step_size < 1e-3 else 60
    x = torch.full((chains, 1), -0.5)
    noise = math.sqrt(2 * step_size)
    *_, (last, _) = energy.langevin(
        known, x, lambda: torch.randn(x.shape, generator=draw), steps=steps, step_size=step_size, noise_std=noise
    )
    law = 2 * step_size / (1 - (1 - step_size / std**2) ** 2)
    assert last.mean().item() == pytest.approx(mean, abs=4 * law**0.5 / chains**0.5)
    assert last.var().item() == pytest.approx(law, rel=0.05)
    if step_size < 1e-3:
        assert last.std().item() == pytest.approx(std, rel=0.03)


def test_a_step_is_downhill_by_the_gradient_and_stays_in_the_range_of_pictures():
    x = torch.tensor([[0.5, -0.9], [0.0, 0.99]])
    states = list(
        energy.langevin(
            lambda x: x.square().sum(1) / 2, x, lambda: torch.ones_like(x), steps=2, step_size=0.5, noise_std=0.1
        )
    )
    torch.testing.assert_close(states[0][0], torch.tensor([[0.35, -0.35], [0.1, 0.595]]))
    torch.testing.assert_close(states[0][1], torch.tensor([0.53, 0.49005]))
    torch.testing.assert_close(states[1][1], states[0][0].square().sum(1) / 2)
    uphill = energy.langevin(lambda x: -x.sum(1), x, lambda: 0 * x, steps=1, step_size=9, noise_std=0)
    assert torch.equal(next(uphill)[0], torch.ones(2, 2))


def test_chains_move_inside_no_grad_and_leave_the_weights_without_gradients(served):
    network = energy.EnergyNetwork(2, 16, [4, 8], 1)
    x = torch.zeros(2, 3, 16, 16)
    with torch.no_grad():
        [(moved, _)] = energy.langevin(
            lambda x: energy.picture_energy(network(x)), x, lambda: 0 * x, steps=1, step_size=1.0, noise_std=0.0
        )
    assert not torch.equal(moved, x) and not moved.requires_grad
    assert all(p.grad is None for p in network.parameters())


def test_in_bf16_chains_go_the_same_way(served):
    x = energy.from_uint8(np.stack([np.asarray(one.resize((16, 16))) for one in DRAWINGS]))
    ways = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            [(moved, now)] = energy.langevin(
                lambda x: energy.picture_energy(served.model(x)), x, lambda: 0 * x, steps=1, step_size=1e-3, noise_std=0
            )
        assert moved.dtype == now.dtype == torch.float32
        ways.append((moved - x).flatten(1))
    assert F.cosine_similarity(*ways).min() > 0.99


# ---- the contract ----------------------------------------------------------------------------------------------------


def test_the_energy_of_a_picture_is_that_of_its_labels_together(served):
    """exp -E(x) = Σ_y exp -E(x, y), and their shares are the classifier's probabilities."""
    each = torch.stack([served.energy(DRAWINGS, [label] * 5) for label in NAMES], 1)  # (5, 2)
    whole = served.energy(DRAWINGS)
    torch.testing.assert_close((-whole).exp(), (-each).exp().sum(1))
    torch.testing.assert_close((whole[:, None] - each).exp(), served.outputs(DRAWINGS).softmax(1))
    assert whole.std() > 1e-3 and (each[:, 0] - each[:, 1]).abs().min() > 1e-3


def test_a_picture_is_of_its_seed_and_label_whatever_is_drawn_beside_it(served):
    labels, seeds = ["a", "b", 1, "a"], [5, 5, 2**63 - 1, 0]
    *_, together = served.sample(labels, seeds, steps=5)
    for row, (label, seed) in enumerate(zip(labels, seeds, strict=True)):
        *_, alone = served.sample([label], [seed], steps=5)
        torch.testing.assert_close(together.x[row], alone.x[0], rtol=0, atol=1e-5)
    assert (together.x[0] - together.x[1]).abs().max() > 1e-4, "another label, another way down"
    assert torch.equal(together.energy[1:2], served_energy(served, labels, seeds)[1:2])


def served_energy(served, labels, seeds) -> torch.Tensor:
    """E(x, y) of the states before the last."""
    *_, before, _ = served.sample(labels, seeds, steps=5)
    with torch.no_grad():
        return energy.label_energy(served.model(before.x), served.rows(labels))


def test_chains_yield_each_state_and_begin_where_one_says(served):
    states = list(served.sample(["a"], [1]))
    assert [(state.index, state.total) for state in states] == [(0, 3), (1, 3), (2, 3)]
    assert all(state.x.shape == (1, 3, 16, 16) and state.x.abs().max() <= 1 for state in states)
    [still] = served.sample(["a"], [1], steps=1, step_size=1e-12, noise_std=0, starts=[DRAWINGS[0]])
    torch.testing.assert_close(still.x, served.preprocess(DRAWINGS[:1]))
    assert served.to_pil(still.x)[0].size == (16, 16)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": ["c"]}, "label 'c' is unknown"),
        ({"labels": [None]}, "no null label"),
        ({"labels": []}, "0 labels for 1 seeds"),
        ({"seeds": [-1]}, "seed -1"),
        ({"steps": 0}, "steps 0"),
        ({"steps": energy.MAX_STEPS + 1}, "steps 2001"),
        ({"step_size": 0}, "step_size 0"),
        ({"noise_std": math.nan}, "noise_std nan"),
        ({"starts": []}, "0 pictures to begin at"),
    ],
)
def test_what_cannot_be_sampled_is_said_at_once(served, changes, words):
    with pytest.raises(ValueError, match=words):
        served.sample(**({"labels": ["a"], "seeds": [0]} | changes))


def test_an_anomaly_is_told_by_the_energies_of_training_pictures(served):
    energies = served.energy(DRAWINGS).double().numpy()
    known = np.linspace(energies.min() - 1, energies.max() + 1, 11)
    model = energy.EnergyModel(served.model, label_names=NAMES, energy_quantiles=known)
    told = model.anomaly(DRAWINGS)
    width = known[-1] - known[0]
    np.testing.assert_allclose(told.share_below, (energies - known[0]) / width)
    np.testing.assert_allclose(told.deviations, (energies - known[5]) / (0.34 * width))
    np.testing.assert_array_equal(told.energy, energies)
    model.energy_quantiles = [energies.min() - 2, energies.min() - 1]
    assert (model.anomaly(DRAWINGS).share_below == 1).all()
    model.energy_quantiles = None
    with pytest.raises(ValueError, match="export it again"):
        model.anomaly(DRAWINGS)
    with pytest.raises(ValueError, match="1 labels for 5 pictures"):
        model.energy(DRAWINGS, ["a"])


def test_a_folder_of_the_mixin_alone_opens_and_one_of_others_is_refused(served, tmp_path):
    served.model.save_pretrained(tmp_path / "bare")
    opened = energy.load(str(tmp_path / "bare"), device="cpu")
    assert opened.label_names == ["0", "1"] and opened.energy_quantiles is None
    assert torch.equal(opened.outputs(DRAWINGS), served.outputs(DRAWINGS))
    with pytest.raises(store.CheckpointError, match="this needs an energy-based model"):
        energy.load(str(tiny_models.autoencoder_folder(tmp_path / "vae")), device="cpu")


# ---- the training ----------------------------------------------------------------------------------------------------


def test_the_loss_by_hand():
    cfg = dataclasses.replace(TINY, regulariser_weight=0.5, label_weight=2.0)
    real, drawn = torch.tensor([[1.0, 0.0], [3.0, 3.0]]), torch.tensor([[0.5, 9.0], [9.0, 2.0]])
    loss, parts = script.contrastive_loss(real, drawn, torch.tensor([0, 1]), cfg)
    entropy = (math.log(1 + math.exp(-1)) + math.log(2)) / 2
    squares = ((1 + 0.25) + (9 + 4)) / 2
    assert parts["gap"].item() == pytest.approx(-0.75) and parts["cross_entropy"].item() == pytest.approx(entropy)
    assert loss.item() == pytest.approx(-0.75 + 0.5 * squares + 2 * entropy)
    assert parts["energy"].item() == -2


def batch_of(contrast: script.Contrast, slots: list[int], fresh: list[bool]) -> dict:
    count = len(slots)
    draw = torch.Generator().manual_seed(3)
    return {
        "picture": torch.randn(count, 3, 16, 16, generator=draw).clamp(-1, 1),
        "start": 2 * torch.rand(count, 3, 16, 16, generator=draw) - 1,
        "label": torch.tensor([0, 1] * (count // 2)),
        "slot": torch.tensor(slots),
        "fresh": torch.tensor(fresh),
        "chain_seed": torch.arange(count),
    }


@pytest.fixture
def contrast() -> script.Contrast:
    torch.manual_seed(1)
    cfg = dataclasses.replace(TINY, replay_size=8, langevin_steps=2, step_size=5.0)
    return script.Contrast(energy.EnergyNetwork(2, 16, [4, 8], 1), cfg)


def test_chains_go_on_where_the_buffer_has_them_and_come_to_rest_in_it(contrast):
    batch = batch_of(contrast, [0, 1, 2, 1], [False, False, True, False])
    before = contrast.replay.clone()
    ends = contrast.walk(batch)
    after = contrast.replay
    changed = (after != before).flatten(2).any(2).nonzero().tolist()
    assert sorted(changed) == [[0, 0], [0, 2], [1, 1]], "the places of these chains alone"
    kept = torch.stack([before[0, 0], before[1, 1], before[0, 2], before[1, 1]]).float() / 127.5 - 1
    begun = torch.where(batch["fresh"][:, None, None, None], batch["start"], kept)
    served = energy.EnergyModel(contrast.network, label_names=NAMES)
    again = begun
    for at in range(4):  # each by itself, by the contract's own sampler
        generators = [torch.Generator().manual_seed(at)]
        how = {"steps": 2, "step_size": 5.0, "noise_std": TINY.noise_std}
        *_, last = served._states(again[at : at + 1], batch["label"][at : at + 1], generators, how)
        torch.testing.assert_close(ends[at], last.x[0], rtol=0, atol=1e-5)
    assert (ends - begun).abs().max() > 0.01
    torch.testing.assert_close(after[1, 1].float() / 127.5 - 1, ends[3], rtol=0, atol=1 / 250)  # of two the later
    assert not torch.equal(ends[1], ends[3]), "two chains from one place have noise of their own"


def test_a_state_dict_holds_the_chains(contrast):
    """What was saved after one walk walks on as if nothing had been; without the buffer it would begin elsewhere."""
    batch = batch_of(contrast, [0, 1, 2, 3], [False] * 4)
    fresh = script.Contrast(energy.EnergyNetwork(2, 16, [4, 8], 1), contrast.cfg)
    contrast.walk(batch)
    fresh.load_state_dict(contrast.state_dict())
    assert torch.equal(fresh.walk(batch), contrast.walk(batch)) and torch.equal(fresh.replay, contrast.replay)
    fresh.load_state_dict(contrast.state_dict())
    fresh.replay.copy_(script.Contrast(contrast.network, contrast.cfg).replay)
    assert not torch.equal(fresh.walk(batch), contrast.walk(batch))


def test_the_gradient_is_that_of_the_energies_where_the_chains_ended(contrast):
    """No gradient goes through the chain: it is as of pictures that were given."""
    batch, cfg = batch_of(contrast, [0, 1, 2, 3], [False] * 4), contrast.cfg
    ends = contrast.walk(batch)  # the buffer has moved: the same walk again begins elsewhere
    contrast.replay[batch["label"], batch["slot"]] = 0
    walked = contrast.walk
    contrast.walk = lambda batch: ends
    loss, _ = script.contrastive_loss(*contrast(batch), batch["label"], cfg)
    given = torch.autograd.grad(loss, list(contrast.parameters()))
    contrast.walk = lambda batch: walked(batch)
    real, drawn = (contrast.network(x) for x in (batch["picture"], ends))
    by_hand = (real - drawn)[torch.arange(4), batch["label"]].mean().neg()
    squares = (real[torch.arange(4), batch["label"]] ** 2 + drawn[torch.arange(4), batch["label"]] ** 2).mean()
    by_hand = by_hand + cfg.regulariser_weight * squares + F.cross_entropy(real, batch["label"])
    wanted = torch.autograd.grad(by_hand, list(contrast.parameters()))
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert not contrast.walk(batch).requires_grad


def test_what_is_drawn_for_a_sample_is_of_its_place_alone():
    task = script.task_of(TINY)
    one, other = (Order(task.samples, TINY, torch.device("cpu"), 0, 1).first_batch() for _ in range(2))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert len(set(one["chain_seed"].tolist())) == TINY.train_batch_size
    assert one["slot"].max() < script.chains_per_label(TINY, 12) == 1


def test_an_export_knows_the_energies_and_not_the_chains(tmp_path):
    task = script.task_of(TINY)
    player = task.players[0].module
    made = task.finished(task.served(player.eval()))
    task.save(tmp_path, made)
    assert set(load_file(tmp_path / "model.safetensors")) == set(player.network.state_dict())
    assert "replay" in player.state_dict() and player.replay.dtype == torch.uint8
    opened = energy.load(str(tmp_path), device="cpu")
    assert opened.energy_quantiles == made.energy_quantiles == sorted(made.energy_quantiles)
    assert (opened.step_size, opened.noise_std, opened.steps) == (TINY.step_size, TINY.noise_std, TINY.sample_steps)
    train = open_source("emoji-sample", split="train", label_column="label")
    energies = opened.energy([train.picture(i) for i in range(len(train))]).numpy()
    np.testing.assert_allclose(
        np.quantile(energies, [0, 0.5, 1]), np.array(made.energy_quantiles)[[0, 50, 100]], atol=1e-3
    )


def test_other_labels_get_a_last_layer_of_their_own(tmp_path, capsys):
    folder = str(tiny_models.energy_folder(tmp_path / "base"))
    cfg = dataclasses.replace(TINY, pretrained_model_name_or_path=folder)
    network = script.start_from(cfg, ["x", "y", "z"])
    base = energy.load(folder, device="cpu").model
    assert network.head.out_features == 3 and torch.equal(network.stem.weight, base.stem.weight)
    assert "a new last layer for 3 labels" in capsys.readouterr().out
    assert torch.equal(script.start_from(cfg, NAMES).head.weight, base.head.weight)


@pytest.mark.parametrize(
    "changes",
    [
        {"block_out_channels": ()},
        {"block_out_channels": (8,) * 6},
        {"langevin_steps": 0},
        {"fresh_rate": 1.5},
        {"step_size": math.nan},
        {"shift_px": 16},
    ],
)
def test_a_config_that_no_run_can_use_is_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        dataclasses.replace(TINY, **changes)


def test_auroc_by_hand_and_by_counting_pairs():
    assert metrics.auroc(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == (1 + 1 + 1 + 0.5) / 4
    rng = np.random.default_rng(0)
    higher, lower = rng.normal(1, 1, 50).round(1), rng.normal(0, 1, 70).round(1)
    pairs = (higher[:, None] > lower).mean() + (higher[:, None] == lower).mean() / 2
    assert metrics.auroc(higher, lower) == pytest.approx(pairs)
    assert metrics.auroc(lower, higher) == pytest.approx(1 - pairs)
