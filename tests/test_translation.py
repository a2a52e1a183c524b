"""hub_models/translation.py and training/translation against terms by hand, the papers' sizes, brute force."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image, ImageDraw

from hub_models import store, translation
from training import translation as script
from training.data.counterparts import Counterparts, held_out_pairs, nearest
from training.data.files import DataError
from training.data.sources import open_source
from training.translation import evaluation

STYLES = ["flat", "ink", "noto"]
TINY = script.PRESETS["tiny"]
PAIRED = {"paired": True, "l1_weight": 100.0, "cycle_weight": 0.0, "identity_weight": 0.0}


def model(conditional: bool = True) -> translation.Translator:
    """A random model of 16 px whose styles differ."""
    torch.manual_seed(0)
    unet = translation.StyleUNet([8, 16, 16], 8, 16, STYLES).eval()
    discriminator = translation.PatchDiscriminator([8, 16], 3, conditional).eval()
    return translation.Translator(unet, discriminator, name="tiny", weights_sha256="0" * 64)


def pictures(count: int) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(count)]


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    """Folders of a person: train/, validation/ of two styles of discs, metadata with "kind" and "name"."""
    root = tmp_path_factory.mktemp("discs")
    for split, count in (("train", 6), ("validation", 3)):
        folder, rows = root / split, []
        folder.mkdir()
        for number in range(count):
            for style, ground in (("day", "white"), ("night", "navy")):
                picture = Image.new("RGB", (32, 32), ground)
                at = 2 * number + (split == "validation")
                ImageDraw.Draw(picture).ellipse((at, 6, at + 14, 20), fill=(40 * number, 200, 30))
                picture.save(folder / f"{number}-{style}.png")
                name = f"{split} {number}"
                rows.append({"file_name": f"{number}-{style}.png", "label": style, "name": name, "one": "same"})
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(root)


# --- the game --------------------------------------------------------------------------------------------------------


def test_each_term_by_hand_and_the_way_back_is_into_the_inputs_own_style():
    ours, draw = model(), torch.Generator().manual_seed(1)
    weights = {"adversarial_weight": 2.0, "l1_weight": 3.0, "cycle_weight": 5.0, "identity_weight": 7.0}
    cfg = dataclasses.replace(TINY, paired=True, **weights)
    own, style = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 0, 2])
    x, real = (torch.rand(4, 3, 16, 16, generator=draw) * 2 - 1 for _ in range(2))
    batch = {"picture": x, "own": own, "real": real, "style": style}
    generator, discriminator = script.players_of(cfg, ours.model, ours.discriminator)
    loss, numbers = generator.loss(generator.module, batch)
    made = ours.model(x, style)
    by_hand = {
        "adversarial": (ours.discriminator(made, style, x) - 1).pow(2).mean(),
        "l1": (made - real).abs().sum() / made.numel(),
        "cycle": (ours.model(made, own) - x).abs().sum() / x.numel(),
        "identity": (ours.model(x, own) - x).abs().sum() / x.numel(),
    }
    assert numbers == {name: pytest.approx(term.item(), rel=1e-5) for name, term in by_hand.items()}
    torch.testing.assert_close(loss, sum(weights[f"{name}_weight"] * term for name, term in by_hand.items()))
    loss.backward()
    assert all(p.grad is not None for p in ours.model.parameters())
    loss, numbers = discriminator.loss(discriminator.module, batch)
    told = [ours.discriminator(y, style, x) for y in (real, made.detach())]
    torch.testing.assert_close(loss, ((told[0] - 1).pow(2).mean() + told[1].pow(2).mean()) / 2)
    assert numbers["told_apart"] == (told[0].mean((1, 2)) > told[1].mean((1, 2))).float().mean()
    bare = script.players_of(dataclasses.replace(TINY, **PAIRED), ours.model, ours.discriminator)[0]
    assert bare.loss(bare.module, batch)[1].keys() == {"adversarial", "l1"}


def test_the_best_least_squares_discriminator_says_how_likely_it_is_real():
    """Mao et al. 2017, eq. 5 with a = 0, b = 1: p / (p + q), over three outcomes."""
    answers = torch.tensor([4 / 5, 2 / 5, 0.0], requires_grad=True)
    real, drawn = [0, 0, 0, 0, 1, 1], [0, 1, 1, 1, 2, 2]
    loss = script.off(answers[real], 1) + script.off(answers[drawn], 0)
    [gradient] = torch.autograd.grad(loss, answers)
    assert gradient.abs().max() < 1e-6


# --- the two networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("levels", "patch_px"), [(2, 16), (3, 34), (4, 70)])
def test_an_answer_is_of_its_patch_alone(levels, patch_px):
    """70 px with four convolutions, 16 px with two: Isola et al. 2017, appendix 6.1.2."""
    torch.manual_seed(0)
    discriminator = translation.PatchDiscriminator([8] * levels, 2, False)
    assert discriminator.patch_px == patch_px
    x = torch.randn(1, 3, 96, 96, requires_grad=True)
    answers = discriminator(x, torch.tensor([1]))
    middle = answers.shape[-1] // 2
    [gradient] = torch.autograd.grad(answers[0, middle, middle], x)
    for axis in (2, 3):
        touched = gradient.abs().sum([d for d in range(4) if d != axis]).nonzero().flatten()
        assert len(touched) == touched[-1] - touched[0] + 1 == patch_px


def test_a_discriminator_of_pairs_sees_what_it_was_made_of_and_judges_each_style_apart():
    torch.manual_seed(0)
    x, other = torch.randn(2, 2, 3, 16, 16)
    style = torch.tensor([0, 1])
    pairs, alone = (translation.PatchDiscriminator([8, 16], 3, conditional) for conditional in (True, False))
    assert not torch.allclose(pairs(x, style, x), pairs(x, style, other))
    torch.testing.assert_close(alone(x, style, x), alone(x, style, other))
    whole = alone.head.weight.data.clone()
    before = alone(x, style)
    alone.head.weight.data[1] += 1
    after = alone(x, style)
    torch.testing.assert_close(before[0], after[0])
    assert not torch.allclose(before[1], after[1]) and not torch.equal(whole, alone.head.weight)


def test_a_result_depends_on_its_own_picture_and_style_alone():
    ours, [first, second] = model(), pictures(2)
    made = ours.translate([first, second, first, first], ["ink", 0, 1, "flat"])
    together = [np.asarray(picture).astype(int) for picture in made]
    [alone] = ours.translate([first], [np.int64(1)])
    assert alone.size == (16, 16) and alone.mode == "RGB"
    assert np.abs(together[0] - np.asarray(alone)).max() <= 1 and np.abs(together[0] - together[2]).max() <= 1
    assert np.abs(together[0] - together[3]).max() > 1 and np.abs(together[1] - together[3]).max() > 1
    clear, white = Image.new("RGBA", (16, 16)), Image.new("RGB", (16, 16), "white")
    for ground in (clear, white):
        ground.paste(first.crop((0, 0, 9, 9)), (3, 3))
    [one], [other] = (ours.translate([picture], ["flat"]) for picture in (clear, white))
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda ours: ours.translate(pictures(1), ["ink", "ink"]), "1 pictures for 2 styles"),
        (lambda ours: ours.translate([], []), "0 pictures for 0 styles"),
        (lambda ours: ours.translate(pictures(1), ["cubist"]), "'cubist' is unknown: .* 0 to 2, or one of flat, ink"),
        (lambda ours: ours.translate(pictures(1), [3]), "from 0 to 2"),
        (lambda ours: ours.translate(pictures(1), [None]), "style 'None' is unknown"),
        (lambda ours: ours.translate(pictures(1), [True]), "style 'True' is unknown"),
        (lambda ours: translation.StyleUNet([8, 8], 4, 15, STYLES), "no multiple of 2"),
        (lambda ours: translation.StyleUNet([8, 8], 4, 2048, STYLES), "up to 1024"),
        (lambda ours: translation.PatchDiscriminator([8, 12], 3, True), "multiples of 8"),
        (lambda ours: translation.PatchDiscriminator([8], 3, "yes"), "neither true nor false"),
        (lambda ours: dataclasses.replace(TINY, l1_weight=1.0), "--l1_weight is of the true picture"),
        (lambda ours: dataclasses.replace(TINY, cycle_weight=-1.0), "--cycle_weight must be a number from 0"),
        (lambda ours: dataclasses.replace(TINY, resolution=18), "--resolution 18"),
    ],
)
def test_what_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call(model())


# --- what is trained on, and what is not -----------------------------------------------------------------------------


def test_no_held_out_truth_is_trained_on(monkeypatch):
    train = open_source("emoji-sample", split="train", label_column="style")
    known = Counterparts(train, "name")
    seen = set(zip(known.concepts, train.labels.tolist(), strict=True))
    found = 0
    for split in ("heldout_pairs", "validation"):
        held_out = open_source("emoji-sample", split=split, label_column="style")
        own = Counterparts(held_out, "name")
        for part, row, truth in held_out_pairs(known, own):
            assert held_out.digests[truth] not in train.digests
            assert (own.concepts[truth], held_out.label(truth)) not in seen
            of = known if part is train else own
            assert of.concepts[row] == own.concepts[truth] and part.label(row) != held_out.label(truth)
            found += 1
    assert found == 12
    monkeypatch.setattr(script, "moved", lambda x, draw: x)
    for twins in (known.twins(), None):
        samples = script.StyledPictures(train, 16, twins)
        clean = evaluation.clean(train, list(range(len(train))), 16)
        assert len(samples) == (2 if twins else 72)
        kept = set()
        for number in range(40):
            row = samples.rows[number % len(samples)]
            sample = samples.sample(number % len(samples), torch.Generator().manual_seed(number))
            assert torch.equal(sample["picture"], clean[row]) and sample["own"] == train.label(row)
            [*there] = (clean == sample["real"]).all(3).all(2).all(1).nonzero().flatten().tolist()
            assert sample["style"] in [train.label(other) for other in there]
            if twins:
                assert {known.concepts[other] for other in there} == {"game die"}
            else:
                assert sample["style"] != sample["own"]
            kept.add((sample["own"], sample["style"]))
        pair = {train.label(row) for row in samples.rows} if twins else set()
        assert not twins or (kept > {(a, b) for a in pair for b in pair if a != b} and len(kept) <= 4)  # own, too


def test_both_pictures_of_a_sample_are_moved_alike():
    x = torch.rand(3, 32, 32) * 2 - 1
    places = set()
    for number in range(60):
        one, other = script.moved(torch.cat([x, -x]), torch.Generator().manual_seed(number)).chunk(2)
        inside = (slice(None), slice(2, 30), slice(2, 30))
        torch.testing.assert_close(one[inside], -other[inside])
        wide = {flip: torch.nn.functional.pad(x.flip(-1) if flip else x, [2] * 4, value=1.0) for flip in (0, 1)}
        places |= {(flip, a, b) for flip, y in wide.items() for a in range(5) for b in range(5)
                   if torch.equal(y[:, a : a + 32, b : b + 32], one)}  # fmt: skip
    assert len(places) > 20 and {flip for flip, *_ in places} == {0, 1}


def test_data_that_cannot_be_learned_from_are_refused_in_a_sentence(discs):
    train = open_source(discs, split="train", label_column="label")
    with pytest.raises(DataError, match="no column 'concept'.*--concept_column.*--preset cycle-32"):
        Counterparts(train, "concept")
    ones = open_source(discs, split="train", label_column="name")
    with pytest.raises(DataError, match="shows nothing in two styles"):
        Counterparts(ones, "name").twins()
    alike = open_source(discs, split="train", label_column="one")
    with pytest.raises(DataError, match="one style alone, 'same'.*--label_column"):
        script.StyledPictures(alike, 16, None)
    assert len(Counterparts(train, "name").twins()) == 12


def test_the_nearest_of_those_allowed_as_brute_force_finds_it():
    draw = np.random.default_rng(0)
    queries, references = draw.normal(size=(300, 5)), draw.normal(size=(40, 5))
    allowed = draw.random((300, 40)) < 0.3
    allowed[7] = False
    for row, found in enumerate(nearest(queries, references, allowed)):
        away = [
            np.linalg.norm(queries[row] - r) if ok else np.inf for r, ok in zip(references, allowed[row], strict=True)
        ]
        assert found == (-1 if row == 7 else int(np.argmin(away)))


# --- scores, runs and folders ----------------------------------------------------------------------------------------


class Stub:
    """A translator of discs that gives what `answer` does with (x, styles)."""

    style_names, resolution_px, name = ["day", "night"], 32, "stub"

    def __init__(self, answer):
        self.translate_tensor = answer


def test_scores_of_pairs_by_hand(discs):
    exam = evaluation.Exam(Stub(None), discs, {})
    part = exam.parts["validation"]
    pairs = [*held_out_pairs(exam.known, exam.own["validation"])]
    pixels = exam.pixels[id(part)]
    x, truths = (pixels[[pair[at] for pair in pairs]] for at in (1, 2))
    assert len(pairs) == 6 and part.labels.tolist() == [0, 1] * 3
    before = [np.sqrt(np.mean(((a - b).numpy() / 2) ** 2)) for a, b in zip(x, truths, strict=True)]
    assert not np.isclose(min(before), 0)

    def noted(answer):
        results = evaluation.Results("copying")
        evaluation.note_pairs(results, "validation", Stub(answer), exam, pairs, None)
        return results

    copying = noted(lambda x, styles: x)
    found = copying.metrics
    assert found["validation/rms_distance"] == pytest.approx(np.mean(before), rel=1e-5)
    assert copying.baseline["validation/rms_distance"] == found["validation/rms_distance"]
    assert found["validation/nearer_than_input"] == 0 and found["validation/style_right"] == 0
    assert found["validation/truth/style_right"] == 1 and found["validation/pairs"] == 6
    # The nearest training picture of the input's style, and its counterpart, by hand: of the same number.
    train = exam.pixels[id(exam.train)]
    theirs = []
    for _, row, truth in pairs:
        own = [k for k in range(12) if exam.train.label(k) == part.label(row)]
        best = min(own, key=lambda k: np.square(exam.features[k] - features_of(pixels[row])).sum())
        [twin] = exam.known.of(exam.known.concepts[best], style=part.label(truth))
        theirs.append(np.sqrt(np.mean(((train[twin] - pixels[truth]).numpy() / 2) ** 2)))
    assert found["validation/neighbour/rms_distance"] == pytest.approx(np.mean(theirs), rel=1e-5)
    assert found["validation/neighbour/nearer_than_input"] == np.mean(np.array(theirs) < before)
    half = noted(lambda x, styles: torch.cat([truths[:3], x[3:]]))
    assert half.metrics["validation/nearer_than_input"] == 0.5
    assert half.metrics["validation/rms_distance"] == pytest.approx(np.mean([0] * 3 + before[3:]), rel=1e-5)
    nearer = half.per_class["validation/nearer_than_input"]
    asked = [part.label(truth) for *_, truth in pairs]
    assert nearer == {name: pytest.approx(np.mean([k < 3 for k in range(6) if asked[k] == style]))
                      for style, name in enumerate(["day", "night"])}  # fmt: skip
    known = script.Looks(part, exam.known, "name", 32).scores(Stub(lambda x, styles: x))
    assert known["rms_distance"] == pytest.approx(np.mean(before), rel=1e-5)
    assert known["nearer_than_input"] == 0 and known["identity_l1"] == known["cycle_l1"] == 0


def features_of(x: torch.Tensor) -> np.ndarray:
    return evaluation.metrics.hog_colour_features(evaluation.to_uint8(x[None]))[0]


def test_pairs_are_learned_from_a_persons_own_folder(discs, tmp_path, capsys):
    """Two steps; then on from its export, unpaired."""
    flags = ["--preset", "tiny", "--cpu", "--dataset_name", discs, "--output_dir"]
    paired = ["--paired", "--l1_weight", "100", "--cycle_weight", "0", "--identity_weight", "0"]
    script.main([*flags, str(tmp_path / "run"), *paired])
    assert "validation/nearer_than_input" in capsys.readouterr().out
    served = translation.load(str(tmp_path / "run" / "export"), "cpu")
    assert served.style_names == ["day", "night"] and served.world is not None and served.discriminator.conditional
    measured = evaluation.evaluate_checkpoint(str(tmp_path / "run" / "export"), discs).as_json()
    assert measured["metrics"]["validation/pairs"] == 6 and "judges" not in measured
    cfg = dataclasses.replace(TINY, dataset_name=discs, pretrained_model_name_or_path=str(tmp_path / "run" / "export"))
    unet, discriminator = script.start_from(cfg, ["day", "night"])
    assert "no discriminator of styles alone: a new one" in capsys.readouterr().out and not discriminator.conditional
    for new, old in zip(unet.parameters(), served.model.parameters(), strict=True):
        assert torch.equal(new, old) and new.requires_grad


def test_other_styles_leave_all_but_what_is_of_the_styles(tmp_path, capsys):
    translation.save_folder(tmp_path, model())
    cfg = dataclasses.replace(TINY, **PAIRED, pretrained_model_name_or_path=str(tmp_path))
    unet, discriminator = script.start_from(cfg, ["a", "b"])
    assert "styles differ" in (said := capsys.readouterr().out) and "discriminator" not in said
    assert unet.style_names == ["a", "b"] and discriminator.num_styles == 2
    for new, old, part in ((unet, model().model, "embedding."), (discriminator, model().discriminator, "head.")):
        assert all(p.requires_grad for p in new.parameters()) and new.training
        theirs = old.state_dict()
        for name, value in new.state_dict().items():
            assert name.startswith(part) and len(value) == 2 or torch.equal(value, theirs[name])


def test_what_was_saved_translates_the_same_and_misfits_are_refused(tmp_path):
    ours = model()
    translation.save_folder(tmp_path / "whole", ours)
    served = translation.load(str(tmp_path / "whole"), "cpu")
    assert (served.style_names, served.resolution_px, served.parameters) == (STYLES, 16, ours.parameters)
    [mine], [theirs] = (each.translate(pictures(1), ["noto"]) for each in (ours, served))
    assert mine.tobytes() == theirs.tobytes() and served.world is None
    translation.save_folder(tmp_path / "bare", translation.Translator(ours.model))
    assert translation.load(str(tmp_path / "bare"), "cpu").discriminator is None
    wrong = translation.Translator(ours.model, translation.PatchDiscriminator([8], 4, True))
    translation.save_folder(tmp_path / "wrong", wrong)
    with pytest.raises(store.CheckpointError, match="knows 4 styles, the U-Net 3: export both again"):
        translation.load(str(tmp_path / "wrong"))
    config = json.loads((tmp_path / "bare" / "config.json").read_text())
    for changed, words in (({"style_dim": 16}, "disagree"), ({"channels": 8}, "a list of"), ({"world": 3}, "world")):
        (tmp_path / "bare" / "config.json").write_text(json.dumps(config | changed))
        with pytest.raises(store.CheckpointError, match=words):
            translation.load(str(tmp_path / "bare"))
    assert translation.load(str(tiny_models.translation_folder(tmp_path / "tiny")), "cpu").style_names == ["a", "b"]
