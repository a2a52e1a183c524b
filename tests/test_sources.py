"""Opening data: every kind of source, every error before training, and what a picture becomes."""

import io
import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data import sources
from training.data.emoji.tables import LABELS
from training.data.sources import DataError, decode, open_source, square

ROOT = Path(__file__).resolve().parents[1]


def picture(value: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new("RGB", size, (value, 255 - value, 40))


def png(image: Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def write_pictures(folder: Path, count: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{k:02d}.png" for k in range(count)]
    for k, name in enumerate(names):
        picture(k).save(folder / name)
    return names


def with_metadata(folder: Path, rows: list[dict], kind: str = "jsonl") -> Path:
    if kind == "jsonl":
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        columns = list(rows[0])
        lines = [",".join(columns)] + [",".join(str(row[c]) for c in columns) for row in rows]
        (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def class_folders(folder: Path, counts: dict[str, int]) -> Path:
    value = 0
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for k in range(count):
            picture(value).save(folder / label / f"{k}.png")
            value += 1
    return folder


def parquet(folder: Path, columns: dict, split: str = "train", features=None) -> Path:
    import datasets

    (folder / "data").mkdir(parents=True, exist_ok=True)
    data = datasets.Dataset.from_dict(columns, features=features)
    data.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return folder


def as_images(count: int) -> list[dict]:
    return [{"bytes": png(picture(k)), "path": f"{k}.png"} for k in range(count)]


def image_features(**others):
    import datasets

    return datasets.Features({"image": datasets.Image(), **others})


# ---------------------------------------------------------------------------------------------------------------------
# What opens


def test_the_bundled_sample_opens_with_its_three_splits():
    train = open_source("emoji-sample", split="train")
    assert len(train) == 72 and train.label_names == list(LABELS)
    assert train.labels.dtype == np.int64 and set(train.labels) == set(range(12))
    assert [train.label(i) for i in range(72)] == train.labels.tolist()
    assert train.captions(0) == [train.column("name")[0]]
    assert set(train.licenses) <= {"Apache-2.0", "CC-BY-4.0", "MIT"} and train.licenses
    assert train.picture(0).mode == "RGBA" and train.picture(0).size == (64, 64)
    assert not any(train.column("skin_tone"))
    assert len(open_source("emoji-sample", split="train", skin_tones=True)) == 76
    assert len(open_source("emoji-sample", split="validation")) == 12
    assert len(open_source("emoji-sample", split="heldout_pairs")) == 12
    limited = open_source("emoji-sample", split="train", limit=24)
    assert len(limited) == 24 and len(set(limited.column("style"))) > 1  # from all over, not the first ones


def test_class_folders_give_labels(tmp_path):
    folder = class_folders(tmp_path / "pets", {"dog": 6, "cat": 6})
    train, held = (open_source(str(folder), split=split) for split in ("train", "validation"))
    assert train.label_names == held.label_names == ["cat", "dog"]
    assert (len(train), len(held)) == (11, 1)
    red = {train.picture(i).getpixel((0, 0))[0]: train.label(i) for i in range(len(train))}
    assert all(label == (1 if value < 6 else 0) for value, label in red.items())


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_folder_with_metadata_gives_captions(tmp_path, kind):
    names = write_pictures(tmp_path / "art", 20)
    rows = [{"file_name": name, "text": f"number {k}"} for k, name in enumerate(names)]
    folder = with_metadata(tmp_path / "art", rows, kind)
    train = open_source(str(folder), split="train", caption_column="text")
    held = open_source(str(folder), split="validation", caption_column="text")
    for source in (train, held):
        for i in range(len(source)):
            assert source.captions(i) == [f"number {source.picture(i).getpixel((0, 0))[0]}"]
    with pytest.raises(DataError, match=r"has no labels: name the column with --label_column\. It has: text"):
        train.labels  # noqa: B018


def test_captions_may_be_lists_and_split_folders_are_splits(tmp_path):
    for split, count in (("train", 4), ("validation", 2)):
        names = write_pictures(tmp_path / split, count)
        with_metadata(tmp_path / split, [{"file_name": name, "captions": ["a", "b"]} for name in names])
    train = open_source(str(tmp_path), split="train", caption_column="captions")
    held = open_source(str(tmp_path), split="validation", caption_column="captions")
    assert (len(train), len(held)) == (4, 2)
    assert train.captions(0) == ["a", "b"]


def test_parquet_gives_labels_of_every_kind(tmp_path):
    import datasets

    text, whole = datasets.Value("string"), datasets.Value("int32")
    classes = datasets.ClassLabel(names=["x", "y"])
    for split in ("train", "validation"):  # "c" is in validation only, and has the same index in both
        names = ["b", "a", "b"] if split == "train" else ["c", "a", "b"]
        columns = {"image": as_images(3), "label": [1, 0, 1], "kind": names, "number": [0, 2, 1]}
        parquet(tmp_path, columns, split, image_features(label=classes, kind=text, number=whole))
    train = open_source(str(tmp_path), split="train")
    assert (train.label_names, train.labels.tolist()) == (["x", "y"], [1, 0, 1])
    train = open_source(str(tmp_path), split="train", label_column="kind")
    assert (train.label_names, train.labels.tolist()) == (["a", "b", "c"], [1, 0, 1])
    train = open_source(str(tmp_path), split="train", label_column="number")
    assert (train.label_names, train.labels.tolist()) == (["0", "1", "2"], [0, 2, 1])


def test_parquet_written_by_others_opens_too(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "data").mkdir()
    table = pa.table({"img": as_images(3), "text": ["a", "b", "c"]})  # no features of `datasets` in the schema
    pq.write_table(table, tmp_path / "data" / "train-0.parquet")
    train = open_source(str(tmp_path), split="train", image_column="img")
    assert len(train) + len(open_source(str(tmp_path), split="validation", image_column="img")) == 3
    assert train.picture(0).size == (8, 8)


def test_a_tenth_is_carved_by_file_name_and_never_trained_on(tmp_path):
    names = write_pictures(tmp_path / "a", 40)
    with_metadata(tmp_path / "a", [{"file_name": n, "file": n} for n in names])
    train, held = (set(open_source(str(tmp_path / "a"), split=s).column("file")) for s in ("train", "validation"))
    assert train | held == set(names) and not train & held and len(held) == 4
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere" / "b")
    with_metadata(tmp_path / "elsewhere" / "b", [{"file_name": n, "file": n} for n in names[::-1]])
    again = set(open_source(str(tmp_path / "elsewhere" / "b"), split="validation").column("file"))
    assert again == held  # wherever the folder lies, whatever the order of the rows


def test_the_data_hash_follows_the_content_alone(tmp_path):
    a = class_folders(tmp_path / "a", {"cat": 3, "dog": 3})
    shutil.copytree(a, tmp_path / "b")
    first = open_source(str(a), split="train").data_hash
    assert len(first) == 64 and open_source(str(tmp_path / "b"), split="train").data_hash == first
    kept = [p for p in (tmp_path / "b").rglob("*.png")]
    for path in kept:
        Image.open(path).transpose(Image.Transpose.ROTATE_90).convert("RGB").save(path, compress_level=0)
    assert open_source(str(tmp_path / "b"), split="train").data_hash != first
    shutil.rmtree(tmp_path / "b")
    shutil.copytree(a, tmp_path / "b")
    (tmp_path / "b" / "dog").rename(tmp_path / "b" / "wolf")  # the same pictures under another label
    assert open_source(str(tmp_path / "b"), split="train").data_hash != first


def test_a_changed_folder_is_read_anew(tmp_path):
    folder = class_folders(tmp_path / "a", {"cat": 3, "dog": 3})
    before = len(open_source(str(folder), split="train"))
    picture(200).save(folder / "dog" / "9.png")
    picture(201).save(folder / "cat" / "9.png")
    assert len(open_source(str(folder), split="train")) == before + 2


def test_emoji_is_where_vitrail_data_says(tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"not built: .*emoji is missing\. Run `make data`, or use .*'emoji-sample'"):
        open_source("emoji", split="train")
    shutil.copytree(ROOT / "tests" / "data" / "emoji-sample", tmp_path / "emoji")
    sample = open_source("emoji-sample", split="train")
    assert open_source("emoji", split="train").data_hash == sample.data_hash
    with pytest.raises(DataError, match="emoji-unseen is missing"):
        open_source("emoji", split="unseen_style")


# ---------------------------------------------------------------------------------------------------------------------
# What is refused, and how


def refused(match: str, dataset_name, split: str = "train", **options) -> None:
    with pytest.raises(DataError, match=match):
        open_source(str(dataset_name), split=split, **options)


def test_a_folder_that_is_not_there(tmp_path):
    (tmp_path / "pictures").mkdir()
    refused(r"There is no folder .*pictres\. Did you mean .*/pictures\?", tmp_path / "pictres")
    refused(r"There is no folder \./nowhere/at/all", "./nowhere/at/all")
    (tmp_path / "a.parquet").write_bytes(b"x")
    refused("is a file: give the folder", tmp_path / "a.parquet")
    refused(r"'nobody/nothing' is no folder here, and the Hub did not give it", "nobody/nothing")


def test_an_empty_data_set(tmp_path):
    refused("is empty: it holds no pictures and no parquet files", tmp_path)
    (tmp_path / "README.md").write_text("# Nothing")
    refused("is empty: it holds no pictures", tmp_path)
    parquet(tmp_path / "b", {"image": [], "text": []}, "train", image_features(text=_text()))
    refused("is empty: its files hold no rows", tmp_path / "b")


def _text():
    import datasets

    return datasets.Value("string")


def test_a_column_that_is_not_there():
    refused(
        r"emoji-sample has no column 'imge'\. It has: image, name, .*Did you mean 'image'\? Set --image_column\.",
        "emoji-sample",
        image_column="imge",
    )
    refused(r"no column 'labels'.*Did you mean 'label'\? Set --label_column", "emoji-sample", label_column="labels")
    refused(r"no column 'Name'.*Did you mean 'name'\? Set --caption_column", "emoji-sample", caption_column="Name")
    refused(r"'name' holds string, no pictures\. Pictures are in: image\.", "emoji-sample", image_column="name")
    refused(r"'keywords' holds .* but a label is a class name or an integer", "emoji-sample", label_column="keywords")
    with pytest.raises(DataError, match=r"no column 'styles'.*Did you mean 'style'"):
        open_source("emoji-sample", split="train").column("styles")


def test_a_split_that_is_not_there():
    refused(
        r"emoji-sample has no split 'heldout_pair'\. It has: .*Did you mean 'heldout_pairs'",
        "emoji-sample",
        "heldout_pair",
    )


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        (None, r"metadata\.jsonl, 02\.png: the caption is missing in column 'text'"),
        ("  ", r"metadata\.jsonl, 02\.png: the caption in column 'text' is empty"),
        (7, r"metadata\.jsonl, 02\.png: the caption in column 'text' is 7, a int, not text"),
        (["a", 7], r"metadata\.jsonl, 02\.png: the caption in column 'text' is 7, a int, not text"),
        ([], r"metadata\.jsonl, 02\.png: the caption is missing"),
    ],
)
def test_a_caption_that_is_missing_or_no_text(tmp_path, caption, message):
    names = write_pictures(tmp_path, 4)
    rows = [{"file_name": name, "text": "fine"} for name in names]
    rows[2]["text"] = caption
    refused(message, with_metadata(tmp_path, rows), caption_column="text")


def test_a_caption_of_parquet_that_is_missing_or_no_text(tmp_path):
    import datasets

    columns = {"image": as_images(3), "text": ["a", None, "c"], "number": [1, 2, 3]}
    parquet(tmp_path, columns, "train", image_features(text=_text(), number=datasets.Value("int64")))
    parquet(tmp_path, columns, "validation", image_features(text=_text(), number=datasets.Value("int64")))
    refused("row 1: the caption is missing in column 'text'", tmp_path, caption_column="text")
    refused("row 0: the caption in column 'number' is 1, a int, not text", tmp_path, caption_column="number")
    with pytest.raises(DataError, match="row 1: the caption is missing in column 'text'"):
        open_source(str(tmp_path), split="train").captions(0)  # nobody asked for captions when it was opened


def test_metadata_that_names_pictures_wrongly(tmp_path):
    names = write_pictures(tmp_path, 4)
    rows = [{"file_name": name, "text": "fine"} for name in names]
    refused(
        r"metadata\.jsonl names 1\.png, which is not there\. Did you mean 01\.png\?",
        with_metadata(tmp_path, [*rows, {"file_name": "1.png", "text": "lost"}]),
    )
    refused(r"metadata\.jsonl names 01\.png 2 times: keep one row", with_metadata(tmp_path, [*rows, rows[1]]))
    wrong = [{"filename": row["file_name"], "text": "fine"} for row in rows]
    refused(
        r"has no column `file_name`\. It has: filename, text\. Did you mean 'filename'", with_metadata(tmp_path, wrong)
    )
    refused(r"row 5: `file_name` is None, not the name of a file", with_metadata(tmp_path, [*rows, {"text": "lost"}]))
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "00.png"}\n{"file_name": \n')
    refused(r"metadata\.jsonl, line 2, is not JSON", tmp_path)
    (tmp_path / "metadata.jsonl").write_text('["00.png"]\n')
    refused(r"metadata\.jsonl, line 1, is not an object", tmp_path)
    (tmp_path / "metadata.jsonl").write_text("")
    refused(r"metadata\.jsonl is empty: a line per picture is needed", tmp_path)


def test_a_label_that_is_missing_or_out_of_range(tmp_path):
    import datasets

    classes = datasets.ClassLabel(names=["x", "y"])
    columns = {"image": as_images(3), "label": [0, 1, -1], "kind": ["a", None, "b"], "share": [0.5, 1.0, 1.5]}
    features = image_features(label=classes, kind=_text(), share=datasets.Value("float32"))
    for split in ("train", "validation"):
        parquet(tmp_path, columns, split, features)
    refused(r"row 2: label -1 is out of range, column 'label' has 2 classes \(0 to 1\)", tmp_path)
    refused(r"row 1: the label is missing in column 'kind'", tmp_path, label_column="kind")
    refused(r"'share' holds float32, but a label is a class name or an integer", tmp_path, label_column="share")


def test_a_class_label_beyond_the_classes_names_its_row(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel

    schema = image_features(label=ClassLabel(names=["x", "y"])).arrow_schema
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        table = pa.table({"image": as_images(3), "label": [0, 1, 2]}, schema)
        pq.write_table(table, tmp_path / "data" / f"{split}-0.parquet")
    refused(r"row 2: label 2 is out of range|cannot be read as a data set: .*2", tmp_path)


def test_a_broken_parquet_file_is_named(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-0.parquet").write_bytes(b"PAR1 and then nothing")
    refused("cannot be read as a data set", tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Unreadable pictures


def broken_pictures() -> list[bytes]:
    whole = png(picture(1, (64, 64)).effect_spread(3), "JPEG")
    noise = png(Image.effect_noise((64, 64), 80))
    return [b"", whole[: len(whole) // 2], noise[: len(noise) // 2], b"<html>not found</html>", b"\x89PNG\r\n\x1a\n"]


def test_a_few_unreadable_pictures_are_skipped_counted_and_listed(tmp_path, capsys):
    folder = class_folders(tmp_path, {"cat": 60, "dog": 60})
    for k, content in enumerate(broken_pictures()):
        (folder / "cat" / f"{k}.png").write_bytes(content)
    train, held = (open_source(str(folder), split=split) for split in ("train", "validation"))
    skipped = sorted(train.skipped + held.skipped)
    assert skipped == [f"cat/{k}.png" for k in range(5)]
    assert len(train) + len(held) == 115 and len(train) == len(train.labels)
    for i in range(len(train)):  # labels, names and pictures still belong together
        assert train.label(i) == (train.picture(i).getpixel((0, 0))[0] >= 60)
    said = capsys.readouterr().out
    assert "unreadable pictures left out: cat/" in said
    train.preload(4)
    assert train.array.shape == (len(train), 4, 4, 4)


def test_more_than_a_twentieth_unreadable_stops(tmp_path):
    folder = class_folders(tmp_path, {"cat": 20, "dog": 20})
    for k in range(5):
        (folder / "cat" / f"{k}.png").write_bytes(b"")
    refused(r"of 36 pictures cannot be read, more than 5%: cat/\d\.png.*Repair or remove them", folder)


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def test_pictures_come_upright_and_in_rgb_or_rgba():
    grey16 = Image.fromarray((np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8))
    decoded = decode(png(grey16))
    assert decoded.mode == "RGB" and decoded.getpixel((1, 0)) == (3, 3, 3) and decoded.getpixel((7, 7))[0] == 246
    assert decode(png(picture(9).convert("CMYK"), "JPEG")).mode == "RGB"
    assert decode(png(picture(9).convert("P"))).mode == "RGB"
    palette = Image.new("P", (4, 4))
    assert decode(png(palette, transparency=0)).getpixel((0, 0))[3] == 0
    frames = [picture(10), picture(200)]
    assert decode(png(frames[0], "GIF", save_all=True, append_images=frames[1:])).getpixel((0, 0))[0] < 100
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    assert decode(png(picture(1, (20, 10)), "JPEG", exif=exif)).size == (10, 20)


def test_a_bomb_is_unreadable_and_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # a small bomb
    with warnings.catch_warnings(), pytest.raises(Image.DecompressionBombError):
        warnings.simplefilter("ignore")
        decode(png(picture(1, (200, 200))))


def test_an_oblong_picture_is_centred_on_transparent_ground():
    small = np.asarray(square(picture(50, (40, 20)), 8))  # (8, 8, 4)
    assert (abs(small[3:5].astype(int) - (50, 205, 40, 255)) <= 4).all()  # bicubic: a little ringing
    assert not small[0, :, 3].any() and not small[7, :, 3].any()


def test_resizing_leaves_no_dark_fringe():
    disc = np.zeros((128, 128, 4), np.uint8)  # transparent black around a yellow disc
    y, x = np.mgrid[:128, :128]
    disc[(x - 64) ** 2 + (y - 64) ** 2 < 50**2] = (255, 220, 0, 255)
    small = np.asarray(square(Image.fromarray(disc), 32)).astype(int)
    soft = small[(small[..., 3] > 40) & (small[..., 3] < 255)]
    assert len(soft) > 20
    assert (abs(soft[:, :3] - (255, 220, 0)) <= 8).all()


def test_preload_gives_what_the_single_picture_gives(monkeypatch):
    source = open_source("emoji-sample", split="validation")
    expected = np.stack([np.asarray(square(source.picture(i), 24)) for i in range(len(source))])
    source.preload(24)
    assert source.array.dtype == np.uint8 and source.array.shape == (12, 24, 24, 4)
    assert np.array_equal(source.array, expected)
    assert np.array_equal(np.asarray(source.picture(3)), expected[3])
    source.preload(16)  # again, from the originals
    assert source.picture(0).size == (16, 16)
    monkeypatch.setattr(sources, "PRELOAD_BYTES", 1000)
    source.preload(24)
    assert source.array is None
    assert np.array_equal(np.asarray(source.picture(3)), expected[3])


def test_a_source_survives_being_sent_to_a_worker():
    import pickle

    source = open_source("emoji-sample", split="validation")
    source.preload(8)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.data_hash == source.data_hash and np.array_equal(copy.array, source.array)


def test_nothing_is_left_in_the_cache_of_datasets(tmp_path):
    import datasets

    folder = class_folders(tmp_path / "a", {"cat": 3, "dog": 3})
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    before = set(os.listdir(cache)) if cache.is_dir() else set()
    open_source(str(folder), split="train").preload(4)
    assert (set(os.listdir(cache)) if cache.is_dir() else set()) == before
