"""The dual encoder: its losses by hand and on two processes, its augmentation, its folder in the stock classes."""

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from children import ranks, run
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from tiny_models import clip_tokenizer, stable_diffusion
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
)

from hub_models import clip, store
from hub_models.publish import halves, packing
from hub_models.store import CheckpointError
from training import clip as script
from training.data.sources import open_source

TINY = script.PRESETS["tiny"]
STILL = dataclasses.replace(  # an augmentation that changes nothing
    TINY, rotation_deg=0, crop=(1, 1), aspect=0, shift=0, ground_share=0, colour=0, hue_share=0, grayscale_share=0,
    outline_share=0, line_art_share=0, blur_share=0, erase_share=0,
)  # fmt: skip
TEXTS = ["a red apple", "a cat", "an emoji of a house in noto style"]


def picture(number: int, size=(40, 30)) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (*size[::-1], 4), np.uint8)
    return Image.fromarray(pixels, "RGBA")


PICTURES = [picture(n) for n in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An untrained dual encoder as an export holds it."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    made = script.model.create_clip(TINY, TEXTS)
    for parameter in made.model.parameters():  # louder than fresh, so that pictures and words make a difference
        parameter.data.mul_(4) if parameter.ndim > 1 else None
    clip.save_folder(folder, made.model, made.tokenizer, made.image_processor)
    halves.to_half(folder)
    packing.write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder) -> clip.CLIP:
    return clip.load(str(folder), device="cpu")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """A CLIPModel of somebody else."""
    folder = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(1)
    tokenizer = clip_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


# ---- what the libraries make of the folder ---------------------------------------------------------------------------


def test_stock_classes_open_it_in_fp32_with_no_arguments_and_agree(folder, model):
    stock = AutoModel.from_pretrained(folder).eval()
    assert isinstance(stock, VisionTextDualEncoderModel)
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    assert tokenizer.model_max_length == TINY.max_length == model.max_length
    texts = tokenizer(TEXTS, padding=True, return_tensors="pt")
    pixels = processor(images=[clip.frame(image, 32) for image in PICTURES], return_tensors="pt")
    assert torch.equal(pixels["pixel_values"], model.preprocess(PICTURES))
    with torch.no_grad():
        out = stock(**texts, **pixels)
    torch.testing.assert_close(out.image_embeds, model.embed_images(PICTURES), rtol=0, atol=1e-6)
    torch.testing.assert_close(out.text_embeds, model.embed_texts(TEXTS), rtol=0, atol=1e-6)
    similarity = model.embed_images(PICTURES) @ model.embed_texts(TEXTS).T
    torch.testing.assert_close(out.logits_per_image, model.logit_scale * similarity, rtol=0, atol=1e-4)
    assert model.parameters == sum(p.numel() for p in stock.parameters())
    assert model.resolution_px == 32
    both = VisionTextDualEncoderProcessor.from_pretrained(folder)
    assert both(text=TEXTS, return_tensors="pt", padding=True)["input_ids"].equal(texts["input_ids"])


