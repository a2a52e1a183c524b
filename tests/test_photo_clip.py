"""The dual encoder of photographs: a backbone of timm, its views made beforehand, pictures squeezed into a square."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from hub_models import clip as contract
from hub_models.store import CheckpointError
from training import clip, hybrid
from training.data.vocabulary import frequent_words

SIDE = 64


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of four steps, and one that was stopped after two, in `parts`."""
    root = tmp_path_factory.mktemp("runs")
    data = tiny_models.photographs(tmp_path_factory.mktemp("photographs"))
    backbone = tiny_models.timm_backbone(tmp_path_factory.mktemp("timm"))
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    text = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}

    def flags(name: str, steps: int, *more: str) -> list[str]:
        tower = [part for key, size in sizes.items() for part in (f"--tower_args.{key}", str(size))]
        return ["--preset", "photo", "--dataset_name", str(data), "--tower_name_or_path", str(backbone), *tower,
                "--output_dir", str(root / name), "--resolution", str(SIDE), "--train_batch_size", "4",
                "--text", "scratch", "--text_args", *(str(part) for pair in text.items() for part in pair),
                "--text_layers", "1", "--cached_views", "2", "--max_length", "12", "--projection_dim", "16",
                "--max_train_steps", str(steps), "--checkpointing_steps", "2", "--validation_steps", "100",
                "--logging_steps", "1", "--lr_scheduler", "constant", "--late_stages", *more]  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITRAIL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(clip, "RARE", 2)
        clip.main(flags("whole", 4))
        clip.main(flags("parts", 2))
        clip.main(flags("parts", 4, "--resume_from_checkpoint", "latest"))
    (root / "data").symlink_to(data)
    (root / "backbone").symlink_to(backbone)
    return root


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_a_resumed_run_goes_on_exactly(run):
    assert losses(run / "parts") == losses(run / "whole") and len(losses(run / "whole")) == 4


def test_the_stock_class_opens_it_and_a_picture_is_squeezed(run):
    folder = run / "whole" / "export"
    served = contract.load(str(folder))
    assert served.framed is False
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 90, 3), np.uint8))
    stock, processor = AutoModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)
    tokenizer, texts = AutoTokenizer.from_pretrained(folder), ["a red disc", "a blue disc", "one"]
    pixels = processor(images=picture, return_tensors="pt")
    assert torch.equal(pixels["pixel_values"], served.preprocess([picture]))
    with torch.no_grad():
        expected = stock(**tokenizer(texts, padding=True, return_tensors="pt"), **pixels).logits_per_image.softmax(-1)[
            0
        ]
    served.rank_temperature = 1.0
    for text, share in served.rank(picture, texts):
        assert share == pytest.approx(float(expected[texts.index(text)]), abs=1e-4)


def test_only_what_comes_after_the_maps_has_learnt(run):
    began = hybrid.hybrid_tower(
        run / "backbone", SIDE, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48
    )
    before = hybrid.backbone_of(began).state_dict()
    after = hybrid.backbone_of(contract.load(str(run / "whole" / "export")).model.vision_model).state_dict()
    early = hybrid.early_state(hybrid.backbone_of(began))
    moved = {name for name in before if not torch.allclose(before[name].half().float(), after[name].float(), atol=1e-4)}
    assert moved and not moved & set(early)
    assert all(name.startswith(("blocks.5.", "blocks.6.")) for name in moved)
    assert not any("running" in name for name in moved)


def test_its_card_says_whose_data_it_saw(run):
    card = (run / "whole" / "export" / "README.md").read_text()
    assert "license_name: discs-only" in card and "Discs, somebody 2020" in card and "squeezed" in card
    results = clip.evaluate_checkpoint(str(run / "whole" / "export"), str(run / "data"))
    assert results.metrics["validation/pictures"] == 4 and not results.figures
    assert 0 <= results.metrics["validation/text_to_image/recall@1"] <= 1


def test_whether_a_picture_is_framed_has_to_be_said_plainly(run, tmp_path):
    folder = tmp_path / "wrong"
    shutil.copytree(run / "whole" / "export", folder)
    (folder / "manifest.json").unlink()
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"framed": "no"}))
    with pytest.raises(CheckpointError, match="framed must be true or false"):
        contract.load(str(folder))


def test_views_are_for_contrast_alone(run):
    with pytest.raises(ValueError, match="--concept_weight 0"):
        clip.config.CLIPConfig(cached_views=2, concept_weight=0.5)


def test_words_that_are_said_often_enough():
    assert frequent_words(["A dog, a cat.", "the Dog runs"], 2) == ["a", "dog"]
