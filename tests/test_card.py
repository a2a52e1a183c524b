"""hub_models/publish: a card says what was recorded and nothing else; the lint refuses what the Hub has refused."""

import re

import pytest
import yaml

from hub_models.publish import card, licences, lint, tables

RUN = {
    "stem": "classifier",
    "name": "swin",
    "title": "Swin classifier, 64 px",
    "summary": "A small Swin.",
    "library_name": "timm",
    "pipeline_tag": "image-classification",
    "tags": ["image-classification", "timm"],
    "license": "cc-by-4.0",
    "datasets": ["org/emoji", "emoji", "build/data/emoji"],
    "command": "python -m training.classifier --preset swin",
    "hardware": "2 CPU cores",
    "hours": 1.25,
    "steps": 6000,
    "images_seen": 768000,
    "seed": 0,
    "parameters": 1234567,
    "attributions": ["Twemoji, Twitter and other contributors, CC BY 4.0"],
    "usage": "import timm",
    "limits": ["It sees 64 pixels."],
    "pictures": ["confusion.png"],
}
RESULTS = {
    "stem": "classifier",
    "model": "swin",
    "dataset": "emoji",
    "data_hash": "ab" * 32,
    "seconds": 12.5,
    "metrics": {
        "validation/top1": 0.5678,
        "heldout_pairs/top1": 0.71239,
        "heldout_pairs/pictures": 1043,
        "kid": 1.23456,
    },
    "baseline": {"heldout_pairs/top1": 0.3},
    "baseline_name": "HOG nearest neighbour",
    "per_class": {"validation": {"face": 0.25, "flag": None}},
}