@pytest.mark.parametrize("name", store.variants("clip"))
def test_every_shipped_model_fits_its_place(name):
    files = [path for path in (store.WEIGHTS / "clip" / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 18 * 2**20
    assert sum(p.numel() for p in clip.load(name).model.text_model.parameters()) <= 6_000_000


def test_rank_gives_the_probabilities_of_the_stock_class(folder, model):
    stock = AutoModel.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = stock(**tokens, pixel_values=model.preprocess(PICTURES[:1])).logits_per_image[0]
    ranked = model.rank(PICTURES[0], TEXTS)
    expected = dict(zip(TEXTS, logits.softmax(-1).tolist(), strict=True))
    assert [text for text, _ in ranked] == sorted(TEXTS, key=lambda text: -expected[text])
    for text, probability in ranked:
        assert probability == pytest.approx(expected[text], abs=1e-5)
    assert model.rank(PICTURES[0], ["alone"]) == [("alone", 1.0)]
    assert len(model.rank(PICTURES[0], ["a cat"] * clip.MAX_RANKED)) == clip.MAX_RANKED
    with pytest.raises(ValueError, match="at least one"):
        model.rank(PICTURES[0], [])
    with pytest.raises(ValueError, match="at most 1,000"):
        model.rank(PICTURES[0], ["a cat"] * (clip.MAX_RANKED + 1))


def test_a_fitted_temperature_is_kept_and_calibrates(model, folder, tmp_path):
    clip.save_folder(tmp_path / "warm", model.model, model.tokenizer, model.image_processor, rank_temperature=2.5)
    warm = clip.load(str(tmp_path / "warm"), device="cpu")
    assert warm.rank_temperature == 2.5 and model.rank_temperature == 1.0
    similarity = model.embed_images(PICTURES[:1]) @ model.embed_texts(TEXTS).T
    expected = (model.logit_scale * similarity[0] / 2.5).softmax(-1).tolist()
    assert dict(warm.rank(PICTURES[0], TEXTS)) == pytest.approx(dict(zip(TEXTS, expected, strict=True)), abs=1e-5)
    AutoImageProcessor.from_pretrained(tmp_path / "warm")
    path = tmp_path / "warm" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rank_temperature": 0}))
    with pytest.raises(CheckpointError, match="rank_temperature must be a positive"):
        clip.load(str(tmp_path / "warm"), device="cpu")
    source = open_source("emoji-sample", split="validation")
    fitted = script.evaluation.fit_rank_temperature(model, source)
    assert fitted == script.evaluation.fit_rank_temperature(model, source) and 0.1 <= fitted <= 10


def test_text_states_are_those_of_the_stock_pipeline(model, tmp_path):
    pipe = StableDiffusionPipeline.from_pretrained(stable_diffusion(tmp_path), safety_checker=None)
    pipe.text_encoder, pipe.tokenizer = model.model.text_model, model.tokenizer
    for prompt in ("", "a red apple", "a cat, noto style", "house " * 40):
        expected, _ = pipe.encode_prompt(prompt, "cpu", 1, False)
        assert torch.equal(model.text_states([prompt]), expected)
        assert expected.shape == (1, TINY.max_length, 32)
        assert model.tokenize([prompt]).shape == (1, TINY.max_length) and model.tokenize([prompt]).dtype == torch.int64
    assert model.text_states(TEXTS).std(0).max() > 0.1


def test_rows_do_not_depend_on_their_company(model):
    texts, images = model.embed_texts(TEXTS), model.embed_images(PICTURES)
    for i in range(3):
        torch.testing.assert_close(model.embed_texts([TEXTS[i]])[0], texts[i], rtol=0, atol=1e-5)
        torch.testing.assert_close(model.embed_images([PICTURES[i]])[0], images[i], rtol=0, atol=1e-5)
    for rows in (texts, images):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
        assert (rows @ rows.T).fill_diagonal_(0).max() < 0.999
    many = model.embed_texts([TEXTS[0]] * (clip.BATCH + 3))
    assert many.shape == (clip.BATCH + 3, 16)


def test_it_says_when_a_text_is_cut(model):
    assert not model.was_cut("") and not model.was_cut("apple " * (TINY.max_length - 2))
    assert model.was_cut("apple " * (TINY.max_length - 1))


def test_a_picture_is_framed_on_white(model):
    x = model.preprocess([Image.new("RGBA", (64, 32), (255, 0, 0, 128))])[0]  # (3, 32, 32) in [-1, 1]
    assert torch.all(x[:, :8] == 1) and torch.all(x[:, 24:] == 1)
    assert x[:, 16, 16].tolist() == pytest.approx([1, -0.004, -0.004], abs=0.01)
    assert model.preprocess([Image.new("1", (1, 50)), Image.new("RGBA", (9, 9))]).shape == (2, 3, 32, 32)


def test_a_clip_of_somebody_else_embeds(foreign):
    theirs, stock = clip.load(str(foreign), device="cpu"), CLIPModel.from_pretrained(foreign).eval()
    tokens = AutoTokenizer.from_pretrained(foreign)(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        out = stock(**tokens, pixel_values=theirs.preprocess(PICTURES))
    torch.testing.assert_close(theirs.embed_images(PICTURES), out.image_embeds, rtol=0, atol=1e-6)
    torch.testing.assert_close(theirs.embed_texts(TEXTS), out.text_embeds, rtol=0, atol=1e-6)
    assert (theirs.resolution_px, theirs.max_length) == (32, 12)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("tokenizer", "save model, image processor and"),
        ("type", "model_type 'bert'"),
        ("unknown type", "not one that transformers knows"),
        ("weights", "not those of a trained dual encoder"),
        ("pickle", "pickled"),
    ],
)
def test_a_folder_that_is_no_dual_encoder(damage, says, folder, tmp_path):
    for path in folder.iterdir():
        if path.name != "manifest.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    if damage == "tokenizer":
        for path in tmp_path.glob("tokenizer*"):
            path.unlink()
    elif damage == "type":
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    elif damage == "unknown type":
        (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "no-such-thing"}))
    elif damage == "weights":
        from safetensors.torch import save_file

        kept = {k: v for k, v in load_file(folder / "model.safetensors").items() if "text_model" not in k}
        save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    else:
        (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=says) as caught:
        clip.load(str(tmp_path), device="cpu")
    assert str(tmp_path) in str(caught.value)


