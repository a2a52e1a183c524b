"""Towers without labels: each objective against its equation worked another way, the contract, what begins as one."""

import copy
import dataclasses
import itertools
import json
import math
import random

import numpy as np
import pytest
import timm
import tiny_models
import torch
from PIL import Image
from scipy.integrate import quad
from torch.nn import functional as F

from hub_models import classifier, clip, segmentation, tokens
from hub_models import pretrain as contract
from hub_models.store import CheckpointError
from training import beginnings, captioning, pretrain, probes
from training import classifier as training_classifier
from training import clip as training_clip
from training import segmentation as training_segmentation
from training.data.sources import open_source
from training.data.views import part_of
from training.pretrain import beit, dino, distil, evaluation, lejepa, mae, rotation, simclr, triplet
from training.pretrain.samples import UnlabelledPictures

TINY = pretrain.PRESETS["tiny"]
SWIN_ARGS = {"window_size": 4, "embed_dim": 16, "depths": (1, 2), "num_heads": (1, 2)}


def config(objective: str, **changes) -> pretrain.PretrainConfig:
    views = {"views": 1, "local_views": 0} if objective in ("mae", "beit", "distil", "rotation") else {}
    return dataclasses.replace(TINY, objective=objective, **(views | changes))


def batch_of(cfg, count: int = 4, places: int = 16) -> dict:
    draw = torch.Generator().manual_seed(1)
    side = cfg.resolution
    return {
        "views": torch.rand(count, cfg.views, 3, side, side, generator=draw) * 2 - 1,
        "uniform": torch.rand(count, places, generator=draw),
    }