def front_matter(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def lint_front(front: dict) -> str:
    base = {"license": "mit", "library_name": "timm"}
    return "\n".join(lint.lint(f"---\n{yaml.safe_dump(base | front)}---\n# Model\n"))


def test_card_says_what_was_measured_and_recorded():
    text = card.write_card(RUN, RESULTS)
    assert lint.lint(text) == []
    assert "| `heldout_pairs/top1` | 71.2 % | 30.0 % |" in text and "| `validation/top1` | 56.8 % |  |" in text
    assert "HOG nearest neighbour" in text and "1,043" in text and "| `kid` | 1.235 |  |" in text
    assert "| face | 25.0 % |" in text and "| flag | – |" in text
    for said in [
        "768,000",
        "6,000",
        "1.25",
        "2 CPU cores",
        "1,234,567",
        RUN["command"],
        "import timm",
        "![confusion](confusion.png)",
    ]:
        assert said in text
    front = front_matter(text)
    assert front["datasets"] == ["org/emoji"], "only what is a Hub id may stand there"
    results = {r["dataset"].get("split"): r for r in front["model-index"][0]["results"]}
    assert results["heldout_pairs"]["metrics"][0] == {
        "type": "accuracy",
        "name": "heldout_pairs/top1",
        "value": 0.71239,
    }
    assert results["validation"]["dataset"] == {"type": "emoji", "name": "emoji (validation)", "split": "validation"}
    assert results[None]["metrics"] == [{"type": "kid", "name": "kid", "value": 1.23456}]


def test_every_front_matter_agrees_with_huggingface_hub():
    from huggingface_hub import ModelCard

    data = ModelCard(card.write_card(RUN, RESULTS)).data
    assert data.license == "cc-by-4.0" and data.library_name == "timm" and data.model_name == "swin"
    assert {(r.dataset_split, r.metric_value) for r in data.eval_results} >= {
        ("heldout_pairs", 0.71239),
        ("validation", 0.5678),
    }


def test_what_was_not_recorded_is_not_invented():
    bare = card.write_card({"stem": "ddpm", "name": "x", "library_name": "diffusers"}, None)
    assert lint.lint(bare) == []
    assert bare.count("not recorded") >= 6 and "Not measured yet" in bare
    assert not re.search(r"\bNone\b|null|nan", bare) and "model-index" not in front_matter(bare)
    body = bare.split("---\n")[2]
    assert not re.search(r"\d", body), "a number from nowhere"


def test_numbers_that_are_none_are_left_out():
    metrics = {"validation/top1": float("nan"), "kid": float("inf"), "heldout_pairs/top1": 0.5}
    text = card.write_card(RUN, RESULTS | {"metrics": metrics})
    assert lint.lint(text) == []
    assert [len(r["metrics"]) for r in front_matter(text)["model-index"][0]["results"]] == [1]


def test_twemoji_keeps_its_licence():
    for licence in ("apache-2.0", "mit", None):
        with pytest.raises(ValueError, match="cc-by-4.0"):
            card.write_card(RUN | {"license": licence}, None)


def test_base_model_is_said_only_if_others_can_find_it():
    front = front_matter(card.write_card(RUN | {"base_model": "timm/vit_small"}, None))
    assert front["base_model"] == "timm/vit_small" and front["base_model_relation"] == "finetune"
    local = card.write_card(RUN | {"base_model": "/home/somebody/runs/vit/export"}, None)
    assert "base_model" not in front_matter(local) and "somebody" not in local


def test_stages_before_a_run_are_counted_in_and_their_commands_come_first():
    stage = {"command": "python -m training.classifier --preset vit", "hours": 2.5, "steps": 100, "images_seen": 6400}
    changed = stage | {"steps": 50, "changed_on_resume": ["from step 9 on, seed was 0 and is 1"]}
    text = card.write_card(RUN | {"base_model": "runs/vit/export", "earlier": [stage, changed]}, None)
    assert "| before that (stage 1) | 100 steps, 6,400 pictures, 2.50 hours |" in text
    assert (
        "| before that (stage 2) | 50 steps, 6,400 pictures, 2.50 hours; from step 9 on, seed was 0 and is 1 |" in text
    )
    assert "| in all | 6,150 steps, 780,800 pictures, 6.25 hours |" in text and "fine-tuned from" not in text
    assert (
        "--preset vit\npython -m training.classifier --preset vit\npython -m training.classifier --preset swin\n"
        in text
    )
    assert "in all" not in card.write_card(RUN, None) and card.in_all(RUN)["steps"] == 6000


@pytest.mark.parametrize(
    ("front", "said"),
    [
        # Cards that the Hub has refused at the end of a training: nulls and local paths written by other trainers.
        ({"datasets": [None]}, "datasets[0] is null"),
        ({"base_model": None}, "base_model is null"),
        ({"datasets": ["/data/pokemon"]}, "no Hub id"),
        ({"datasets": ["./my pictures"]}, "no Hub id"),
        ({"datasets": "build/data/emoji"}, "no Hub id"),
        ({"base_model": "runs/vit/checkpoint-500"}, "no Hub id"),
        ({"base_model": "C:\\models\\vit"}, "no Hub id"),
        ({"license": "Apache 2.0"}, "no licence id"),
        ({"license": "cc-by-4"}, "no licence id"),
        ({"license": "other"}, "license_name"),
        ({"license": "other", "license_name": "mine"}, "license_link"),
        ({"pipeline_tag": "class-conditional-image-generation"}, "no task"),
        ({"pipeline-tag": "image-classification"}, "no such key"),
        ({"library_name": None}, "library_name"),
        ({"tags": "one"}, "list of strings"),
        ({"tags": [1]}, "list of strings"),
        ({"base_model_relation": "child"}, "none of"),
        ({"model-index": []}, "model-index"),
        ({"model-index": [{"results": []}]}, "model-index[0].name"),
    ],
)
def test_lint_refuses(front, said):
    assert said in lint_front(front)


@pytest.mark.parametrize(
    "path",
    "name task task.type dataset dataset.type dataset.name metrics metrics.type metrics.value".split(),
)
def test_lint_misses_no_required_field_of_the_model_index(path):
    result = {"task": {"type": "t"}, "dataset": {"type": "d", "name": "D"}, "metrics": [{"type": "m", "value": 0.0}]}
    model = {"name": "n", "results": [result]}
    assert lint_front({"model-index": [model]}) == ""
    holder, _, key = path.rpartition(".")
    target = model if path == "name" else result[holder] if holder else result
    target = target[0] if isinstance(target, list) else target
    del target[key]
    assert path.split(".")[-1] in lint_front({"model-index": [model]})


def test_lint_of_model_index_details():
    metric = {"type": "m", "value": 1}
    result = {"task": {"type": "t"}, "dataset": {"type": "/data/x", "name": "D", "config": None}, "metrics": [metric]}
    said = lint_front({"model-index": [{"name": "n", "results": [result | {"source": {"name": "here"}}]}]})
    assert "local path" in said and "dataset.config is null" in said and "source.url is missing" in said


@pytest.mark.parametrize(
    "text", ["# no front matter", "---\n: [\n---\n", "---\njust words\n---\n", "---\nlicense: mit\n"]
)
def test_lint_of_broken_front_matter(text):
    assert len(lint.lint(text)) == 1


def test_lint_accepts_what_the_hub_accepts():
    front = {
        "language": ["en"],
        "license": "other",
        "license_name": "mine",
        "license_link": "LICENSE",
        "datasets": ["squad", "org/d.v1"],
        "base_model": ["timm/vit_tiny"],
        "base_model_relation": "finetune",
        "pipeline_tag": "image-to-text",
        "tags": ["a"],
        "widget": [{"text": "a cat", "output": {"url": "image_0.png"}}],
        "inference": False,
        "thumbnail": "https://x.example/a.png",
    }
    assert lint_front(front) == ""


def test_numbers_are_formatted_once_and_alike():
    assert tables.format_number("unseen_style/top5", 1.0) == "100.0 %"
    assert tables.format_number("label_accuracy", 0.7049) == "70.5 %"
    assert tables.format_number("kid", 0.012345) == "0.01235" and tables.format_number("pictures", 12345) == "12,345"
    assert tables.format_number("top1", None) == tables.format_number("top1", float("nan")) == "–"


@pytest.mark.parametrize(
    ("licenses", "whole"),
    [
        (["apache-2.0"], "apache-2.0"),
        (["mit", "apache-2.0"], "apache-2.0"),
        (["apache-2.0", "mit", "cc-by-4.0"], "cc-by-4.0"),
        (["mit AND cc-by-4.0", "apache-2.0"], "cc-by-4.0"),
        (["cc-by-4.0", "cc-by-sa-4.0"], "cc-by-sa-4.0"),
        (["cc-by-4.0", "cc-by-nc-4.0"], "cc-by-nc-4.0"),
        (["cc-by-nc-sa-4.0", "cc-by-nc-4.0", "mit"], "cc-by-nc-sa-4.0"),
        (["creativeml-openrail-m", "cc-by-4.0"], "creativeml-openrail-m"),
        (["gpl-3.0", "apache-2.0"], "gpl-3.0"),
        (["artistic-2.0"], "artistic-2.0"),
    ],
)
def test_one_licence_covers_the_parts_in_any_order(licenses, whole):
    assert licences.one_license(licenses) == licences.one_license(licenses[::-1]) == whole


@pytest.mark.parametrize(
    ("licenses", "said"),
    [
        (["cc-by-sa-4.0", "cc-by-nc-4.0"], "exclude each other"),
        (["creativeml-openrail-m", "cc-by-sa-4.0"], "exclude each other"),
        (["gemma", "llama3"], "exclude each other"),
        (["gpl-3.0", "cc-by-4.0"], "exclude each other"),
        (["cc-by-nd-4.0", "mit"], "cc-by-nd-4.0 allows isn't known"),
        (["unknown"], "isn't known"),
        (["mit", None], "no licence is stated"),
        ([], "no licence is stated"),
    ],
)
def test_licences_without_a_common_one_say_how_to_settle_it(licenses, said):
    with pytest.raises(licences.LicenseError, match=said) as caught:
        licences.one_license(licenses)
    assert "--license ID" in str(caught.value)


def test_the_licence_of_the_base_model_counts():
    text = card.write_card(RUN | {"base_model": "org/base", "base_license": "cc-by-sa-4.0"}, None)
    assert front_matter(text)["license"] == "cc-by-sa-4.0" and "began from: `cc-by-sa-4.0`" in text
    doubtful = card.write_card(RUN | {"base_model": "org/base", "base_license": None}, None)
    assert (
        "license" not in front_matter(doubtful) and "No licence is stated for these weights yet: no licence" in doubtful
    )
    settled = RUN | {"base_model": "org/base", "base_license": None, "license_settled": True}
    assert front_matter(card.write_card(settled, None))["license"] == "cc-by-4.0"
    own = RUN | {"license": None, "attributions": [], "base_model": "org/base", "base_license": "gemma"}
    assert front_matter(card.write_card(own, None))["license"] == "gemma"


def test_a_model_that_draws_has_a_gallery_and_curves_stand_with_the_training():
    run = RUN | {"pipeline_tag": "text-to-image", "pictures": ["samples.png", "training.png"]}
    text = card.write_card(run, None)
    assert front_matter(text)["widget"][0]["output"] == {"url": "samples.png"} and "<Gallery />" in text
    assert text.index("![samples]") < text.index("## How it was trained") < text.index("![training]")
    assert lint.lint(text) == []
    assert "<Gallery />" not in card.write_card(RUN, None)
    lora = front_matter(card.write_card(run | {"tags": ["lora"], "base_model": "org/sd"}, None))
    assert lora["base_model_relation"] == "adapter" and "template:sd-lora" in lora["tags"]


# The kinds of cards that trainers have written and the Hub has refused, after hours of training.
REFUSED = [
    ("datasets:\n- null", "datasets[0] is null"),
    ("base_model: /content/drive/MyDrive/vit", "no Hub id"),
    ("datasets:\n- /root/.cache/huggingface/datasets/imagefolder/default-5a3f", "no Hub id"),
    (
        "model-index:\n- name: v\n  results:\n  - task: {type: t}\n    dataset: {type: d, name: D}\n    metrics:\n"
        "    - {type: accuracy, value: null}",
        "value is null",
    ),
    ("license: Apache License 2.0", "no licence id"),
    ("language: null", "language is null"),
    ("tags:\n- 3\n- null", "tags[1] is null"),
    ("base_model:\n- org/a/b", "no Hub id"),
]


@pytest.mark.parametrize(("lines", "said"), REFUSED)
def test_what_the_hub_has_refused_is_refused_here(lines, said):
    from loopback_hub import refusals

    text = f"---\nlibrary_name: transformers\n{lines}\n---\n# Model\n"
    assert any(said in problem for problem in lint.lint(text)), lint.lint(text)
    assert refusals(text, "model") or "tags" in lines or "language" in lines, "the stand-in refuses it as well"


SPACE = """---
title: Latent Diffusion Playground
emoji: 🎨
colorFrom: indigo
colorTo: pink
sdk: gradio
sdk_version: 6.31.0
python_version: "3.12"
app_file: app.py
pinned: false
license: apache-2.0
short_description: Small CLIP-conditioned latent diffusion, step by step
models: [org/model]
datasets: [org/data]
tags: [text-to-image]
suggested_hardware: zero-a10g
startup_duration_timeout: 1h
preload_from_hub:
- org/model model_index.json,unet/diffusion_pytorch_model.safetensors 0123456789012345678901234567890123456789
---
"""


def test_the_front_matter_of_a_space_passes():
    assert lint.lint(SPACE, "space") == []


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("sdk_version: 6.31.0", "sdk_version: 6.31", "full version"),
        ('python_version: "3.12"', "python_version: 3.12", "quoted"),
        ('python_version: "3.12"', 'python_version: "3.11"', "ZeroGPU"),
        ("emoji: 🎨", "emoji: art", "no emoji"),
        ("app_file: app.py", "app_file: /app.py", "no file of the Space"),
        ("datasets: [org/data]", "datasets: ./data", "no Hub id"),
        ("license: apache-2.0", "license: Apache 2.0", "no licence id"),
        ("title: Latent", "title: [Latent", "not YAML"),
        ("colorFrom: indigo", "colorFrom: orange", "colorFrom"),
        ("sdk: gradio", "sdk: streamlit", "sdk"),
        ("title: Latent Diffusion Playground\n", "", "title is missing"),
        ("app_file: app.py\n", "", "app_file is missing"),
        ("short_description: Small", "short_description: Small and beautiful and", "60 characters"),
        ("models: [org/model]", "models: [runs/model/export]", "no Hub id"),
        ("models: [org/model]", "models: org/model", "list of strings"),
        ("zero-a10g", "h100", "suggested_hardware"),
        ("startup_duration_timeout: 1h", "startup_duration_timeout: soon", "no time"),
        ("0123456789012345678901234567890123456789", "main", "preload_from_hub"),
        ("pinned: false", "pinned: no way", "true or false"),
        ("license: apache-2.0", "licence: apache-2.0", "no such key"),
        ("license: apache-2.0", "license: null", "is null"),
        ("pinned: false", "custom_headers: {x-frame-options: deny}", "custom_headers"),
    ],
)
def test_lint_refuses_in_a_space(before, after, said):
    assert before in SPACE
    assert any(said in problem for problem in lint.lint(SPACE.replace(before, after), "space"))


def test_lint_of_data_set_cards():
    good = "---\nlicense: [mit, cc-by-4.0]\npretty_name: P\nsize_categories: [n<1K]\n"
    good += "task_categories: [image-classification]\n"
    configs = "configs:\n- config_name: default\n  data_files:\n  - {split: train, path: data/train-*}\n"
    assert lint.lint(f"{good}{configs}---\n", "dataset") == []
    for lines, said in [
        (configs.replace("data/train", "/home/me/train"), "no path within"),
        (configs.replace("config_name: default", "name: default"), "config_name is missing"),
        ("library_name: x\n", "no such key"),
        ("size_categories: [small]\n", "size_categories"),
        ("task_categories: null\n", "is null"),
    ]:
        problems = lint.lint(
            good.replace("size_categories: [n<1K]\n", "").replace("task_categories: [image-classification]\n", "")
            + lines
            + "---\n",
            "dataset",
        )
        assert any(said in problem for problem in problems), (lines, problems)