def test_pretrained_text_weights_reach_the_dual_encoder(monkeypatch):
    tower = script.model.vocabulary.new_text_tower(40, 1, 16, **TINY.text_args)
    torch.nn.init.constant_(tower.pooler.dense.weight, 0.125)
    torch.nn.init.constant_(tower.embeddings.LayerNorm.weight, 3.0)
    expected = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    monkeypatch.setattr(script.model.vocabulary, "new_text_tower", lambda *_, **__: tower)
    made = script.model.create_clip(TINY, TEXTS).model.text_model.state_dict()
    assert all(torch.equal(made[name], tensor) for name, tensor in expected.items())


# ---- the losses ------------------------------------------------------------------------------------------------------


def test_contrast_is_the_stock_loss_where_all_names_differ():
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    image, text = (F.normalize(torch.randn(6, 5), dim=1) for _ in range(2))
    names = torch.arange(6)
    ours = script.losses.contrastive_loss(image, text, names, names, torch.tensor(7.0))
    torch.testing.assert_close(ours, image_text_contrastive_loss(7.0 * text @ image.T))


def test_contrast_takes_equal_names_for_positives_by_hand():
    image = torch.eye(3)
    text = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    loss = script.losses.contrastive_loss(image, text, torch.tensor([4, 4, 9]), torch.tensor([4, 9]), torch.tensor(2.0))
    e = np.exp(2)
    by_image = [-np.log(e / (e + 1)), -np.log(1 / (1 + e)), -np.log(1 / 2)]  # logits 2 0 | 0 2 | 0 0
    by_text = [-(np.log(e / (e + 2)) + np.log(1 / (e + 2))) / 2, -np.log(1 / (e + 2))]  # logits 2 0 0 | 0 2 0
    assert loss.item() == pytest.approx((np.mean(by_image) + np.mean(by_text)) / 2)


def test_image_contrast_equals_the_sums_of_the_paper():
    rows, names, temperature = F.normalize(torch.randn(7, 4), dim=1), torch.tensor([0, 1, 0, 2, 1, 0, 3]), 0.3
    similar = (rows @ rows.T / temperature).numpy().astype(np.float64)
    terms = []
    for i in range(7):
        positives = [p for p in range(7) if p != i and names[p] == names[i]]
        total = sum(np.exp(similar[i, a]) for a in range(7) if a != i)
        if positives:  # 2 and 3 stand alone
            terms.append(-np.mean([np.log(np.exp(similar[i, p]) / total) for p in positives]))
    assert script.losses.image_contrast(rows, names, temperature).item() == pytest.approx(np.mean(terms), rel=1e-5)
    alone = rows.clone().requires_grad_()
    script.losses.image_contrast(alone, torch.arange(7), temperature).backward()
    assert alone.grad.abs().max() == 0  # no positives at all: nothing, and not NaN


def test_the_temperature_stays_below_its_limit(model, folder):
    served = clip.load(str(folder), device="cpu")
    served.model.logit_scale.data.fill_(9.0)
    samples = script.samples.CaptionedPictures(open_source("emoji-sample", split="train", limit=8), TINY)
    batch = torch.utils.data.default_collate([samples.sample(i, torch.Generator().manual_seed(i)) for i in range(4)])
    _, parts = script.losses.training_loss(script.losses.Trainee(served.model, len(samples.names)), batch, served, TINY)
    assert parts["logit_scale"].item() == pytest.approx(100)
    assert set(parts) == {"contrastive", "concept", "image", "logit_scale"}


def _train(argv: list[str]) -> None:
    importlib.import_module("training.clip").main(argv)


def losses_of(run_dir: Path) -> list[float]:
    rows = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.timeout(400)