def objective_of(module, cfg):
    torch.manual_seed(0)
    return module.Objective(pretrain.create_tower(cfg), cfg)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny random towers as exported, and a classifier and a dual encoder to learn from."""
    home = tmp_path_factory.mktemp("towers")
    return {
        "vit": tiny_models.tower(home / "vit"),
        "swin": tiny_models.tower(home / "swin", "swin"),
        "mean": tiny_models.tower(home / "mean", global_pool="avg", fc_norm=False),
        "classifier": tiny_models.classifier(home / "classifier"),
        "clip": tiny_models.dual_encoder(home / "clip"),
    }


PICTURES = [Image.linear_gradient("L").convert("RGB"), Image.radial_gradient("L").convert("RGB").resize((50, 30))]


# ---- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vit", "swin", "mean"])
def test_features_and_tokens_are_those_of_stock_timm(kind, folders):
    tower = contract.load(str(folders[kind]), device="cpu")
    stock = timm.create_model(f"local-dir:{folders[kind]}", pretrained=True, num_classes=0).eval()
    x = tower.preprocess(PICTURES)
    assert x.shape == (2, 3, 32, 32) and x.min() >= -1 and x.max() <= 1
    features, tokens = tower.features(PICTURES), tower.tokens(PICTURES)
    with torch.no_grad():
        torch.testing.assert_close(features, stock(x))
        states = stock.forward_features(x)
    assert features.shape == (2, tower.width) and tokens.shape == (2, 4, 4, tower.width)
    if kind == "swin":
        torch.testing.assert_close(tokens, states)
    else:  # a class token stands before the 16 patches, row by row
        torch.testing.assert_close(tokens[:, 1, 2], states[:, 1 + 4 + 2])
    if kind != "vit":
        torch.testing.assert_close(tokens.mean((1, 2)), features)
    assert stock.num_classes == 0 and tower.resolution_px == 32


def test_a_convolutional_network_and_a_classifier_are_towers_too(folders, tmp_path):
    tower = contract.load(str(folders["classifier"]), device="cpu")
    theirs = classifier.load(str(folders["classifier"]), device="cpu")
    x = tower.preprocess(PICTURES)
    with torch.no_grad():
        expected = theirs.model.forward_head(theirs.model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(tower.features(PICTURES), expected)
    assert not any("head" in name for name, _ in tower.model.named_parameters())
    net = timm.create_model("test_resnet", num_classes=0)
    timm.models.save_for_hf(net, str(tmp_path / "net"), model_config={"num_classes": 0}, safe_serialization=True)
    tower = contract.load(str(tmp_path / "net"), device="cpu")
    assert tower.tokens(PICTURES).shape[-1] == tower.width == tower.features(PICTURES).shape[1]
    grey = timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=4, **tiny_models.VIT)
    timm.models.save_for_hf(grey, str(tmp_path / "grey"), model_config={"num_classes": 0}, safe_serialization=True)
    with pytest.raises(CheckpointError, match="square RGB"):
        contract.load(str(tmp_path / "grey"), device="cpu")


# ---- objectives ------------------------------------------------------------------------------------------------------


def integrated(x: np.ndarray, most: float) -> float:
    """N ∫ |φ̂ - φ|² φ dt from -most to most, by adaptive quadrature."""

    def integrand(t):
        return abs(np.exp(1j * t * x).mean() - math.exp(-t * t / 2)) ** 2 * math.exp(-t * t / 2)

    return len(x) * quad(integrand, -most, most, epsabs=1e-10)[0]


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_epps_pulley_is_the_integral(shift):
    x = np.random.default_rng(0).normal(shift, 1 + shift, 40)
    found = lejepa.epps_pulley(torch.from_numpy(x)[:, None]).item()
    assert found == pytest.approx(integrated(x, lejepa.T_MAX), rel=5e-3, abs=1e-3)
    # over all t it has a closed form: ∫ exp(-t²/2) cos(ta) dt = √(2π) exp(-a²/2), and so on
    away = x[:, None] - x[None]
    closed = (
        math.sqrt(2 * math.pi) * np.exp(-(away**2) / 2).sum() / len(x)
        - 2 * math.sqrt(math.pi) * np.exp(-(x**2) / 4).sum()
        + len(x) * math.sqrt(2 * math.pi / 3)
    )
    assert integrated(x, 20) == pytest.approx(closed, rel=1e-6)
    assert found == pytest.approx(closed, rel=0.05, abs=0.01)


def test_sigreg_is_small_for_a_normal_cloud_alone_and_pushes_a_point_apart():
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(400, 8, generator=draw)
    directions = F.normalize(torch.randn(8, 64, generator=draw), dim=0)
    normal = lejepa.sigreg(z, directions)
    for other in (3 * z, z + 1, z * torch.tensor([1.0] * 7 + [0.0]), z.sign(), torch.zeros_like(z)):
        assert lejepa.sigreg(other, directions) > 2 * normal
    point = torch.full((20, 8), 0.1, requires_grad=True)
    lejepa.sigreg(point + 0.01 * torch.randn(20, 8, generator=draw), directions).backward()
    assert point.grad is not None and (point.grad @ torch.ones(8) > 0).all()  # towards 0


def test_lejepa_weighs_its_two_terms():
    cfg = config("lejepa", projection=(16, 8), lejepa_weight=0.25)
    objective, batch = objective_of(lejepa, cfg), batch_of(config("lejepa"))
    torch.manual_seed(3)
    loss, numbers = objective(batch)
    assert loss.item() == pytest.approx(0.25 * numbers["sigreg"].item() + 0.75 * numbers["invariance"].item(), rel=1e-5)
    same = batch | {"views": batch["views"][:, :1].expand(-1, 3, -1, -1, -1)}
    assert objective.eval()(same)[1]["invariance"].item() == pytest.approx(0, abs=1e-10)


def test_nt_xent_by_hand():
    axes = torch.eye(2)
    loss, found = simclr.nt_xent(axes * 5, axes * 0.1, 1.0)  # lengths don't matter
    assert loss.item() == pytest.approx(math.log(1 + 2 / math.e))  # of e + 1 + 1, e is right; four times
    assert found.item() == 1
    a, b = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[0.8, 0.6], [0.0, 1.0]])
    z, wanted, t = torch.cat([a, b]).numpy(), {0: 2, 1: 3, 2: 0, 3: 1}, 0.5
    each = []
    for i in range(4):
        others = [math.exp(float(z[i] @ z[k]) / t) for k in range(4) if k != i]
        each.append(-math.log(math.exp(float(z[i] @ z[wanted[i]]) / t) / sum(others)))
    assert simclr.nt_xent(a, b, t)[0].item() == pytest.approx(sum(each) / 4, rel=1e-6)


def test_triplets_by_hand():
    def at(degrees):
        return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]

    def away(degrees):  # squared distance of unit vectors
        return 2 - 2 * math.cos(math.radians(degrees))

    anchor = torch.tensor([at(0), at(90), at(180)])
    other = torch.tensor([at(20), at(80), at(190)])
    # 0°: its own at 20°, the nearest other at 80°; 90°: own 10° away, the nearest other 70°; 180°: own 10°, other 100°
    expected = [max(0, away(20) - away(80) + 2), max(0, away(10) - away(70) + 2), max(0, away(10) - away(100) + 2)]
    assert triplet.triplets(anchor, other, 2.0).tolist() == pytest.approx(expected, abs=1e-5)
    # none is farther than its own: the farthest of all
    assert triplet.triplets(torch.tensor([at(0), at(5)]), torch.tensor([at(50), at(2)]), 0.2)[
        0
    ].item() == pytest.approx(away(50) - away(2) + 0.2, abs=1e-5)
    assert triplet.triplets(anchor[:1], other[:1], 0.2).tolist() == [0]


def test_pictures_are_turned_each_by_its_own_quarters():
    x = torch.rand(4, 3, 5, 5)
    found = rotation.turned(x, torch.tensor([0, 1, 2, 3]))
    for k in range(4):
        assert torch.equal(found[k], torch.rot90(x[k], k, (1, 2)))
    cfg = config("rotation", projection=(16,))
    loss, numbers = objective_of(rotation, cfg)(batch_of(cfg))
    assert loss.item() == pytest.approx(math.log(4), abs=1) and 0 <= numbers["told"] <= 1


def test_patches_are_cut_and_normalised_as_by_hand():
    x = torch.rand(2, 3, 32, 32)
    found = mae.patches_of(x, 8)
    patch = x[1, :, 8:16, 24:32].reshape(-1)  # row 1, column 3: number 7
    torch.testing.assert_close(found[1, 7], (patch - patch.mean()) / (patch.var() + 1e-6).sqrt())
    assert torch.isfinite(mae.patches_of(torch.ones(1, 3, 16, 16), 8)).all()
    painted, truth, hidden = (
        torch.zeros(1, 3, 2),
        torch.tensor([[[1.0, 1], [2, 2], [5, 5]]]),
        torch.tensor([[1.0, 1, 0]]),
    )
    assert mae.masked_error(painted, truth, hidden).item() == pytest.approx((1 + 4) / 2)


def test_an_mae_sees_what_is_kept_alone_and_paints_each_patch_in_its_place():
    cfg = config("mae")
    objective = objective_of(mae, cfg).eval()
    batch = batch_of(cfg)
    x, order = batch["views"][:, 0], batch["uniform"].argsort(1)
    assert objective.kept == 4
    everything = torch.arange(16).expand(4, -1)
    torch.testing.assert_close(objective.encoded(x, everything), objective.tower.forward_features(x))
    states, other = objective.encoded(x, order[:, :4]), x.clone()
    for row, place in itertools.product(range(4), range(16)):
        if place not in order[row, :4]:
            top, left = 8 * (place // 4), 8 * (place % 4)
            other[row, :, top : top + 8, left : left + 8] = 9
    assert torch.equal(objective.encoded(other, order[:, :4]), states)
    objective.decoder, objective.paint = torch.nn.Identity(), torch.nn.Identity()
    with torch.no_grad():
        objective.places.zero_()
    painted = objective.painted(states, order)
    for row in range(4):
        for number, place in enumerate(order[row].tolist()):
            expected = objective.narrow(states[row, 1 + number]) if number < 4 else objective.missing[0, 0]
            torch.testing.assert_close(painted[row, place], expected)
    with pytest.raises(SystemExit, match="plain ViT"):
        mae.Objective(pretrain.create_tower(config("simclr", backbone="swin", model_args=SWIN_ARGS)), cfg)


def test_dino_compares_each_large_view_with_the_others():
    target, log_p = torch.rand(2, 3, 5).softmax(-1), torch.rand(4, 3, 5).log_softmax(-1)
    pairs = [
        -(target[g, b] * log_p[v, b]).sum().item()
        for g, v, b in itertools.product(range(2), range(4), range(3))
        if g != v
    ]
    assert dino.cross_entropy(target, log_p).item() == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)


def test_a_dino_teacher_follows_its_student_and_learns_nothing_itself():
    cfg = config("dino", dino_momentum=0.75, dino_centre_momentum=0.5)
    objective, batch = objective_of(dino, cfg), batch_of(config("dino"))
    before = copy.deepcopy(objective)
    x = batch["views"][:, 0]
    with torch.no_grad():
        told = before.head(before.tower(x))
        assert torch.equal(objective.taught(x), told), "the teacher begins as the student"
    loss, _ = objective(batch)
    loss.backward()
    large = batch["views"][:, :2].transpose(0, 1).flatten(0, 1)
    torch.testing.assert_close(objective.centre, before.taught(large).mean(0) / 2)
    assert all(p.grad is not None for p in objective.parameters()) and not any(
        b.requires_grad for b in objective.buffers()
    )
    with torch.no_grad():
        for p in objective.parameters():
            p.add_(torch.randn_like(p))
    objective.follow()
    wanted = copy.deepcopy(before)
    with torch.no_grad():
        for p, now in zip(wanted.parameters(), objective.parameters(), strict=True):
            p.copy_(0.75 * p + 0.25 * now)
        torch.testing.assert_close(objective.taught(x), wanted.head(wanted.tower(x)), atol=1e-4, rtol=1e-4)
    assert objective.state_dict().keys() > {"centre", "teacher_tower_cls_token"}, "a checkpoint holds it"


def test_softened_logits_by_hand():
    student, teacher, t = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[0.0, 1.0, 3.0]]), 2.0
    p, q = (teacher / t).softmax(1)[0], (student / t).softmax(1)[0]
    assert distil.softened(student, teacher, t).item() == pytest.approx(4 * float((p * (p / q).log()).sum()), rel=1e-5)


def tokenizer(folder) -> str:
    """A folder of random codes for pictures of 8 × 8 patches."""
    return str(tiny_models.tokens_folder(folder))


def test_beit_says_the_codes_of_what_it_does_not_see(tmp_path):
    cfg = config("beit", beit_tokens_name_or_path=tokenizer(tmp_path / "tokens"))
    objective, batch = objective_of(beit, cfg).eval(), batch_of(config("mae"))
    x, codes = batch["views"][:, 0], tokens.load_codes(cfg.beit_tokens_name_or_path, device="cpu")
    masked = torch.stack([beit.blocks(row, (4, 4), 0.4) for row in batch["uniform"]])
    side = 4 * codes.reduction
    small = F.interpolate(x, size=(side, side), mode="bicubic", antialias=True).clamp(-1, 1)
    truth = codes.encode(small)
    assert truth.shape == masked.shape == (4, 16) and torch.equal(objective.codes(x), truth)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(objective.codes(x), truth), "codes are found in fp32"
    loss, numbers = objective(batch)
    with torch.no_grad():
        said = objective.said(objective.states(x, masked)).log_softmax(2)
        by_hand = [-said[b, i, truth[b, i]] for b in range(4) for i in range(16) if masked[b, i]]
        assert loss.item() == pytest.approx(torch.stack(by_hand).mean().item(), rel=1e-5)
        assert numbers["masked"].item() == pytest.approx(masked.float().mean().item())
        other = x.clone()
        patch = objective.tower.patch_embed.patch_size[0]
        row, column = divmod(int(masked[0].nonzero()[0]), 4)
        other[0, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = 1.0
        torch.testing.assert_close(objective.states(other, masked), objective.states(x, masked))
        assert not torch.equal(objective.states(x, ~masked), objective.states(x, masked))
        seen = objective.states(x, torch.zeros_like(masked))
        torch.testing.assert_close(seen, objective.tower.forward_features(x)[:, 1:])
    ids = {id(p) for p in codes.vq.parameters()} | {id(p) for p in objective._codes[0].vq.parameters()}
    assert not ids & {id(p) for p in objective.parameters()}
    with pytest.raises(SystemExit, match="--objective beit hides patches"):
        beit.Objective(pretrain.create_tower(config("simclr", backbone="swin", model_args=SWIN_ARGS)), cfg)


def test_blocks_hide_what_lies_together_and_are_functions_of_their_draw():
    draw, beside, apart = torch.Generator().manual_seed(0), [], []
    for _ in range(50):
        row = torch.rand(64, generator=draw)
        hidden = beit.blocks(row, (8, 8), 0.4)
        assert torch.equal(hidden, beit.blocks(row, (8, 8), 0.4)) and 0.4 < hidden.float().mean() < 0.8
        grid = hidden.view(8, 8).float()
        beside.append((grid[:, 1:] * grid[:, :-1]).mean().item() / grid.mean().item() ** 2)
        shuffled = grid.flatten()[torch.randperm(64, generator=draw)].view(8, 8)
        apart.append((shuffled[:, 1:] * shuffled[:, :-1]).mean().item() / grid.mean().item() ** 2)
    assert np.mean(beside) > 1.3 > np.mean(apart)
    assert len({beit.blocks(torch.rand(64, generator=draw), (8, 8), 0.4).numpy().tobytes() for _ in range(9)}) == 9
    assert beit.blocks(torch.rand(4), (2, 2), 0.999).all()


def test_teachers_are_of_timm_and_of_transformers(folders):
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    ours = classifier.load(str(folders["classifier"]), device="cpu")
    teacher = distil.teacher_of(str(folders["classifier"]))
    features, logits = teacher.answers(x)
    seen = (x / 2 + 0.5 - ours.mean) / ours.std
    with torch.no_grad():
        torch.testing.assert_close(logits, ours.model(seen))
        torch.testing.assert_close(
            features, ours.model.forward_head(ours.model.forward_features(seen), pre_logits=True)
        )
    dual = clip.load(str(folders["clip"]), device="cpu")
    teacher = distil.teacher_of(str(folders["clip"]))
    features, logits = teacher.answers(x)
    assert logits is None and teacher.classes == 0
    with torch.no_grad():
        torch.testing.assert_close(F.normalize(features, dim=1), clip.unit_image_rows(dual.model, x), atol=1e-5, rtol=0)
    small, _ = distil.teacher_of(str(folders["vit"])).answers(torch.rand(1, 3, 48, 48))
    assert small.shape == (1, 24)


def test_a_student_learns_what_its_teacher_says_and_keeps_the_teacher_out(folders):
    cfg = config("distil", projection=(16,), distil_name_or_path=str(folders["classifier"]))
    objective, batch = objective_of(distil, cfg), batch_of(config("mae"))
    loss, numbers = objective(batch)
    loss.backward()
    assert loss.item() == pytest.approx(numbers["features"].item() + numbers["logits"].item(), rel=1e-5)
    teacher = {id(p) for p in objective._teacher[0].model.parameters()}
    assert not teacher & {id(p) for p in objective.parameters()}
    assert all(p.grad is not None for p in objective.parameters())


@pytest.mark.parametrize("backbone", ["vit", "swin"])
@pytest.mark.parametrize("name", ["lejepa", "simclr", "triplet", "rotation", "dino", "mae", "beit"])
def test_each_objective_falls_on_one_batch(name, backbone, tmp_path):
    if name in ("mae", "beit") and backbone == "swin":
        with pytest.raises(ValueError, match="a Swin can't"):
            config(name, backbone=backbone, model_args=SWIN_ARGS)
        return
    more = {"model_args": SWIN_ARGS} if backbone == "swin" else {}
    if name == "beit":
        more["beit_tokens_name_or_path"] = tokenizer(tmp_path / "tokens")
    cfg = config(name, backbone=backbone, projection=(16, 8), lejepa_directions=16, **more)
    objective = objective_of(globals()[name], cfg)
    batch = batch_of(cfg, places=objective.tower.patch_embed.num_patches)
    optimizer, losses = torch.optim.AdamW(objective.parameters(), lr=2e-3), []
    for _ in range(6):
        torch.manual_seed(0)
        loss, _ = objective(batch)
        loss.backward()
        assert all(p.grad is not None for p in objective.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert min(losses[1:]) < losses[0] and all(map(math.isfinite, losses))


# ---- samples and configs ---------------------------------------------------------------------------------------------


def test_samples_are_functions_of_their_draw_and_small_parts_come_last():
    source = open_source("emoji-sample", split="train", limit=4)
    samples = UnlabelledPictures(source, TINY, places=16)
    one, same, other = (samples.sample(2, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert one["views"].shape == (3, 3, 32, 32) and one["uniform"].shape == (16,)
    assert all(torch.equal(one[key], same[key]) and not torch.equal(one[key], other[key]) for key in one)
    assert one["views"].min() >= -1 and one["views"].max() <= 1
    rng = random.Random(0)
    picture = Image.linear_gradient("L").convert("RGB").resize((32, 32))
    whole = np.asarray(part_of(picture, (1.0, 1.0), (32, 32), rng, 0.0))
    assert np.array_equal(whole, np.asarray(picture)), "a gradient from top to bottom is its mirror image"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": "distil"}, "--distil_name_or_path"),
        ({"objective": "simclr", "views": 1, "local_views": 0}, "set --views 2"),
        ({"views": 2, "local_views": 2}, "more than --local_views"),
        ({"scale": (0.5, 0.2)}, "--scale is a range"),
        ({"mae_masked": 1.0}, "--mae_masked"),
        ({"beit_masked": 0.0}, "--beit_masked"),
        ({"dino_temperature": 0.0}, "--dino_temperature must be a positive"),
        ({"color_jitter": 1.5}, "--color_jitter must lie in"),
    ],
)
def test_configs_that_no_run_can_use(changes, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(TINY, **changes)


def test_a_tower_goes_on_from_another_and_from_its_own_size_alone(folders):
    cfg = dataclasses.replace(TINY, pretrained_model_name_or_path=str(folders["swin"]))
    begun, given = pretrain.create_tower(cfg).state_dict(), contract.load(str(folders["swin"]), device="cpu").model
    assert all(torch.equal(begun[name], value) for name, value in given.state_dict().items())
    with pytest.raises(SystemExit, match="--resolution 32"):
        pretrain.create_tower(dataclasses.replace(cfg, resolution=64))
    with pytest.raises(SystemExit, match="timm makes no vit"):
        pretrain.create_tower(dataclasses.replace(TINY, model_args={"no_such": 1}))


# ---- what features are worth -----------------------------------------------------------------------------------------


def test_neighbours_vote_by_likeness():
    rng = np.random.default_rng(0)
    known, labels, asked = rng.normal(size=(60, 5)), rng.integers(0, 3, 60), rng.normal(size=(9, 5))
    found = probes.nearest_classes(known, labels, asked, k=7, temperature=0.2)
    for row, answer in zip(asked, found, strict=True):
        cosine = known @ row / np.linalg.norm(known, axis=1) / np.linalg.norm(row)
        near = np.argsort(-cosine)[:7]
        votes = [sum(math.exp(cosine[i] / 0.2) for i in near if labels[i] == c) for c in range(3)]
        assert answer == int(np.argmax(votes))
    # one very like it outvotes two that are less so
    known = np.array([[1.0, 0.0], [0.7, 0.7], [0.7, -0.7]])
    assert probes.nearest_classes(known, np.array([0, 1, 1]), np.array([[1.0, 0.0]])).tolist() == [0]


def test_a_linear_probe_and_the_rank_of_features():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 30)
    rows = rng.normal(size=(90, 6)) + 4 * np.eye(6)[labels] * 100 * [1, 0.01, 1, 1, 1, 1]
    assert (probes.linear_classes(rows, labels, rows) == labels).mean() > 0.95
    assert probes.linear_classes(rows[:5], labels[:5], rows[:2]).tolist() == [0, 0]
    assert probes.effective_rank(np.ones((8, 4))) == 1
    assert probes.effective_rank(np.concatenate([np.eye(4), -np.eye(4)])) == pytest.approx(4)
    line = np.outer(np.linspace(-1, 1, 9), [1.0, 2, 3])
    assert probes.effective_rank(line) == pytest.approx(1, abs=1e-6)


def test_a_few_labels_tune_a_copy(folders, monkeypatch):
    monkeypatch.setattr(evaluation, "FEW_STEPS", 2)
    tower = contract.load(str(folders["vit"]), device="cpu")
    before = {name: value.clone() for name, value in tower.model.state_dict().items()}
    train = open_source("emoji-sample", split="train")
    parts = {"validation": open_source("emoji-sample", split="validation")}
    found = evaluation.few_labels(tower, train, parts, 1)
    assert found == evaluation.few_labels(tower, train, parts, 1) and 0 <= found["validation"] <= 1
    assert all(torch.equal(before[name], value) for name, value in tower.model.state_dict().items())


def test_a_folder_without_labels_is_learned_from_and_measured_without(folders, tmp_path):
    for split, count in (("train", 6), ("validation", 4)):
        (tmp_path / "own" / split).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (40, 30), (40 * number, 90, 0)).save(tmp_path / "own" / split / f"{number}.png")
    data = str(tmp_path / "own")
    task = pretrain.task_of(dataclasses.replace(TINY, dataset_name=data, output_dir=str(tmp_path / "run")))
    assert task.evaluate(task.served(task.players[0].module.eval())).keys() == {"effective_rank"}
    results = pretrain.evaluate_checkpoint(str(folders["vit"]), data)
    assert results.metrics.keys() == {
        f"validation/{key}" for key in ("effective_rank", "random/effective_rank", "pictures")
    }
    assert "has no labels" in results.left_out[0] and "neighbours" in results.figures


# ---- what begins as a tower ------------------------------------------------------------------------------------------


def features(model, x):
    with torch.no_grad():
        out = model(x)
    return getattr(out, "last_hidden_state", out)


@pytest.mark.parametrize("kind", ["vit", "swin", "mean"])
def test_a_classifier_begins_as_a_tower(kind, folders):
    tower = contract.load(str(folders[kind]), device="cpu")
    cfg = dataclasses.replace(training_classifier.PRESETS["tiny"], model_args={}, tower_name_or_path=str(folders[kind]))
    model, args = training_classifier.create_model(cfg, 5)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        body = model.eval().forward_head(model.forward_features(x), pre_logits=True)
        torch.testing.assert_close(body, tower.model(x))
    assert model(x).shape == (2, 5) and model.pretrained_cfg["mean"] == tower.mean
    training_classifier.save(model, args, list("abcde"), folders[kind].parent / f"classes-{kind}")
    again = classifier.load(str(folders[kind].parent / f"classes-{kind}"), device="cpu")
    torch.testing.assert_close(again.model(x), model(x))
    with pytest.raises(SystemExit, match="takes 32 px"):
        training_classifier.create_model(dataclasses.replace(cfg, resolution=64), 5)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_a_dual_encoder_and_a_captioner_begin_as_a_tower(kind, folders):
    tower, x = contract.load(str(folders[kind]), device="cpu"), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        states = tower.model.forward_features(x)
    states = states.flatten(1, 2) if kind == "swin" else states
    cfg = dataclasses.replace(training_clip.PRESETS["tiny"], tower_name_or_path=str(folders[kind]))
    served = training_clip.create_clip(cfg, ["a red apple", "a dog"])
    torch.testing.assert_close(features(served.model.vision_model.eval(), x), states, atol=1e-4, rtol=1e-4)
    assert list(served.image_processor.image_mean) == [0.5] * 3
    with pytest.raises(SystemExit, match="takes 32 px"):
        training_clip.create_clip(dataclasses.replace(cfg, resolution=64), ["a dog"])
    cfg = dataclasses.replace(
        captioning.PRESETS["tiny"], tower_name_or_path=str(folders[kind]), vocabulary_size=100, position_scale=1e-9
    )
    captioner = captioning.model.create_captioner_on_tower(cfg, ["a red apple", "a dog"])
    if kind == "swin":  # it gets positions of its own, which are next to nothing here
        torch.testing.assert_close(features(captioner.model.encoder.eval(), x), states, atol=1e-3, rtol=1e-3)
    else:
        torch.testing.assert_close(features(captioner.model.encoder.eval(), x), states, atol=1e-4, rtol=1e-4)
    [line] = beginnings.origin(str(folders[kind]))
    assert line.startswith("the backbone: ") and f"/{kind}, {kind}_" in line


def test_a_segmenter_begins_as_a_tower_of_either_kind(folders, tmp_path):
    x = torch.randn(2, 3, 32, 32)
    sizes = training_segmentation.PRESETS["tiny"].model_args
    cfg = dataclasses.replace(
        training_segmentation.PRESETS["tiny"], model_args=sizes, tower_name_or_path=str(folders["swin"])
    )
    served = training_segmentation.model.create_model(cfg, ["a", "b"])
    tower = contract.load(str(folders["swin"]), device="cpu")
    with torch.no_grad():
        states = tower.model.forward_features(x).flatten(1, 2)
    torch.testing.assert_close(features(served.model.backbone.swin.eval(), x), states, atol=1e-4, rtol=1e-4)
    dpt = dataclasses.replace(cfg, backbone="dpt", model_args={}, tower_name_or_path=str(folders["mean"]))
    served = training_segmentation.model.create_model(dpt, ["a", "b"])
    segmentation.save_folder(tmp_path / "dpt", served)
    vit = contract.load(str(folders["mean"]), device="cpu").model
    with torch.no_grad():
        torch.testing.assert_close(features(served.model.dpt.eval(), x), vit.forward_features(x), atol=1e-4, rtol=1e-4)


def test_exports_say_what_they_are(folders, tmp_path):
    cfg = dataclasses.replace(TINY, output_dir=str(tmp_path / "run"), max_train_steps=1, cpu=True)
    task = pretrain.task_of(cfg)
    card = task.card(task.served(task.players[0].module))
    assert card.name == "dino-vit" and "DINO (Caron et al. 2021)" in card.summary and card.library_name == "timm"
    learned = config("distil", distil_name_or_path=str(folders["clip"]))
    [line] = pretrain.card_of(task.served(task.players[0].module), learned, task.source).credits
    assert line.startswith("its teacher: the tower of ") and line.count("/clip") == 1
    contract.save_folder(tmp_path / "saved", task.served(task.players[0].module))
    said = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert said["num_classes"] == 0 and said["pretrained_cfg"]["mean"] == [0.5, 0.5, 0.5]
