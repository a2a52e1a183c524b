"""training/judges: kept by hash, and what they say of drawn pictures; what of it is left out where they can't know."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image

from hub_models import classifier, store
from training import ddpm, judges, text_to_image
from training.data.sources import open_source
from training.task import Results
from training.text_to_image import judging

LABELS = open_source("emoji-sample", split="train").label_names


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Random judges in the place of the shipped ones, kept by their hashes; git must not be asked."""
    weights = tmp_path / "weights"
    monkeypatch.setattr(judges, "KEPT", tiny_models.kept_judges(weights, LABELS))
    monkeypatch.setattr(judges, "FOLDER", tmp_path / "kept")
    monkeypatch.setattr(store, "WEIGHTS", weights)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("git was asked"))
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    return weights


class Sayer:
    """Stands for a captioner: a picture's red says which of the texts it gets, a tuple where beams differ."""

    def __init__(self, *texts):
        self.texts = texts

    def caption_all(self, pictures, num_beams=1, num_return_sequences=1):
        said = [self.texts[picture.getpixel((0, 0))[0]] for picture in pictures]
        return [[type("Said", (), {"text": text}) for text in texts[:num_return_sequences]] for texts in said]


class Sorter:
    """Stands for a classifier: a picture's red is its class, its features are random but for that."""

    label_names = LABELS

    def logits(self, pictures):
        return torch.eye(12)[[picture.getpixel((0, 0))[0] for picture in pictures]]

    def features(self, pictures):
        red = torch.tensor([[picture.getpixel((0, 0))[0]] for picture in pictures])
        return torch.randn(len(pictures), 8) + red


def reds(*values) -> np.ndarray:
    pictures = np.zeros((len(values), 4, 4, 3), np.uint8)
    pictures[..., 0] = np.array(values)[:, None, None]
    return pictures


# ---- kept by hash ----------------------------------------------------------------------------------------------------


def test_the_shipped_ones_are_taken_while_they_are_the_same(tiny, capsys):
    assert judges.folder_of("captioning") == tiny / "captioning" / "emoji"
    assert judges.load().said.keys() == {"captioning", "classifier"}
    judges.main()
    assert capsys.readouterr().out.count("files checked") == 2


def test_others_come_from_git_once_and_altered_ones_are_refused(tiny, tmp_path, monkeypatch):
    history = tmp_path / "history"
    shutil.copytree(tiny, history)
    (tiny / "classifier/swin/model.safetensors").write_bytes(b"trained further")
    asked = []

    def git(command, **_):
        asked.append(command[-1])
        commit, _, path = command[-1].partition(":hub_models/weights/")
        assert commit == judges.COMMIT
        return subprocess.CompletedProcess(command, 0, (history / path).read_bytes())

    monkeypatch.setattr(subprocess, "run", git)
    assert judges.folder_of("classifier") == judges.folder_of("classifier") == tmp_path / "kept" / "classifier"
    assert sorted(asked) == sorted({*asked}) and len(asked) == len(judges.KEPT["classifier"][1])
    assert classifier.load(str(judges.folder_of("classifier")), "cpu").label_names == LABELS
    (tmp_path / "kept/classifier/config.json").write_text("{}")
    with pytest.raises(store.CheckpointError, match=r"config.json is not the judge's .* delete"):
        judges.load()


def test_without_git_it_is_said_what_to_do(tiny, tmp_path, monkeypatch):
    shutil.rmtree(tiny / "captioning")

    def git(command, **_):
        raise subprocess.CalledProcessError(128, command)

    monkeypatch.setattr(subprocess, "run", git)
    with pytest.raises(SystemExit, match="git fetch --unshallow"):
        judges.main()
    assert not (tmp_path / "kept").exists()


# ---- what they say ---------------------------------------------------------------------------------------------------


def test_named_is_named_first_and_exactly():
    for said in ("a red apple", "Red apple, noto style", "an emoji of a red apple", "a red apple, fruit"):
        assert judges.is_named(said, "red apple")
    for said in ("a green apple", "an apple", "a fruit, red apple", "a red apple to the left of a dog", ""):
        assert not judges.is_named(said, "red apple")
    assert judges.is_named("a family: man, woman", "family: man, woman")
    assert judging.is_named("a green apple", "red apple"), "colours aside where colours are judged"


def test_scores_are_shares_of_what_was_asked_for():
    said = [("a cat", "a dog"), ("a lion", "a cat"), ("a dog", "a cow")]
    both = judges.Judges(Sayer(*said), Sorter())
    scores = both.scores(reds(0, 0, 1, 2), ["cat", "dog", "cat", "pig"], [LABELS[0], LABELS[1], LABELS[1], LABELS[2]])
    assert scores == {"named_first": 0.25, "named_top5": 0.75, "classed": 0.75}
    assert both.classes_by_name(reds(0, 1, 2), {"cat": "animal", "dog": "pet"}) == ["animal", None, "pet"]


def test_the_tiny_ones_answer_through_their_contracts(tiny):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    scores = judges.load("cpu").scores(pictures, ["cat"] * 3, ["animal"] * 3)
    assert scores.keys() == {"named_first", "named_top5", "classed"} and all(0 <= v <= 1 for v in scores.values())


def test_kid_is_noted_with_its_interval_or_left_out():
    both, results = judges.Judges(Sayer(), Sorter()), Results("real pictures")
    both.note_kid(results, reds(*[2] * 60), reds(*[0] * 40), reds(*[0] * 90))
    found = results.metrics
    assert 0 < found["kid_x1000_low"] < found["kid_x1000"] < found["kid_x1000_high"] and not results.left_out
    assert results.baseline["kid_x1000"] < found["kid_x1000_low"]
    results = Results("real pictures")
    both.note_kid(results, reds(*[0] * 60), reds(*[0] * 40), reds(*[0] * 90))
    assert not results.metrics and not results.baseline and "holds 0" in results.as_json()["left_out"][0]