def test_two_processes_contrast_all_samples_as_one_does(tmp_path):
    """Three steps at half the batch each; the later losses tell whether the gradients were those of the whole batch."""
    flags = [
        "--preset",
        "tiny",
        "--cpu",
        "--max_train_steps",
        "3",
        "--validation_steps",
        "100",
        "--learning_rate",
        "0.01",
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    code, text = run(_train, [*flags, "--output_dir", str(one)], log=tmp_path / "one.log")
    assert code == 0, text
    argv = [*flags, "--output_dir", str(two), "--train_batch_size", "4"]
    with ranks(2, _train, argv, log=tmp_path / "two.log") as processes:
        for process in processes:
            process.join(300)
        assert [p.exitcode for p in processes] == [0, 0], (tmp_path / "two.log.0").read_text()
    assert len(losses_of(one)) == 3 and len(set(losses_of(one))) == 3
    assert losses_of(two) == pytest.approx(losses_of(one), abs=2e-5)


@pytest.mark.timeout(300)
def test_it_fine_tunes_the_clip_of_somebody_else(foreign, tmp_path):
    argv = ["--preset", "tiny", "--cpu", "--pretrained_model_name_or_path", str(foreign), "--max_train_steps", "1",
            "--learning_rate", "0.01", "--output_dir", str(tmp_path / "run")]  # fmt: skip
    code, text = run(_train, argv, log=tmp_path / "log")
    assert code == 0, text
    before, after = CLIPModel.from_pretrained(foreign), CLIPModel.from_pretrained(tmp_path / "run/export")
    changed = [
        n for (n, a), b in zip(before.named_parameters(), after.parameters(), strict=True) if not torch.equal(a, b)
    ]
    assert any("vision_model" in n for n in changed) and any("text_model" in n for n in changed)
    code, text = run(_train, [*argv, "--resolution", "64"], log=tmp_path / "log")
    assert code == 1 and "sees 32 px: set --resolution 32" in text


# ---- the samples -----------------------------------------------------------------------------------------------------


def test_augmentation_that_changes_nothing_is_the_picture_on_white():
    pixels = np.stack([np.asarray(picture(n, (32, 32))) for n in range(4)])
    x = script.augmentation.augment(torch.from_numpy(pixels), torch.rand(4, script.augmentation.CHANCES), STILL)
    for row, art in zip(x, pixels, strict=True):
        white = Image.new("RGBA", (32, 32), "white")
        expected = np.asarray(Image.alpha_composite(white, Image.fromarray(art)).convert("RGB"))
        assert np.abs(row.permute(1, 2, 0).numpy() * 255 - expected).max() < 1.01


def test_augmentation_is_a_function_of_each_pictures_own_numbers():
    cfg = dataclasses.replace(TINY, **{f.name: 0.5 for f in dataclasses.fields(TINY) if f.name.endswith("_share")})
    pixels, chances = (
        torch.randint(256, (12, 40, 40, 4), dtype=torch.uint8),
        torch.rand(12, script.augmentation.CHANCES),
    )
    before = pixels.clone()
    x = script.augmentation.augment(pixels, chances, cfg)
    assert x.shape == (12, 3, 32, 32) and x.min() >= 0 and x.max() <= 1 and torch.equal(pixels, before)
    for i in range(12):
        torch.testing.assert_close(
            script.augmentation.augment(pixels[i : i + 1], chances[i : i + 1], cfg)[0], x[i], rtol=0, atol=1e-5
        )
    assert (script.augmentation.augment(pixels, chances.flip(0), cfg) - x).abs().mean() > 0.05


def test_grey_squares_do_not_make_the_gradient_explode():
    torch.manual_seed(0)
    vision = script.model.create_clip(TINY, TEXTS).model.vision_model
    plain, target = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randn(4, 32)
    grey = plain.clone()
    grey[:, :, 8:24, 8:24] = 0
    norms = []
    for x in (plain, grey):
        vision.zero_grad()
        (vision(pixel_values=x).pooler_output * target).sum().backward()
        norms.append(torch.stack([p.grad.norm() for p in vision.parameters()]).norm().item())
    assert norms[1] < 5 * norms[0], norms


def test_line_art_is_dark_lines_on_white_and_grey_is_grey():
    square = torch.zeros(1, 32, 32, 4, dtype=torch.uint8)
    square[:, 8:24, 8:24] = torch.tensor([200, 30, 30, 255], dtype=torch.uint8)
    lines = script.augmentation.augment(
        square, torch.rand(1, script.augmentation.CHANCES), dataclasses.replace(STILL, line_art_share=1.0)
    )[0]
    assert torch.all(lines[:, 12:20, 12:20] > 0.99) and torch.all(lines[:, :6] > 0.99)
    assert lines[:, 12:20, 7].max() < 0.5 and lines[:, 12:20, 8].max() < 0.5
    outlined = script.augmentation.augment(
        square, torch.rand(1, script.augmentation.CHANCES), dataclasses.replace(STILL, outline_share=1.0)
    )[0]
    assert torch.allclose(outlined[:, 16, 16], torch.tensor([200, 30, 30]) / 255, atol=0.01)
    grey = script.augmentation.augment(
        square, torch.rand(1, script.augmentation.CHANCES), dataclasses.replace(STILL, grayscale_share=1.0)
    )[0]
    assert (grey.amax(0) - grey.amin(0)).max() < 1e-5 and abs(grey[0, 16, 16] - 260 / 765) < 0.01


def test_a_sample_shows_one_name_in_several_pictures():
    source = open_source("emoji-sample", split="train")
    samples = script.samples.CaptionedPictures(source, dataclasses.replace(TINY, views=3))
    shared = [i for i in range(len(samples)) if len(samples.alike[samples.number[i]]) > 1]
    assert shared, "the sample has names in two styles"
    for index in (shared[0], 5):
        drawn = samples.sample(index, torch.Generator().manual_seed(1))
        again = samples.sample(index, torch.Generator().manual_seed(1))
        assert drawn["pixels"].shape == (3, 40, 40, 4) and drawn["pixels"].dtype == torch.uint8
        assert torch.equal(drawn["chances"], again["chances"]) and drawn["caption"] == again["caption"]
        for pixels in drawn["pixels"]:
            [same] = [i for i in range(len(source)) if np.array_equal(source.array[i], pixels.numpy())]
            assert samples.captions.names[same] == samples.names[drawn["name"]]
    other = [i for i in samples.alike[samples.number[shared[0]]] if i != shared[0]]
    drawn = samples.sample(shared[0], torch.Generator().manual_seed(1))
    assert any(np.array_equal(source.array[i], drawn["pixels"][1].numpy()) for i in other)


def test_a_style_can_be_left_out():
    source = open_source("emoji-sample", split="train")
    styles = source.column("style")
    samples = script.samples.CaptionedPictures(source, dataclasses.replace(TINY, leave_out_style="noto"))
    assert 0 < len(samples) == sum(style != "noto" for style in styles)
    assert all(styles[i] != "noto" for rows in samples.alike.values() for i in rows)


# ---- the evaluation --------------------------------------------------------------------------------------------------


def test_the_oracle_ranks_names_by_their_nearest_picture():
    known = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 1.0], [4.0, 0.0]])
    similarity = script.evaluation.oracle_similarity(
        np.array([[1.0, 0.0], [9.0, 0.0], [0.0, 2.0]]), ["a", "b", "c"], known, list("abba")
    )
    expected = [[-1, -2, -1e9], [-25, -1, -1e9], [-4, -1, -1e9]]
    assert np.allclose(similarity, expected)


def test_evaluated_pictures_are_of_distinct_concepts_and_names():
    source = open_source("emoji-sample", split="train")
    said = script.evaluation.Captions(source)
    picked = script.evaluation.distinct(source, said, np.arange(len(source)), 500)
    concepts = [source.column("concept")[i] for i in picked]
    assert len(set(concepts)) == len(concepts) == len(set(source.column("concept")))
    assert script.evaluation.distinct(source, said, np.arange(len(source)), 5).tolist() == picked[:5].tolist()


def test_recalls_are_those_of_the_similarities(model):
    source = open_source("emoji-sample", split="heldout_pairs")
    texts = [script.evaluation.Captions(source).plain(i) for i in range(len(source))]
    similarity = model.embed_images([source.picture(i) for i in range(len(source))]) @ model.embed_texts(texts).T
    rank = (similarity >= similarity.diag()[:, None]).sum(1)  # 1 = first
    scores = script.evaluation.recalls(model, source)
    assert scores["image_to_text/recall@5"] == pytest.approx((rank <= 5).float().mean().item())
    rank = (similarity.T >= similarity.diag()[:, None]).sum(1)
    assert scores["text_to_image/recall@1"] == pytest.approx((rank <= 1).float().mean().item())
