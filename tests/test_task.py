"""training/task: what is measured is what is handed over, and a card says of data what the data say of themselves."""

import copy
import dataclasses
import importlib
import json
import math

import pytest
import tiny_models
import torch
from families import FAMILIES
from PIL import Image

from training import publish
from training.task import Results, described


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A folder of what U-Net and captioner stand on: vae/ and clip/, random."""
    folder = tmp_path_factory.mktemp("parts")
    tiny_models.autoencoder_folder(folder / "vae")
    tiny_models.dual_encoder(folder / "clip")
    return folder


def tiny(stem, parts, **changes):
    """(its script, the config of its tiny preset)"""
    script = importlib.import_module(f"training.{stem}")
    cfg = dataclasses.replace(script.PRESETS["tiny"], cpu=True, **changes)
    on = {"vae_name_or_path": str(parts / "vae"), "clip_name_or_path": str(parts / "clip")}
    return script, dataclasses.replace(cfg, **{key: path for key, path in on.items() if hasattr(cfg, key)})


@pytest.mark.parametrize("stem", FAMILIES)
def test_the_model_that_is_handed_over_is_the_one_that_is_measured(stem, parts, tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    script, cfg = tiny(stem, parts, output_dir=str(tmp_path / "run"))
    task = script.task_of(cfg)
    trained = task.players[0].module
    other = copy.deepcopy(trained).eval()
    with torch.no_grad():
        for p in trained.parameters():
            p.fill_(math.nan)  # who looks at this one finds nothing
    scores = task.evaluate(task.served(other))
    assert scores and all(math.isfinite(value) for value in scores.values())
    saved = tmp_path / "saved"
    saved.mkdir()
    task.save(saved, task.served(other))
    served = importlib.import_module(f"hub_models.{stem}").load(str(saved), device="cpu")
    holder = next(
        part for name in ("vae", "unet", "model", "pipe") if (part := getattr(served, name, None)) is not None
    )
    weights = getattr(holder, "unet", holder).parameters()
    assert all(p.isfinite().all() for p in weights)


def test_a_run_is_of_the_timesteps_that_its_base_has(parts, tmp_path, monkeypatch):
    """So that its checkpoints, whose configuration is compared on a resume, say what trained them."""
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    base = tiny_models.stable_diffusion(tmp_path / "base")
    script, cfg = tiny("text_to_image", parts, pretrained_model_name_or_path=str(base), num_train_timesteps=500)
    assert script.task_of(cfg).cfg == dataclasses.replace(cfg, num_train_timesteps=1000)


@pytest.fixture
def emoji_faces(tmp_path, monkeypatch):
    """A person's own folder, named as ours nearly are, from where the scripts are started."""
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 6), ("validation", 3)):
        folder = tmp_path / "emoji_faces" / split
        folder.mkdir(parents=True)
        rows = []
        for number in range(count):
            colour = ("red", "blue")[number % 2]
            Image.new("RGB", (40, 40), colour).save(folder / f"{number}.png")
            rows.append({"file_name": f"{number}.png", "label": colour, "text": f"a {colour} face"})
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "emoji_faces"


@pytest.mark.parametrize("stem", [stem for stem in FAMILIES if stem not in ("captioning", "detection", "segmentation")])
def test_a_folder_called_emoji_faces_is_its_owners(stem, emoji_faces, parts, tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    script, cfg = tiny(stem, parts, dataset_name=emoji_faces, output_dir="run")
    task = script.task_of(cfg)
    made = task.finished(task.served(task.players[0].module.eval()))
    said = described(task, cfg, task.card(made), ["--dataset_name", emoji_faces])
    assert said["attributions"] == [] and said["datasets"] == [] and said["license"] is None
    assert "Training data: emoji_faces" in said["summary"] and not said["name"].startswith("emoji")
    run = {"steps": 0, "images_seen": 0, "hours": 0.0, "config": {"dataset_name": emoji_faces}}
    names = publish.write_export(tmp_path / "export", lambda folder: task.save(folder, made), run | said)
    card = (tmp_path / "export" / "README.md").read_text()
    assert "README.md" in names and "Twemoji" not in card and "emoji art" not in card and "drawn emoji" not in card


def test_results_are_kept_by_set():
    results = Results("chance", hashes=["a" * 64, "b" * 64], more={"judge": "me"})
    results.note("validation", {"top1": 0.5, "pictures": 4}, {"top1": 0.25})
    results.note("unseen_style", {"top1": 0.75})
    found = results.as_json()
    assert found["metrics"] == {"validation/top1": 0.5, "validation/pictures": 4, "unseen_style/top1": 0.75}
    assert found["baseline"] == {"validation/top1": 0.25} and found["baseline_name"] == "chance"
    assert found["data_hash"] == f"{'a' * 12}-{'b' * 12}" and found["judge"] == "me"
