"""What leaves this machine names no place on it, its command works in a shell, and it says what it came from."""

import json
import shlex
from pathlib import Path

import pytest
import yaml
from families import FAMILIES, run_of

from hub_models import store
from hub_models.publish import card, paths
from training import evaluate, publish
from training.data.split import ROOT


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("/home/me/my pictures", "my pictures"),
        ("/home/me/runs/cats/export", "cats"),
        ("/home/me/runs/cats/export/", "cats"),
        ("~/cats", "cats"),
        ("../data/cats", "cats"),
        ("C:\\Users\\me\\cats", "cats"),
        ("\\\\server\\share\\cats", "cats"),
        ("/home/me/cats/../dogs", "dogs"),
    ],
)
def test_a_place_on_this_machine_is_said_by_its_name(text, name):
    assert paths.is_place(text) and paths.called(text) == name
    assert paths.portable(text) == name and paths.portable(f"--dataset_name={text}") == f"--dataset_name={name}"


@pytest.mark.parametrize("text", ["emoji", "org/name", "runs/x/export", "a cat / a dog", "/", "", "--seed", 7, None])
def test_what_is_none_stays(text):
    assert not paths.is_place(text)
    assert paths.without_places({"a": [text]}) == {"a": [text]}


def test_a_place_is_forgotten_wherever_it_is_named():
    run = {"config": {"dataset_name": "/home/me/my cats", "more": ("/home/me/my cats/b", 1)},
           "changed_on_resume": ["dataset_name was '/home/me/my cats' and is 'x'"], "steps": 3}  # fmt: skip
    said = paths.without_places(run)
    assert said["config"] == {"dataset_name": "my cats", "more": ["b", 1]} and said["steps"] == 3
    assert said["changed_on_resume"] == ["dataset_name was 'my cats' and is 'x'"]


@pytest.mark.parametrize("stem", FAMILIES)
def test_no_file_of_an_export_names_a_folder_of_this_machine(stem, tmp_path):
    """A model that was opened here and saved again, trained on a folder from a folder: as fine-tuning leaves it."""
    family, base, data = FAMILIES[stem], tmp_path / "somebody" / "base", tmp_path / "somebody" / "my | pictures"
    family.save(base)
    data.mkdir()
    argv = ["--dataset_name", str(data), "--pretrained_model_name_or_path", str(base), "--name", "it's"]
    run = run_of(stem, config={"dataset_name": str(data)}, datasets=[str(data)], base_model=str(base),
                 command=publish.command_line(stem, argv), changed_on_resume=[f"dataset_name was {data}"])  # fmt: skip
    publish.write_export(tmp_path / "export", lambda folder: family.again(family.load(base), folder), run)
    for path in (tmp_path / "export").rglob("*"):
        if path.suffix in (".json", ".md", ".txt"):
            text = path.read_text(encoding="utf-8")
            assert "somebody" not in text and str(tmp_path) not in text and str(ROOT) not in text, path
    front = yaml.safe_load((tmp_path / "export" / "README.md").read_text().split("---\n")[1])
    assert "base_model" not in front and "datasets" not in front
    family.load(tmp_path / "export")


def test_the_command_in_a_card_is_one_that_a_shell_takes_again():
    words = ["--preset", "finetune", "--dataset_name", "/home/me/my secret pictures", "--validation_prompts", "a 'cat'"]
    line = publish.command_line("ddpm", [*words, "--output_dir", "/tmp/x", "--hub_model_id=org/x", "--push_to_hub"])
    again = shlex.split(line)
    assert again[3:] == ["--preset", "finetune", "--dataset_name", "my secret pictures", "--validation_prompts",
                         "a 'cat'", "--output_dir", "runs/ddpm"]  # fmt: skip
    hyphens = ["--hub-model-id", "me/secret", "--push-to-hub", "--output-dir=/tmp/x", "--seed", "3"]
    assert publish.command_line("ddpm", hyphens) == "python -m training.ddpm --seed 3 --output_dir runs/ddpm"