def test_style_is_that_of_the_nearest_picture_of_another_thing():
    rng = np.random.default_rng(0)
    flat, loud = np.full((6, 16, 16, 3), 200, np.uint8), rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    flat[..., 0] -= np.arange(6, dtype=np.uint8)[:, None, None]

    class Train:
        """Things "a" to "f", each in both styles."""

        source = type("Source", (), {"column": lambda self, name: ["noto"] * 6 + ["fluent"] * 6})()
        rows, names = np.arange(12), list("abcdef") * 2

    styles = judging.Styles(np.concatenate([flat, loud]), Train)
    assert styles.scores(flat, Train, range(6)) == {"style_right": 1, "style_by_chance": 0.5}
    assert styles.scores(flat, Train, range(6, 12))["style_right"] == 0
    loud[0] = flat[0]  # "a" looks alike in both, and isn't asked
    styles = judging.Styles(np.concatenate([flat, loud]), Train)
    assert [styles.scores(flat[:1], Train, [row])["style_right"] for row in (0, 6)] == [1, 0]


# ---- where they can't know -------------------------------------------------------------------------------------------


@pytest.fixture
def own_data(tmp_path):
    """make(labelled) -> somebody's folder of red and blue pictures, with a split to measure on."""

    def make(labelled: bool) -> str:
        for split, count in (("train", 8), ("validation", 6)):
            folder = tmp_path / "mine" / split
            folder.mkdir(parents=True)
            rows = []
            for number in range(count):
                name, colour = f"{number}.png", ("red", "blue")[number % 2]
                Image.new("RGB", (40, 40), colour).save(folder / name)
                rows.append({"file_name": name, "text": f"{colour} {number}"} | ({"label": colour} if labelled else {}))
            (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return str(tmp_path / "mine")

    return make


def test_a_ddpm_of_other_classes_is_measured_but_for_its_labels(tiny, own_data, tmp_path):
    folder = tiny_models.ddpm_folder(tmp_path / "model", label_names=["blue", "red"])
    results = ddpm.evaluate_checkpoint(str(folder), own_data(True))
    assert {"held_out_loss", "nearest_train_distance", "pictures"} <= results.metrics.keys()
    assert "label_accuracy" not in results.metrics and not results.per_class
    assert any("judges know the classes of emoji alone" in line for line in results.left_out)


def test_figures_that_no_judge_can_give_are_left_out_before_anything_is_drawn(tiny, own_data, tmp_path, monkeypatch):
    folder = tiny_models.ddpm_folder(tmp_path / "model", label_names=["blue", "red"])
    results = ddpm.evaluate_checkpoint(str(folder), own_data(True))
    assert not any("kid" in name for name in results.metrics) and "judges" not in results.more
    assert any("KID" in line and "--judge" in line for line in results.left_out)
    monkeypatch.setattr(ddpm, "draw", lambda *_, **__: pytest.fail("drawn before it was looked at"))
    other = tiny_models.ddpm_folder(tmp_path / "other", label_names=["blue", "green"])
    with pytest.raises(SystemExit, match=r"draws blue, green, but .* has blue, red: name the data .*--dataset"):
        ddpm.evaluate_checkpoint(str(other), str(tmp_path / "mine"))


def test_a_judge_of_the_same_classes_says_whether_labels_are_obeyed(tiny, own_data, tmp_path):
    folder = tiny_models.ddpm_folder(tmp_path / "model", label_names=["blue", "red"])
    judge = tiny_models.classifier(tmp_path / "judge", ["red", "blue", "other"])
    results = ddpm.evaluate_checkpoint(str(folder), own_data(True), judge=str(judge))
    assert 0 <= results.metrics["label_accuracy"] <= 1 and "label_accuracy" in results.baseline
    assert "named_label_accuracy" not in results.metrics, "nobody captions these"
    assert results.per_class["label_accuracy"].keys() == {"blue", "red"}
    assert list(results.more["judges"]) == ["classifier"]
    assert any("it takes 10 pictures, 6 are held out" in line for line in results.left_out)
    stranger = tiny_models.classifier(tmp_path / "stranger", ["red", "mug"])
    with pytest.raises(SystemExit, match="--judge .* does not know 'blue'"):
        ddpm.evaluate_checkpoint(str(folder), str(tmp_path / "mine"), judge=str(stranger))


@pytest.mark.parametrize("labelled", [False, True])
def test_an_unconditional_ddpm_is_measured_with_labels_and_without(tiny, own_data, tmp_path, labelled):
    data = own_data(labelled)
    ddpm.main(["--preset", "tiny", "--cpu", "--no-class_conditional", "--guidance_scale", "1", "--max_train_steps", "1",
               "--dataset_name", data, "--output_dir", str(tmp_path / "run")])  # fmt: skip
    results = ddpm.evaluate_checkpoint(str(tmp_path / "run" / "export"), data)
    assert results.metrics["pictures"] == 6 and "label_accuracy" not in results.metrics
    assert not any("labels" in line for line in results.left_out), "nothing was asked for"


def test_text_to_image_of_other_pictures_is_measured_but_not_named(tiny, own_data, tmp_path):
    folder = tiny_models.stable_diffusion(tmp_path / "model", text="bert")
    results = text_to_image.evaluate_checkpoint(str(folder), own_data(False), pictures=4)
    assert {"held_out_loss", "nearest_train_distance"} <= results.metrics.keys()
    assert not any("named" in key or "classed" in key for key in results.metrics)
    assert any("isn't named or classed" in line for line in results.left_out)
