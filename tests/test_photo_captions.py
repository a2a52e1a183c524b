"""Captions of photographs: the tower on a backbone of timm, its views made beforehand, captions drawn and scored."""

import json
import math
import os

import numpy as np
import pytest
import timm
import tiny_models
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, VisionEncoderDecoderModel

from hub_models import captioning as contract
from training import captioning, hybrid
from training.captioning import self_critical
from training.captioning.packed import pack, packed_loss
from training.data import views
from training.data.captions import Captions
from training.data.sources import open_source
from training.metrics import CiderD, cider_d

SIDE = 64
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of its own."""
    before = os.environ.get("VITRAIL_CACHE")
    os.environ["VITRAIL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["VITRAIL_CACHE"]
    if before is not None:
        os.environ["VITRAIL_CACHE"] = before


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_models.timm_backbone(tmp_path_factory.mktemp("timm"))


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    return tiny_models.photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def tower(backbone):
    torch.manual_seed(1)
    return hybrid.hybrid_tower(backbone, SIDE, **SIZES).eval()


def flags(own_data, backbone, run, steps: int, *more: str) -> list[str]:
    sizes = [
        str(part) for of in ("tower", "decoder") for key, size in SIZES.items() for part in (f"--{of}_args.{key}", size)
    ]
    return ["--preset", "photo", "--dataset_name", str(own_data), "--tower_name_or_path", str(backbone),
            "--output_dir", str(run), "--resolution", str(SIDE), "--train_batch_size", "2", "--cached_views", "2",
            "--captions_each", "3", "--vocabulary_size", "200", "--max_length", "12", *sizes,
            "--max_train_steps", str(steps), "--checkpointing_steps", "2",
            "--validation_steps", "100", "--logging_steps", "1", "--unfreeze_step", "2", "--lr_scheduler", "constant",
            *more]  # fmt: skip


# --- The tower --------------------------------------------------------------------------------------------------------


def test_a_tower_says_of_maps_what_it_says_of_pixels(tower):
    pixels = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        whole = tower(pixels)
        maps = hybrid.EarlyStages(hybrid.backbone_of(tower))(pixels)
        split = hybrid.tower_from_maps(tower, maps)
    assert maps.shape == (2, 112, 4, 4)
    assert whole.last_hidden_state.shape == (2, 1 + 4, 32)  # a class token before 2 × 2 states
    assert torch.equal(split.last_hidden_state, whole.last_hidden_state)
    assert torch.equal(split.pooler_output, whole.pooler_output)


def test_a_tower_begins_with_the_weights_of_the_folder(tower, backbone):
    trained = timm.create_model(f"local-dir:{backbone}", pretrained=True).eval()
    pixels = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = trained.blocks(trained.bn1(trained.conv_stem(pixels)))
        assert torch.equal(tower.embeddings.backbone(pixels).feature_maps[-1], expected)
    assert hybrid.statistics(backbone) == ((0.5, 0.5, 0.4), (0.5, 0.5, 0.6))


def test_another_kind_of_backbone_or_side_is_refused(backbone, tmp_path):
    plain = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=3)
    names = {"num_classes": 3, "label_names": ["a", "b", "c"]}
    timm.models.save_for_hf(plain, str(tmp_path / "vit"), model_config=names, safe_serialization=True)
    with pytest.raises(SystemExit, match="no EfficientNet"):
        hybrid.hybrid_tower(tmp_path / "vit", SIDE, **SIZES)
    with pytest.raises(SystemExit, match="multiple of 32"):
        hybrid.hybrid_tower(backbone, 72, **SIZES)


def test_statistics_stay_and_the_backbone_is_frozen_first(tower):
    hybrid.keep_statistics(tower.train())
    before = {name: value.clone() for name, value in tower.named_buffers()}
    maps = torch.randn(2, 112, 4, 4)
    last = [p for name, p in tower.named_parameters() if name.startswith("embeddings.backbone") and "blocks.6" in name]
    for frozen in (True, False):
        tower.zero_grad()
        hybrid.tower_from_maps(tower, maps, frozen=frozen).last_hidden_state.square().sum().backward()
        assert all((p.grad is None) == frozen for p in last)
        assert tower.encoder.layer[0].attention.attention.query.weight.grad is not None
    assert all(torch.equal(value, before[name]) for name, value in tower.named_buffers())
    tower.eval().zero_grad()


# --- Views ------------------------------------------------------------------------------------------------------------


def test_views_are_what_the_first_stages_see(own_data, tower, monkeypatch):
    source = open_source(str(own_data), split="train")

    def pixel_values(pictures):
        arrays = [np.asarray(picture.resize((SIDE, SIDE))) for picture in pictures]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255

    made = views.Views(source, tower, pixel_values, 3)
    early = hybrid.EarlyStages(hybrid.backbone_of(tower))
    with torch.no_grad():
        for view in range(3):
            expected = early(pixel_values([views.view_of(source.picture(5), 5, view)]))[0]
            found = made.maps(5, view)
            assert found.dtype == torch.float16
            torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.01)
    assert not torch.allclose(made.maps(5, 0).float(), made.maps(5, 2).float(), atol=0.05)
    monkeypatch.setattr(views, "write", lambda *_: pytest.fail("made a second time"))
    half = {name: value.half().float() for name, value in tower.state_dict().items()}
    again = hybrid.DPTModel(tower.config)  # as an export holds it, with other weights behind the first stages
    again.load_state_dict({n: v + 1 if "blocks.6" in n and v.is_floating_point() else v for n, v in half.items()})
    assert views.Views(source, again, pixel_values, 3).data_hash == made.data_hash


def test_views_see_a_part_or_the_mirror_image():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))
    assert views.view_of(picture, 3, 0) is picture or np.array_equal(views.view_of(picture, 3, 0), picture)
    assert np.array_equal(np.asarray(views.view_of(picture, 3, 1)), np.asarray(picture)[:, ::-1])
    one, same, other = (np.asarray(views.view_of(picture, n, 2)) for n in (3, 3, 4))
    assert one.shape == (30, 40, 3) and np.array_equal(one, same) and not np.array_equal(one, other)


def test_a_sample_says_each_caption_before_one_twice(own_data, tower):
    source = open_source(str(own_data), split="train")

    class Maps:
        data_hash = "x"

        def __len__(self):
            return 4

        def maps(self, index, view):
            return torch.full((1, 1, 1), 10.0 * index + view)

    samples = views.ViewedPictures(Maps(), Captions(source), 3)
    first = next(i for i in range(len(source)) if len(source.captions(i)) == 2)
    drawn = [samples.sample(first, torch.Generator().manual_seed(n)) for n in range(20)]
    assert all(
        set(sample["caption"]) == set(source.captions(first)) and len(sample["caption"]) == 3 for sample in drawn
    )
    assert {float(sample["pixels"]) - 10 * first for sample in drawn} == {0, 1, 2, 3}
    assert {sample["row"] for sample in drawn} == {first}
    batch = torch.utils.data.default_collate([samples.sample(i, torch.Generator().manual_seed(0)) for i in (4, 5)])
    texts = views.texts_of(batch["caption"])
    assert set(texts[:3]) == set(source.captions(4)) and set(texts[3:]) == set(source.captions(5))
    assert views.texts_of(["one", "two"]) == ["one", "two"]


# --- Captions that are drawn and scored -------------------------------------------------------------------------------


class Said:
    """Captions of three pictures."""

    texts = [["a dog runs", "a brown dog runs"], ["a cat sits"], ["a dog sits"]]

    def __len__(self):
        return len(self.texts)

    def all(self, index):
        return self.texts[index]


def test_rewards_are_the_scores_of_captions_among_those_of_the_training_set():
    rewards, end = self_critical.Rewards(Said()), self_critical.END
    references = [[f"{text} {end}" for text in texts] for texts in Said.texts]
    asked = [("a dog runs", True, 0), ("a cat sits", True, 1), ("a dog", False, 2)]
    expected = cider_d([f"a dog runs {end}", f"a cat sits {end}", "a dog"], references)
    np.testing.assert_allclose(rewards(*zip(*asked, strict=True)), expected)
    whole, broken = rewards(["a dog runs", "a dog runs"], [True, False], [0, 0])
    assert whole > broken > 0
    # By hand: of "a cat" (not ended) against "a cat sits END", of three pictures. Rarity: a 0 (in all), END 0,
    # cat log 3, sits log 1.5, "a cat" log 3, "cat sits" log 3, "sits END" log 1.5.
    rare, half = math.log(3), math.log(1.5)
    one = rare * rare / (rare * math.sqrt(rare**2 + half**2))
    two = rare * rare / (rare * math.sqrt(rare**2 + rare**2 + half**2))
    damping = math.exp(-((2 - 4) ** 2) / 72)
    assert rewards(["a cat"], [False], [1])[0] == pytest.approx(10 * damping * (one + two) / 4)


def test_cider_of_one_picture_is_that_among_all():
    score = CiderD(Said.texts)
    assert score("a brown dog", 0) == pytest.approx(cider_d(["a brown dog", "x", "x"], Said.texts)[0])
    assert score("a brown dog", 0) == score("a brown dog", 0) > 0


def test_advantages_by_hand():
    found = self_critical.advantages(torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]]))
    torch.testing.assert_close(found, torch.tensor([[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]]))  # 1 - 4, 2 - 3.5, 6 - 1.5
    with pytest.raises(ValueError, match="at least 2"):
        self_critical.advantages(torch.ones(2, 1))


@pytest.fixture
def served(backbone):
    cfg = captioning.config.CaptioningConfig(
        tower_name_or_path=str(backbone),
        resolution=SIDE,
        tower_args=SIZES,
        decoder_args=SIZES,
        vocabulary_size=200,
        max_length=12,
    )
    torch.manual_seed(0)
    return captioning.model.create_captioner_on_tower(cfg, ["a red disc", "a blue disc on white."])


def test_captions_in_one_row_do_not_see_each_other(served):
    served.model.eval()
    trainee = captioning.losses.Trainee(served.model, 0, maps=True).eval()
    maps, texts = torch.randn(2, 112, 4, 4), ["a red disc", "a blue", "a disc on white . a", "blue blue blue"]
    rows = [row[kept].tolist() for row, kept in zip(*served.sequences(texts), strict=True)]
    packed = pack(rows, 2, served.pad_id)
    with torch.no_grad():
        logits = trainee(maps, packed)["logits"]
        together = torch.zeros(*packed.ids.shape, logits.shape[-1])
        together[packed.wanted >= 0] = logits
        for number, row in enumerate(rows):
            picture, owner = divmod(number, 2)
            alone = trainee(maps[picture : picture + 1], torch.tensor([row[:-1]]))["logits"][0]
            place = packed.owner[picture] == owner
            torch.testing.assert_close(together[picture][place], alone, atol=1e-5, rtol=1e-5)
            assert packed.wanted[picture][place].tolist() == row[1:]
    assert (packed.wanted[packed.owner < 0] == -100).all() and (packed.owner < 0).any()
    batch = {"pixels": maps, "row": torch.arange(2), "caption": [(texts[0], texts[2]), (texts[1], texts[3])]}
    loss, told = packed_loss(trainee, batch, served, 0.1)
    wanted = packed.wanted.flatten()
    plain, smooth = (F.cross_entropy(together.flatten(0, 1), wanted, label_smoothing=by) for by in (0.0, 0.1))
    torch.testing.assert_close(loss, smooth)
    torch.testing.assert_close(told["cross_entropy"], plain)


def test_drawn_captions_go_up_to_their_end(served):
    served.model.eval()
    states = torch.randn(60, 5, 32)
    torch.manual_seed(0)
    rows = self_critical.drawn(served, states, 11)
    torch.manual_seed(0)
    assert rows == self_critical.drawn(served, states, 11)
    assert all(row[0] == served.start_id and served.end_id not in row[:-1] and 2 <= len(row) <= 12 for row in rows)
    assert all(row[-1] == served.end_id or len(row) == 12 for row in rows)
    assert {row[-1] == served.end_id for row in rows} == {True, False}


def test_the_loss_of_drawn_captions_by_hand(served):
    class Rising:
        def __call__(self, texts, ended, rows):
            assert rows == [7, 7, 7, 2, 2, 2]
            return np.array([1.0, 2.0, 6.0, 0.0, 0.0, 3.0])

    trainee = captioning.losses.Trainee(served.model, 0, maps=True).train()
    batch = {"pixels": torch.randn(2, 112, 4, 4), "row": torch.tensor([7, 2])}
    torch.manual_seed(3)
    loss, told = self_critical.self_critical_loss(trainee, batch, served, Rising(), 3, 11, 0.5)
    torch.manual_seed(3)
    states = hybrid.tower_from_maps(served.model.encoder, batch["pixels"]).last_hidden_state.repeat_interleave(3, 0)
    rows = self_critical.drawn(served, states, 11, 0.5)
    gain, total = [-3, -1.5, 4.5, -1.5, -1.5, 3], 0.0
    for number, row in enumerate(rows):
        logits = contract.decode(served.model, states[number : number + 1], torch.tensor([row[:-1]])).logits[0]
        log_p = (logits / 0.5).log_softmax(-1)
        total = total + gain[number] * sum(log_p[at, token] for at, token in enumerate(row[1:]))
    torch.testing.assert_close(loss, -total / sum(len(row) - 1 for row in rows), atol=1e-5, rtol=1e-4)
    assert told["reward"] == pytest.approx(2)
    loss.backward()
    assert served.model.decoder.bert.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0


def test_what_is_rewarded_becomes_more_probable(served):
    """Whoever is paid for saying "red" says it more and more often."""

    class Red:
        def __call__(self, texts, ended, rows):
            return np.array([float("red" in text.split()) for text in texts])

    trainee = captioning.losses.Trainee(served.model, 10**9, maps=True).train()
    optimizer = torch.optim.Adam(trainee.parameters(), lr=3e-3)
    batch = {"pixels": torch.randn(4, 112, 4, 4), "row": torch.arange(4)}
    told = []
    torch.manual_seed(0)
    for _ in range(40):
        loss, numbers = self_critical.self_critical_loss(trainee, batch, served, Red(), 8, 6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told.append(float(numbers["reward"]))
    assert np.mean(told[-5:]) > np.mean(told[:5]) + 0.3, told


# --- A whole run ------------------------------------------------------------------------------------------------------


def losses(run) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_both_stages_run_resume_exactly_and_the_stock_class_says_the_same(own_data, backbone, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    captioning.main(flags(own_data, backbone, whole, 4))
    captioning.main(flags(own_data, backbone, parts, 2))
    captioning.main(flags(own_data, backbone, parts, 4, "--resume_from_checkpoint", "latest"))
    assert losses(parts) == losses(whole) and len(losses(whole)) == 4
    export = whole / "export"
    stage = ["--pretrained_model_name_or_path", str(export), "--drawn_captions", "3"]
    second, halves = tmp_path / "second", tmp_path / "halves"
    captioning.main(flags(own_data, backbone, second, 4, *stage))
    captioning.main(flags(own_data, backbone, halves, 2, *stage))
    captioning.main(flags(own_data, backbone, halves, 4, *stage, "--resume_from_checkpoint", "latest"))
    assert losses(halves) == losses(second) and len(losses(second)) == 4
    for folder in (export, second / "export"):
        served = contract.load(str(folder))
        assert served.framed is False and served.kind == "dpt-bert"
        model = VisionEncoderDecoderModel.from_pretrained(folder).eval()
        processor, tokenizer = AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8))
        pixels = processor(images=picture, return_tensors="pt").pixel_values
        assert torch.equal(pixels, served.pixel_values([picture]))
        with torch.no_grad():
            said = tokenizer.batch_decode(model.generate(pixel_values=pixels), skip_special_tokens=True)[0]
        caption = served.caption(picture)[0]
        assert said.strip() == caption.text
        evidence = served.evidence(picture, caption)
        assert all(one.attention.shape == (2, 2) for one in evidence if one.attention is not None)
    card = (second / "export" / "README.md").read_text()
    assert "license_name: discs-only" in card and "Discs, somebody 2020" in card and "For nobody." in card
    results = captioning.evaluate_checkpoint(str(second / "export"), str(own_data))
    assert {"validation/cider_d", "validation/bleu4", "validation/nouns", "validation/beams/cider_d"} <= set(
        results.metrics
    )
    assert set(results.baseline) <= set(results.metrics) and not results.figures


def test_drawing_needs_views_and_company(own_data, backbone, tmp_path):
    for wrong in (["--drawn_captions", "1"], ["--drawn_captions", "3", "--cached_views", "0"]):
        with pytest.raises(SystemExit):
            captioning.main(flags(own_data, backbone, tmp_path / "no", 1, *wrong))