def test_a_folder_that_could_be_called_so_on_the_hub_is_no_data_set_of_it(tmp_path, monkeypatch):
    """Whoever writes the card again may be elsewhere, where data/cats is no folder."""
    from types import SimpleNamespace

    from training import task
    from training.data.facts import Facts

    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "cats").mkdir(parents=True)
    own = SimpleNamespace(stem="ddpm", source=SimpleNamespace(facts=Facts("cats", license="mit"), licenses=[]))
    said = task.Card("x", "x", "x", None, None, [], 1, "", [])
    for name, kept in (("data/cats", []), ("org/cats", ["org/cats"])):
        cfg = SimpleNamespace(dataset_name=name, pretrained_model_name_or_path=None)
        assert task.described(own, cfg, said, [])["datasets"] == kept


def test_a_run_that_begins_from_a_bundled_variant_tells_its_lineage():
    run = run_of("classifier", base_model="photo", base_license="apache-2.0", datasets=["org/data"])
    run = publish.with_stages(run)
    weights = store.weights_sha256(store.bundled("classifier")["photo"])[:12]
    [line] = run["lineage"]
    assert line.startswith("Vitrail's `classifier/photo`, ") and line.endswith(f"weights {weights}")
    text = card.write_card(run | {"license": "cc-by-4.0"}, None)
    assert f"| fine-tuned from | {line} |" in text and "base_model" not in text.split("---\n")[1]
    before = json.loads((store.bundled("classifier")["photo"] / "run.json").read_text())["attributions"]
    assert run["base_attributions"] == before and all(f"- {name}" in text for name in before)


def test_a_run_that_goes_on_from_a_bundled_variant_on_its_data_counts_it_in():
    before = json.loads((store.bundled("ddpm")["emoji-32"] / "run.json").read_text())
    run = publish.with_stages(run_of("ddpm", base_model="emoji-32", config=before["config"]))
    [stage] = run["earlier"]
    assert (stage["steps"], stage["command"]) == (before["steps"], before["command"])


# ---- what was measured -----------------------------------------------------------------------------------------------


@pytest.fixture
def export(tmp_path) -> Path:
    """The export of a run in its folder, as the tiny presets leave it."""
    folder = tmp_path / "runs" / "mine" / "export"
    folder.mkdir(parents=True)
    config = {"dataset_name": str(tmp_path / "data"), "label_column": "kind", "image_column": "image", "seed": 0}
    (folder.parent / "config.json").write_text(json.dumps(config))
    (folder / "run.json").write_text(json.dumps({"config": paths.without_places(config)}))
    return folder


def test_data_are_opened_as_the_run_opened_them(export, tmp_path):
    data = str(tmp_path / "data")
    assert evaluate.trained_on(export) == data
    assert evaluate.columns_of(export, data, {}) == {"label_column": "kind", "image_column": "image"}
    assert evaluate.columns_of(export, data, {"label_column": "other"})["label_column"] == "other"
    assert evaluate.columns_of(export, "emoji", {}) == {}, "other data have other columns"
    moved = export.rename(tmp_path / "pulled")
    assert evaluate.trained_on(moved) == "data" and evaluate.columns_of(moved, data, {})["label_column"] == "kind"


@pytest.mark.parametrize("content", [None, "{}", '{"config": 3}', '{"config": {"dataset_name": 7}}'])
def test_a_model_of_others_needs_a_data_set_by_name(tmp_path, content):
    if content:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(SystemExit, match="name a data set with --dataset"):
        evaluate.trained_on(tmp_path)


def test_results_of_two_exports_have_two_names(tmp_path):
    import argparse

    import tiny_models

    said = set()
    for run, labels in (("mine", "a"), ("theirs", "ab"), ("elsewhere/mine", "abc")):
        folder = Path(tiny_models.ddpm_folder(tmp_path / run / "export", label_names=list(labels)))
        for data in (None, "/x/cats", "dogs"):
            given = argparse.Namespace(stem="ddpm", model=str(folder), dataset=data)
            said.add(evaluate.label(folder, given))
    assert len(said) == 9 and any(name.startswith("mine-") and name.endswith("-on-cats") for name in said)
    swin = store.bundled("classifier")["swin"]
    assert evaluate.label(swin, argparse.Namespace(stem="classifier", model="swin", dataset=None)) == "swin"
