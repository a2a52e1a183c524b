"""Recoloured emoji and pairs: what their captions say is so, for the same draws, from training pictures alone."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image, ImageDraw

from training import text_to_image as script
from training.checkpoint import RunError
from training.data import recoloured as recoloured_data
from training.data.captions import plain
from training.data.pairs import OPPOSITE, SIDES, Pairs
from training.data.recolouring import TARGETS, WORDS, coloured, measured, oklch, recolour, rgb_of
from training.data.sources import open_source
from training.text_to_image import judging

SHARES = {"recoloured_share": 0.3, "pair_share": 0.3, "pairs": 12}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def selection():
    source = open_source("emoji-sample", split="train")
    source.preload(32)
    return script.selection.select(source)


@pytest.fixture(scope="module")
def tinted(selection):
    return recoloured_data.Recoloured(selection, resolution_px=32, keep=False)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    home = tmp_path_factory.mktemp("parts")
    return {
        "vae_name_or_path": str(tiny_models.autoencoder_folder(home / "vae")),
        "clip_name_or_path": str(tiny_models.dual_encoder(home / "clip")),
    }


def disc(colour: str, ground=(255, 255, 255, 255)) -> Image.Image:
    picture = Image.new("RGBA", (64, 64), ground)
    ImageDraw.Draw(picture).ellipse((8, 8, 56, 56), fill=colour)
    return picture


# ---- colours ---------------------------------------------------------------------------------------------------------


def test_colours_of_plain_discs_are_called_what_people_call_them():
    known = {"red": "red", "#dd2e44": "red", "orange": "orange", "#ffcc4d": "yellow", "gold": "yellow",
             "green": "green", "limegreen": "green", "blue": "blue", "#55acee": "blue", "purple": "purple",
             "#9266cc": "purple", "hotpink": "pink", "#f4abba": "pink", "saddlebrown": "brown", "#662113": "brown",
             "black": "black", "gray": "grey"}  # fmt: skip
    said = {colour: measured(disc(colour)).word for colour in known}
    assert said == known
    clear = {colour: measured(disc(colour, (0, 0, 0, 0))).word for colour in known}
    assert clear == known, "as on white"
    assert measured(disc("white", (0, 0, 0, 0))).word == "white" and measured(disc("white")) is None


def test_a_motley_picture_has_no_colour():
    picture = disc("red")
    ImageDraw.Draw(picture).pieslice((8, 8, 56, 56), 0, 180, fill="blue")
    assert measured(picture) is None and recolour(picture, "green") is None


def test_oklch_and_back_is_the_same_bytes():
    rgb = np.random.default_rng(0).integers(0, 256, (500, 3), dtype=np.uint8)
    back = rgb_of(*oklch(rgb)).astype(int)
    assert np.abs(back - rgb).max() <= 1


@pytest.mark.parametrize("word", WORDS)
def test_recolouring_changes_the_coloured_part_alone(word):
    picture = disc("#2060d0" if word != "blue" else "#d03020", (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((28, 20, 36, 28), fill="black")
    draw.rectangle((28, 36, 36, 44), fill="white")
    made = recolour(picture, word)
    assert measured(made).word == word
    old, new = np.asarray(picture), np.asarray(made)
    assert (old[..., 3] == new[..., 3]).all() and (old[20:45, 28:37] == new[20:45, 28:37]).mean() > 0.6
    assert (new[22:27, 30:35, :3] == 0).all() and (new[38:43, 30:35, :3] == 255).all()
    (dark, light), *_ = TARGETS[word]
    lightness = oklch(new[12:18, 30:34, :3])[0].mean()
    assert dark - 0.03 <= lightness <= light + 0.03


def test_names_say_one_colour():
    assert coloured("red apple", "blue") == "blue apple" and coloured("house", "green") == "green house"
    assert plain(coloured("orange book", "orange")) == "an orange book"
    assert plain(coloured("blueberries", "pink")) == "pink blueberries", "no word inside a word"


# ---- what is trained on ----------------------------------------------------------------------------------------------


def test_recoloured_pictures_measure_as_their_captions_say(tinted, selection):
    assert 40 < len(tinted) < 2 * len(selection)
    for index, (word, name, texts) in enumerate(zip(tinted.words, tinted.names, tinted.captions, strict=True)):
        assert measured(tinted.picture(index)).word == word
        assert texts[0] == plain(coloured(name, word)) and sum(f" {w} " in f" {texts[0]} " for w in WORDS) == 1
        assert (name, word) not in recoloured_data.KEPT_OUT and not name.startswith("flag")
    assert set(tinted.names) <= set(selection.names)
    groups = tinted.source.column("group")
    of = {name: groups[row] for name, row in zip(selection.names, selection.rows, strict=True)}
    assert not {of[name] for name in tinted.names} & set(recoloured_data.NOT_OF)
    assert len(set(tinted.words)) >= 8


def test_sister_pictures_get_other_colours(selection):
    """Five pictures of one name: five words, as long as each can be painted."""

    class Sisters:
        names, captions, prompts, data_hash, source = ["ball"] * 5, None, None, "0", selection.source
        rows = selection.rows[:5]

        def picture(self, index):
            return disc("red", (0, 0, 0, 0))

    chosen = recoloured_data._choose(Sisters(), [True] * 5, 1, 0)
    turned = [word for _, word, new in chosen if new]
    assert len(turned) == 5 and len(set(turned)) >= 4 and "red" not in turned


def test_pairs_are_where_their_captions_say(selection, tinted):
    pairs = Pairs(selection, tinted, count=40)
    assert set(pairs.places) == set(SIDES)
    for index, (place, (one, other), texts) in enumerate(zip(pairs.places, pairs.things, pairs.captions, strict=True)):
        assert one != other and texts[0].split(", ")[0] in {f"{one} and {other}", f"{other} and {one}"}
        told = {
            f"{a} {said} {b}"
            for a, b, side in ((one, other, place), (other, one, OPPOSITE[place]))
            for said in SIDES[side]
        }
        assert texts[1].split(", ")[0] in told
        alpha = np.asarray(pairs.picture(index))[..., 3] > 128  # (R, R)
        halves = alpha.any(0 if place in ("left", "right") else 1)
        assert halves[:14].any() and halves[18:].any() and alpha.mean() < 0.5
    # the first is on the side that is said: alone it fills only that half
    for index in range(40):
        pairs._laid[index] = (*pairs._laid[index][:2], [pairs._laid[index][2][0], 1e-3], 0.0)
        ys, xs = np.nonzero(np.asarray(pairs.picture(index))[..., 3] > 128)
        side = {"left": xs.mean() < 16, "right": xs.mean() > 16, "above": ys.mean() < 16, "below": ys.mean() > 16}
        assert side[pairs.places[index]]


def test_held_out_pictures_and_names_are_in_neither(selection, tinted):
    pairs = Pairs(selection, tinted, count=30)
    trained = {selection.picture(i).tobytes() for i in range(len(selection))}
    for part in (selection.source, tinted.source, pairs.source):
        assert set(part.column("concept_split")) == {"train"}
    for first, second, *_ in pairs._laid:
        for kind, at in (first, second):
            assert (selection, tinted)[kind].picture(at) is not None
            assert kind or selection.picture(at).tobytes() in trained
    held_out = {
        name
        for split in ("validation", "heldout_pairs")
        for name in open_source("emoji-sample", split=split).column("name")
    }
    assert not (held_out - set(selection.names)) & set(tinted.names)


# ---- samples ---------------------------------------------------------------------------------------------------------


def samples(selection, parts, **changes):
    cfg = dataclasses.replace(script.PRESETS["tiny"], cpu=True, caption_dropout=0.2, **parts, **changes)
    torch.manual_seed(0)
    model, vae = script.model.create_model(cfg)
    return script.latents.samples_of(selection, model, vae, cfg), model, vae


def drawn(made, count=24) -> list[dict]:
    return [made.sample(i, torch.Generator().manual_seed(i)) for i in range(count)]


def test_without_shares_the_draws_are_the_old_ones(selection, parts):
    made, *_ = samples(selection, parts)
    assert isinstance(made, script.latents.LatentCaptions) and made.data_hash == selection.data_hash
    assert not [field for field in ("recoloured_share", "pair_share") if getattr(script.PRESETS["emoji"], field)]


def test_draws_are_the_same_with_the_cache_and_without(selection, parts, cache, capsys):
    cached, model, vae = samples(selection, parts, **SHARES)
    uncached, *_ = samples(selection, parts, no_cache=True, **SHARES)
    again, *_ = samples(selection, parts, **SHARES)
    assert capsys.readouterr().out.count("made once") == 6, "three kinds of latents and of states, once"
    assert len({*map(str, cache.glob("recolourings-*/"))}) == 1
    assert cached.data_hash == uncached.data_hash == again.data_hash != selection.data_hash
    batch, anew = (torch.utils.data.default_collate(drawn(part)) for part in (cached, uncached))
    for one, other in zip(
        script.latents.conditions(batch, model, vae), script.latents.conditions(anew, model, vae), strict=True
    ):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-3)
    second = torch.utils.data.default_collate(drawn(again))
    assert all(torch.equal(batch[key], second[key]) for key in batch)


def test_shares_are_kept(selection, parts):
    made, *_ = samples(selection, parts, no_cache=True, **SHARES)
    counts = {"usual": 0, "tinted": 0, "pairs": 0}
    for key, part in zip(counts, (made.usual, *(part for _, part in made.others)), strict=True):

        def count(index, draw, key=key):
            counts[key] += 1

        part.sample = count
    for i in range(1000):
        made.sample(i % len(made), torch.Generator().manual_seed(i))
    assert 250 < counts["tinted"] < 350 and 250 < counts["pairs"] < 350


def test_a_run_with_shares_resumes_to_the_bit_and_other_shares_are_refused(parts, tmp_path):
    def run(folder, *flags):
        script.main(["--preset", "tiny", "--cpu", "--output_dir", str(tmp_path / folder), "--lr_scheduler", "constant",
                     *(f"--{key}={value}" for key, value in (parts | SHARES).items()), *flags])  # fmt: skip

    run("whole")
    run("parts", "--max_train_steps", "1")
    with pytest.raises((RunError, SystemExit), match="pair_share"):
        run("parts", "--resume_from_checkpoint", "latest", "--pair_share=0.2")
    run("parts", "--resume_from_checkpoint", "latest")
    whole, both = (
        (tmp_path / name / "export" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
        for name in ("whole", "parts")
    )
    assert whole == both
    facts = json.loads((tmp_path / "whole" / "export" / "run.json").read_text())
    assert facts["config"]["pair_share"] == 0.3


def test_shares_that_make_no_sense_are_refused(parts):
    for changes in (
        {"recoloured_share": 0.7, "pair_share": 0.4},
        {"pair_share": -0.1},
        {"pair_share": 0.1, "pairs": 0},
    ):
        with pytest.raises(ValueError, match="pair"):
            dataclasses.replace(script.PRESETS["tiny"], **changes)


# ---- judging ---------------------------------------------------------------------------------------------------------


class Sayer:
    """Stands for a captioner: says the first of its texts for each picture in turn."""

    def __init__(self, texts):
        self.texts = texts

    def caption_all(self, pictures):
        assert len(pictures) == len(self.texts)
        return [[type("Said", (), {"text": text})] for text in self.texts]


def test_colour_scores_count_hue_and_thing():
    asked = judging.colour_prompts()
    assert len(asked) == 48 and len({prompt for *_, prompt in asked}) == 48 and asked[1][2] == "an orange automobile"
    assert sum((thing, word) in recoloured_data.KEPT_OUT for thing, word, _ in asked) == 16
    red = np.asarray(disc("red").convert("RGB"))
    scores = judging.colour_scores([red] * 48, Sayer([f"a {thing}, noto style" for thing, *_ in asked]))
    assert scores["hue_right"] == pytest.approx(1 / 6) == scores["both_right"] and scores["thing_right"] == 1
    assert judging.colour_scores([red] * 48, Sayer(["a house"] * 48))["thing_right"] == pytest.approx(1 / 8)
    assert judging.is_named("a red bird", "bird") and not judging.is_named("a blackbird", "bird")
