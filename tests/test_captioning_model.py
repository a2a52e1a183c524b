"""hub_models/captioning against the stock classes: tokens and scores of generate, cache, beams, batches, evidence."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BlipForConditionalGeneration,
    BlipProcessor,
    VisionEncoderDecoderModel,
)

from hub_models import captioning, store
from hub_models.captioning import parts
from hub_models.captioning.parts import attended, attention_shown, decode
from hub_models.pictures import frame
from hub_models.publish import halves
from hub_models.store import CheckpointError

KINDS = ["swin-bert", "vit-gpt2", "blip"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict:
    root = tmp_path_factory.mktemp("captioners")
    made = {kind: tiny_models.captioner(root / kind, kind) for kind in KINDS}
    halves.to_half(made["swin-bert"])
    return made


@pytest.fixture(scope="module")
def served(folders) -> dict:
    return {kind: captioning.load(str(folder), device="cpu") for kind, folder in folders.items()}


def picture(seed: int = 0, size=(32, 32)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(
        0, 256, (max(1, size[1] // 4), max(1, size[0] // 4), 3), dtype=np.uint8
    )
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


PICTURES = [picture(seed) for seed in range(5)]


def stock(kind: str, folder):
    """What somebody without this project has: the class, opened with no arguments, and its inputs for pictures."""
    if kind == "blip":
        model, processor = BlipForConditionalGeneration.from_pretrained(folder), BlipProcessor.from_pretrained(folder)
    else:
        model, processor = VisionEncoderDecoderModel.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    return model.eval(), processor(images=PICTURES, return_tensors="pt")["pixel_values"]


def without_padding(row: list[int], ours: captioning.Captioner) -> list[int]:
    ends = [at for at, token in enumerate(row) if token == ours.end_id]
    return row[: ends[0] + 1] if ends else row


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_the_stock_class_says_the_same(folders, served, kind, beams):
    model, pixels = stock(kind, folders[kind])
    ours = served[kind]
    assert torch.equal(pixels, ours.pixel_values(PICTURES))
    settings = {"num_beams": beams, "num_return_sequences": beams, "max_new_tokens": ours.max_length - 1}
    generated = model.generate(pixel_values=pixels, **settings, return_dict_in_generate=True, output_scores=True)
    rows = [without_padding(row[1:], ours) for row in generated.sequences.tolist()]
    found = ours.caption_all(PICTURES, num_beams=beams, num_return_sequences=beams)
    captions = [caption for captions in found for caption in captions]
    assert [caption.tokens for caption in captions] == rows
    assert len({tuple(row) for row in rows}) > len(PICTURES) / 2, (
        "models that say the same of all pictures compare nothing"
    )
    if beams > 1:
        lengths = torch.tensor([len(row) for row in rows])
        expected = generated.sequences_scores * lengths  # a mean over the tokens, as length_penalty is 1
        np.testing.assert_allclose([caption.log_prob for caption in captions], expected.numpy(), atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_teacher_forced_log_probabilities(folders, served, kind):
    model, pixels = stock(kind, folders[kind])
    drawn = served[kind].caption(
        PICTURES[1], do_sample=True, num_return_sequences=4, temperature=3.0, top_p=1.0, seed=5
    )
    for caption in drawn:
        ids = torch.tensor([[served[kind].start_id, *caption.tokens]])
        with torch.no_grad():
            if kind == "blip":
                logits = model(pixel_values=pixels[1:2], input_ids=ids[:, :-1]).logits
            else:
                logits = model(pixel_values=pixels[1:2], decoder_input_ids=ids[:, :-1]).logits
        expected = logits.log_softmax(-1)[0].gather(-1, ids[0, 1:, None])[:, 0]
        np.testing.assert_allclose(caption.token_log_probs, expected.numpy(), atol=1e-4)
        assert caption.log_prob == pytest.approx(expected.sum().item(), abs=1e-3)
        assert caption.probability == pytest.approx(math.exp(caption.log_prob))
    assert [c.log_prob for c in drawn] == sorted((c.log_prob for c in drawn), reverse=True)
    if kind != "blip":  # the model's own loss is minus their mean
        with torch.no_grad():
            loss = model(pixel_values=pixels[1:2], labels=torch.tensor([drawn[0].tokens])).loss
        assert loss.item() == pytest.approx(-drawn[0].log_prob / len(drawn[0].tokens), abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3, "num_return_sequences": 3},
        {"prefix": "a red"},
        {"do_sample": True, "num_return_sequences": 3, "seed": 1},
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_changes_nothing(served, kind, options):
    for image in PICTURES[:2]:
        with_cache, without = (served[kind].caption(image, use_cache=cache, **options) for cache in (True, False))
        assert [c.tokens for c in with_cache] == [c.tokens for c in without]


@pytest.mark.parametrize("kind", KINDS)
def test_company_and_padding_change_nothing(served, kind):
    ours = served[kind]
    for options in ({}, {"num_beams": 2, "num_return_sequences": 2}):
        together = ours.caption_all(PICTURES, **options)
        for image, captions in zip(PICTURES, together, strict=True):
            for alone, beside in zip(ours.caption(image, **options), captions, strict=True):
                assert alone.tokens == beside.tokens
                np.testing.assert_allclose(alone.token_log_probs, beside.token_log_probs, atol=1e-4)
    states = captioning.attended(ours.model, ours.encode(PICTURES[:2])).detach()
    rows = [[5, 6, 7], [8, 9, 10, 11, 12, 13]]
    together = captioning.token_log_probs(ours, states, rows)
    for n, row in enumerate(rows):
        alone = captioning.token_log_probs(ours, states[n : n + 1], [row])[0]
        np.testing.assert_allclose(together[n], alone, atol=1e-5)
    assert ours.caption_all([]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_one_beam_is_greedy_by_hand(served, kind):
    ours = served[kind]
    states = captioning.attended(ours.model, ours.encode(PICTURES[:1])).detach()
    ids = [ours.start_id]
    while len(ids) < ours.max_length and (len(ids) == 1 or ids[-1] != ours.end_id):
        logits = captioning.decode(ours.model, states, torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
    assert ours.caption(PICTURES[0], num_beams=1)[0].tokens == ids[1:]


def test_more_beams_find_more_probable_captions(served):
    ours = served["swin-bert"]
    greedy = [captions[0].log_prob for captions in ours.caption_all(PICTURES)]
    beams = [captions[0].log_prob for captions in ours.caption_all(PICTURES, num_beams=8, length_penalty=0.0)]
    assert sum(beams) > sum(greedy)
    ranked = ours.caption(PICTURES[0], num_beams=4, num_return_sequences=4, length_penalty=0.0)
    assert [c.log_prob for c in ranked] == sorted((c.log_prob for c in ranked), reverse=True)
    assert len({c.text for c in ranked}) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_a_function_of_the_seed_and_stay_in_the_nucleus(served, kind):
    ours = served[kind]

    def texts(**options):
        return [c.text for c in ours.caption(PICTURES[0], do_sample=True, num_return_sequences=6, **options)]

    before = torch.random.get_rng_state()
    assert texts(seed=3, top_p=1.0) == texts(seed=3, top_p=1.0) != texts(seed=4, top_p=1.0)
    texts(seed=2**70)
    assert torch.equal(before, torch.random.get_rng_state()), "the generators of everybody else are left alone"
    greedy = ours.caption(PICTURES[0])[0].text
    assert set(texts(seed=0, top_p=0.01)) == {greedy}
    for caption in ours.caption(PICTURES[0], do_sample=True, num_return_sequences=4, top_p=0.6, seed=1):
        states = captioning.attended(ours.model, ours.encode(PICTURES[:1])).detach()
        ids = torch.tensor([[ours.start_id, *caption.tokens[:-1]]])
        chances = captioning.decode(ours.model, states, ids, use_cache=False).logits[0].softmax(-1)  # (L, V)
        for row, token in zip(chances, caption.tokens, strict=True):
            assert row[row > row[token]].sum() < 0.6 + 1e-4, "what is more probable must not fill the nucleus alone"


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_is_gone_on_with(served, kind):
    ours = served[kind]
    for options in ({}, {"num_beams": 2, "num_return_sequences": 2}, {"do_sample": True, "seed": 0}):
        for caption in ours.caption(PICTURES[0], prefix="a red", max_new_tokens=3, **options):
            assert caption.text.startswith("a red") and len(caption.token_log_probs) == len(caption.tokens)
            begun = ours.prefix_tokens("a red")
            assert caption.tokens[: len(begun)] == begun and len(caption.tokens) <= len(begun) + 3
    longest = "a" + " a" * (ours.max_prefix_tokens - 1)
    assert len(ours.prefix_tokens(longest)) == ours.max_prefix_tokens
    full = ours.caption(PICTURES[0], prefix=longest)[0]
    assert len(full.tokens) == ours.max_length - 1
    with pytest.raises(ValueError, match=f"reads at most {ours.max_prefix_tokens}"):
        ours.caption(PICTURES[0], prefix="a" + " a" * ours.max_prefix_tokens)
    with pytest.raises(ValueError, match="2,000"):
        ours.caption(PICTURES[0], prefix="a" * 1_000_000)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("prefix", ["", "a red"])
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_captions_are_those_of_generate_with_their_probabilities(served, kind, prefix, cached, monkeypatch):
    ours = served[kind]
    begun = [ours.start_id, *ours.prefix_tokens(prefix)]
    said = [captions[0].tokens[len(begun) - 1 :] for captions in ours.caption_all(PICTURES, prefix=prefix)]
    early_and_late = (
        token
        for row in said
        for token in row
        if len({other.index(token) if token in other else None for other in said}) > 1
    )
    monkeypatch.setattr(ours, "end_id", next(early_and_late))
    settings = {"num_beams": 1, "max_new_tokens": ours.max_length - len(begun), "do_sample": False}
    found = [captions[0] for captions in ours.caption_all(PICTURES, prefix=prefix, use_cache=cached)]
    with torch.no_grad():
        raw = ours.encode(PICTURES)
        assert [caption.tokens for caption in found] == parts.generated(ours, raw, begun, settings)
        states = captioning.attended(ours.model, raw)
        scored = captioning.token_log_probs(ours, states, [caption.tokens for caption in found])
    assert len({len(caption.tokens) for caption in found}) > 1
    for caption, expected in zip(found, scored, strict=True):
        np.testing.assert_allclose(caption.token_log_probs, expected, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2, "seed": 1}])
@pytest.mark.parametrize("kind", KINDS)
def test_work_is_watched_and_ended_from_outside(served, kind, options):
    ours, steps = served[kind], []
    watched = ours.caption(PICTURES[0], on_step=lambda: steps.append(1), **options)
    assert watched == ours.caption(PICTURES[0], **options)
    assert len(steps) >= max(len(caption.tokens) for caption in watched) - 1

    def end():
        steps.append(1)
        if len(steps) == 2:
            raise TimeoutError

    steps.clear()
    with pytest.raises(TimeoutError):
        ours.caption(PICTURES[0], on_step=end, **options)
    assert len(steps) == 2
    steps.clear()
    long = ours.score(PICTURES[0], "a red apple of the blue cat in a car")
    with pytest.raises(TimeoutError):
        ours.evidence(PICTURES[0], long, on_step=end)


@pytest.mark.parametrize("kind", KINDS)
def test_looking_at_the_attention_leaves_the_model_as_fast_as_it_was(served, kind):
    ours = served[kind]
    config = captioning.decoder_of(ours.model).config
    before = config._attn_implementation
    assert ours.evidence(PICTURES[0], ours.caption(PICTURES[0])[0])[0].attention is not None
    assert config._attn_implementation == before and (kind == "blip" or before == "sdpa")


@pytest.mark.parametrize("kind", KINDS)
def test_words_cover_the_text(served, kind):
    ours = served[kind]
    caption = ours.score(PICTURES[0], "a red apple in style , cab")
    assert [word for word, _ in caption.words][:4] == ["a", "red", "apple", "in"]
    assert "cab" in [word for word, _ in caption.words], "spelled in pieces, one word"
    places = [at for _, place in caption.words for at in range(place.start, place.stop)]
    assert places == list(range(len(caption.tokens) - 1)), "every token but the end"
    assert caption.tokens[-1] == ours.end_id
    said = ours.caption(PICTURES[0])[0]
    scored = captioning.token_log_probs(ours, captioning.attended(ours.model, ours.encode(PICTURES[:1])), [said.tokens])
    np.testing.assert_allclose(said.token_log_probs, scored[0], atol=1e-5)


@pytest.mark.parametrize("options", [{"num_beams": 0}, {"num_beams": 17}, {"num_beams": 2.5}, {"num_beams": True},
                                     {"num_return_sequences": 3}, {"num_beams": 2, "num_return_sequences": 3},
                                     {"do_sample": True, "num_beams": 2}, {"temperature": 0}, {"temperature": math.nan},
                                     {"top_p": 0}, {"top_p": 1.5}, {"length_penalty": math.inf}, {"max_new_tokens": 0},
                                     {"temperature": "hot"}])  # fmt: skip
def test_options_out_of_range_are_named(served, options):
    with pytest.raises(ValueError, match="|".join(options)):
        served["swin-bert"].caption(PICTURES[0], **options)


# --- Pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "image", [Image.new("1", (1, 50)), Image.new("RGBA", (9, 7)), Image.new("L", (300, 2)), picture(0, (70, 40))]
)
def test_any_picture_is_seen(served, kind, image):
    ours = served[kind]
    assert ours.seen(image).size == (32, 32) and ours.seen(image).mode == "RGB"
    assert ours.pixel_values([image]).shape == (1, 3, 32, 32)
    if kind == "swin-bert":
        assert ours.framed and ours.seen(image).tobytes() == frame(image, 32).tobytes()
        assert torch.equal(ours.pixel_values([image]), ours.pixel_values([ours.seen(image)]))


def test_transparency_is_white(served):
    clear, white = Image.new("RGBA", (32, 32), (255, 0, 0, 0)), Image.new("RGB", (32, 32), "white")
    for ours in served.values():
        assert torch.equal(ours.pixel_values([clear]), ours.pixel_values([white]))


# --- Evidence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_evidence_is_what_words_owe_to_attention_and_the_loss_by_covering(folders, served, kind):
    ours = served[kind]
    caption = ours.score(PICTURES[2], "a red apple")
    found = ours.evidence(PICTURES[2], caption)
    assert [e.word for e in found] == ["a", "red", "apple"]
    if kind == "blip":
        model = BlipForConditionalGeneration.from_pretrained(folders[kind])
    else:
        model = VisionEncoderDecoderModel.from_pretrained(folders[kind], attn_implementation="eager")
    model.eval()
    ids, pixels = torch.tensor([[ours.start_id, *caption.tokens[:-1]]]), ours.pixel_values([PICTURES[2]])
    if kind == "blip":
        states = model.vision_model(pixels).last_hidden_state
        out = model.text_decoder(ids, encoder_hidden_states=states, output_attentions=True)
    else:
        out = model(pixel_values=pixels, decoder_input_ids=ids, output_attentions=True)
    log_probs, layers = out.logits[0].log_softmax(-1), list(out.cross_attentions)
    gains = []
    for place, token in enumerate(caption.tokens):
        found_by = torch.autograd.grad(log_probs[place, token], layers, retain_graph=True)
        gains.append(torch.stack([gradient[0] for gradient in found_by]))  # (layers, heads, L, S)
    heads = torch.stack([layer[0] for layer in layers])
    maps = [(heads * sum(gains[place])).clamp(min=0).mean((0, 1)).sum(0).detach() for _, place in caption.words]  # (S,)
    cells = found[0].attention.size
    assert cells == 16 and len(maps[0]) - cells == (0 if kind == "swin-bert" else 1)
    side = 32 // int(cells**0.5)
    for evidence, (_, place), of_word in zip(found, caption.words, maps, strict=True):
        expected = of_word[-cells:].reshape(evidence.attention.shape).numpy()
        np.testing.assert_allclose(evidence.attention, expected / expected.max(), atol=1e-4)
        assert evidence.attention.dtype == np.float32 and evidence.attention.max() == pytest.approx(1)
        assert 1 <= evidence.covered.sum() <= cells / 4 and evidence.covered[evidence.attention == 1].all()
        pixels = np.array(ours.seen(PICTURES[2]))
        mean = np.rint(pixels.mean((0, 1)))
        for row, column in zip(*np.nonzero(evidence.covered), strict=True):
            pixels[row * side : (row + 1) * side, column * side : (column + 1) * side] = mean
        without = ours.score(Image.fromarray(pixels), "a red apple")
        drop = sum(caption.token_log_probs[place]) - sum(without.token_log_probs[place])
        assert evidence.drop == pytest.approx(drop, abs=1e-4)
    assert any(abs(e.drop) > 1e-3 for e in found)
    assert not np.allclose(found[1].attention, found[2].attention)
    assert ours.evidence(PICTURES[0], dataclasses.replace(caption, words=[])) == []


def test_a_word_that_owes_nothing_to_the_picture_shows_its_attention(served, monkeypatch):
    ours = served["swin-bert"]
    caption = ours.score(PICTURES[2], "a red apple")
    monkeypatch.setattr(
        "hub_models.captioning.evidence.relevance", lambda attentions, score: torch.zeros(attentions[0].shape[-1])
    )
    states = attended(ours.model, ours.encode([ours.seen(PICTURES[2])]))
    ids = torch.tensor([[ours.start_id, *caption.tokens[:-1]]])
    with attention_shown(ours.model):
        out = decode(ours.model, states, ids, output_attentions=True, use_cache=False)
    mean = torch.stack([layer[0].mean(0) for layer in out.cross_attentions]).mean(0).detach()  # (L, S)
    for evidence, (_, place) in zip(ours.evidence(PICTURES[2], caption), caption.words, strict=True):
        expected = mean[place].mean(0).reshape(4, 4).numpy()
        np.testing.assert_allclose(evidence.attention, expected / expected.max(), atol=1e-5)


def test_without_patches_there_is_no_map_and_it_says_so(served, monkeypatch):
    monkeypatch.setattr(captioning.evidence, "grid_of", lambda states: None)
    for ours in served.values():
        found = ours.evidence(PICTURES[0], ours.score(PICTURES[0], "a dog"))
        assert [(e.word, e.attention, e.drop, e.covered) for e in found] == [
            ("a", None, None, None),
            ("dog", None, None, None),
        ]


def test_grids_and_what_is_pointed_at():
    assert [captioning.grid_of(n) for n in (16, 17, 64, 197, 198, 577)] == [
        (4, 4),
        (4, 4),
        (8, 8),
        (14, 14),
        (14, 14),
        (24, 24),
    ]
    assert captioning.grid_of(48) is None
    attention = np.zeros((4, 4), np.float32)
    attention[1, 2], attention[3, 3], attention[0, 0] = 1, 0.6, 0.4
    assert np.argwhere(captioning.pointed_at(attention)).tolist() == [[1, 2], [3, 3]]
    assert captioning.pointed_at(np.ones((4, 4), np.float32)).sum() == 4


# --- Folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_saved_again_is_the_same(folders, served, tmp_path):
    for kind, ours in served.items():
        captioning.save_folder(tmp_path / kind, ours)
        again = captioning.load(str(tmp_path / kind), device="cpu")
        assert (again.kind, again.framed, again.max_length) == (ours.kind, ours.framed, ours.max_length)
        [copy], [mine] = (each.caption(PICTURES[0]) for each in (again, ours))
        assert copy.tokens == mine.tokens
        np.testing.assert_allclose(copy.token_log_probs, mine.token_log_probs, atol=1e-5)
    bare = VisionEncoderDecoderModel.from_pretrained(folders["swin-bert"]).eval()
    ours = served["swin-bert"]
    generated = bare.generate(pixel_values=ours.pixel_values(PICTURES)).tolist()  # not one argument
    assert [without_padding(row[1:], ours) for row in generated] == [c[0].tokens for c in ours.caption_all(PICTURES)]
    tokenizer = AutoTokenizer.from_pretrained(folders["swin-bert"])
    assert tokenizer.model_max_length == ours.max_length


@pytest.mark.parametrize("name", store.variants("captioning"))
def test_every_shipped_model_says_what_the_stock_class_says(name):
    ours, folder = captioning.load(name, device="cpu"), store.WEIGHTS / "captioning" / name
    bare = VisionEncoderDecoderModel.from_pretrained(folder).eval()
    assert {p.dtype for p in bare.parameters()} == {torch.float32}
    rows = bare.generate(pixel_values=ours.pixel_values(PICTURES)).tolist()
    captions = [found[0] for found in ours.caption_all(PICTURES)]
    assert [without_padding(row[1:], ours) for row in rows] == [caption.tokens for caption in captions]
    with torch.no_grad():
        loss = bare(pixel_values=ours.pixel_values(PICTURES[:1]), labels=torch.tensor([captions[0].tokens])).loss
    assert loss.item() == pytest.approx(-captions[0].log_prob / len(captions[0].tokens), abs=1e-4)
    limit_mib = {"photo": 18}.get(name, 14)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= limit_mib * 2**20


def spoilt(folders, tmp_path, kind="swin-bert"):
    folder = tmp_path / "spoilt"
    shutil.copytree(folders[kind], folder)
    return folder


def test_folders_of_something_else_are_refused(folders, tmp_path):
    folder = spoilt(folders, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(CheckpointError, match="model_type 'vit'"):
        captioning.load(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-thing"}))
    with pytest.raises(CheckpointError, match="not one that transformers knows"):
        captioning.load(str(folder))
    (folder / "config.json").write_text(json.dumps(config))
    processor = (folder / "preprocessor_config.json").read_text()
    (folder / "preprocessor_config.json").write_text(json.dumps(json.loads(processor) | {"framed": "yes"}))
    with pytest.raises(CheckpointError, match="framed must be"):
        captioning.load(str(folder))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="is not one that transformers knows"):
        captioning.load(str(folder))
    (folder / "preprocessor_config.json").write_text(processor)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in tensors.items() if "crossattention" not in k}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(CheckpointError, match="weights lack decoder.bert.encoder.layer.0.crossattention"):
        captioning.load(str(folder))


def test_a_tokenizer_of_another_model_is_refused(folders, tmp_path):
    folder = spoilt(folders, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(CheckpointError, match="different models"):
        captioning.load(str(folder))
