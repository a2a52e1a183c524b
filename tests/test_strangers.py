"""Data that people bring: each reads as meant, or ends in a sentence that says what to do; a test for each kind."""

import io
import json
import random
import re
import shutil
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import Mixup

from apps.kit.pictures import read_picture
from hub_models import pictures as decoding
from hub_models.publish.tables import class_table
from training import classifier, ddpm, segmentation, text_to_image
from training.data import folders
from training.data.captions import say_cut
from training.data.masks import check, open_masks
from training.data.sources import DataError, compare, decode, open_source
from training.task import Results, opened_pair
from training.text_to_image.selection import select

WORDS = ("dev board", "sensor", "cable", "test clip")


def save(path: Path, number: int = 0, size: tuple[int, int] = (8, 8), **options) -> Path:
    """A picture like no other number's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = random.Random(number).randbytes(3)
    Image.new("RGB", size, tuple(colour)).save(path, **options)
    return path


def classes(root: Path, names=("apples", "pears"), count: int = 10, ending: str = ".png") -> Path:
    for k, name in enumerate(names):
        for n in range(count):
            save(root / name / f"{n}{ending}", 100 * k + n)
    return root


def captioned(root: Path, count: int = 10, name: str = "{}.png", text: str = "number {}") -> list[dict]:
    """Pictures, and what metadata.jsonl has to say of them; written there, too."""
    rows = []
    for n in range(count):
        save(root / name.format(n), n)
        rows.append({"file_name": name.format(n), "text": text.format(n)})
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def ids(number: int = 0, size: tuple[int, int] = (12, 8)) -> np.ndarray:
    return (np.add.outer(np.arange(size[1]), np.arange(size[0])) + number) // 3 % 2


def masks(root: Path, paint, count: int = 4, ending: str = ".png", names=("ground", "disc"), **options) -> Path:
    """images/ and masks/ by name; paint(ids) -> the mask's picture."""
    for n in range(count):
        save(root / "images" / f"{n}.png", n, (12, 8))
        (root / "masks").mkdir(exist_ok=True)
        paint(ids(n)).save(root / "masks" / f"{n}{ending}", **options)
    if names:
        (root / "id2label.json").write_text(json.dumps(dict(enumerate(names))))
    return root


def both(folder: Path, **options):
    return [open_source(str(folder), split=split, **options) for split in ("train", "validation")]


def texts_of(folder: Path, **options) -> dict[str, list[str]]:
    """{file: captions} of both parts."""
    return {name: source.captions(i) for source in both(folder, **options) for i, name in enumerate(source.names)}


def refused(match: str, folder: Path, **options) -> None:
    with pytest.raises(DataError, match=match):
        both(folder, **options)


# ---- splits are folders that are named so ---------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["train", "test", "dev", "eval", "validation", "val", "testing"])
def test_a_split_word_in_a_file_name_is_a_word(tmp_path, word):
    names = [f"a disc {n}.png" for n in range(6)] + [f"old {word} 1.png", f"{word}.png", f"new_{word}-2.png"]
    rows = []
    for n, name in enumerate(names):
        save(tmp_path / name, n)
        rows.append(json.dumps({"file_name": name, "text": "a thing"}) + "\n")
    (tmp_path / "metadata.jsonl").write_text("".join(rows))
    assert set(texts_of(tmp_path)) == set(names)


@pytest.mark.parametrize("inside", ["train", "."])
def test_a_class_folder_called_dev_is_a_class(tmp_path, inside):
    classes(tmp_path / inside, WORDS)
    train, held_out = both(tmp_path)
    assert train.label_names == sorted(WORDS) and not set(train.names) & set(held_out.names)
    assert len(train) + len(held_out) == 40
    assert set(train.labels) == set(held_out.labels) == set(range(4))  # a tenth of each


def test_class_folders_with_the_very_names_of_splits(tmp_path):
    classes(tmp_path, ("train", "plane", "ship"), 4)
    assert open_source(str(tmp_path), split="train").label_names == ["plane", "ship", "train"]


@pytest.mark.parametrize(("train", "held"), [("train", "val"), ("Train", "Validation"), ("training", "dev")])
def test_folders_of_splits(tmp_path, train, held):
    classes(tmp_path / train, count=4)
    classes(tmp_path / held, count=2)
    assert [len(source) for source in both(tmp_path)] == [8, 4]


@pytest.mark.parametrize(
    "form", ["archive/data/{split}/{name}", "{name}/{split}", "{split}2017/{name}", "{split}/x/{name}"]
)
def test_folders_of_splits_at_other_places(tmp_path, form):
    for split, count in (("train", 4), ("val", 2)):
        for k, name in enumerate(("dev board", "test")):
            for n in range(count):
                save(tmp_path / form.format(split=split, name=name) / f"{n}.png", 100 * k + n)
    train, held_out = both(tmp_path)
    assert (len(train), len(held_out)) == (8, 4) and train.label_names == ["dev board", "test"]


@pytest.mark.parametrize("form", ["{}ing_set", "{}_images/x", "seg_{0}/seg_{0}", "DIV2K_{}_HR", "train/{}"])
def test_folders_that_differ_in_the_word_of_a_split_alone_are_splits(tmp_path, form):
    for split, count in (("train", 4), ("test", 2)):
        classes(tmp_path / form.format(split), count=count)
    train, test = (open_source(str(tmp_path), split=split) for split in ("train", "test"))
    assert train.label_names == ["apples", "pears"] and len(test) == 4
    assert all(f"{form.partition('{')[0]}train" in name for name in train.names)


@pytest.mark.parametrize("names", [("dev board", "test clip"), ("train_labels", "test_labels"), ("bus", "test_set")])
def test_words_of_splits_in_other_names_are_none(tmp_path, names):
    classes(tmp_path, names)
    assert open_source(str(tmp_path), split="train").label_names == sorted(names)


@pytest.mark.parametrize("form", ["{name}/images", "x/{name}/images", "data/{name}/images"])
def test_a_folder_that_all_classes_have_is_no_class(tmp_path, form):
    for k, name in enumerate(("n01", "n02")):
        for n in range(3):
            save(tmp_path / form.format(name=name) / f"{n}.png", 10 * k + n)
    assert open_source(str(tmp_path), split="train").label_names == ["n01", "n02"]


def test_a_folder_called_images_is_no_class(tmp_path):
    for split in ("train", "valid"):
        save(tmp_path / split / "images" / "0.png", len(split))
    assert [source._labels for source in both(tmp_path)] == [None, None]


def test_a_folder_beside_the_splits_is_not_lost_in_silence(tmp_path):
    classes(tmp_path / "train")
    save(tmp_path / "extra" / "1.png")
    save(tmp_path / "extra" / "2.png")
    refused(r"2 of 22 pictures on disk.*extra/1.png, extra/2.png \(in no folder of a split\)", tmp_path)


def test_splits_below_images_and_masks(tmp_path):
    masks(tmp_path, lambda k: Image.fromarray(k.astype(np.uint8)), 6)
    for kind in ("images", "masks"):
        for split, numbers in {"training": range(4), "validation": range(4, 6)}.items():
            (tmp_path / kind / split).mkdir()
            for n in numbers:
                (tmp_path / kind / f"{n}.png").rename(tmp_path / kind / split / f"{n}.png")
    assert [len(open_masks(str(tmp_path), split=split)) for split in ("train", "validation")] == [4, 2]


def test_folders_on_the_hub_are_read_by_the_same_rules(tmp_path, monkeypatch):
    import datasets
    import huggingface_hub

    repo = tmp_path / "datasets--org--electronics"  # as huggingface_hub lays it out: links to blobs
    snapshot = repo / "snapshots" / ("a" * 40)
    classes(tmp_path / "files" / "train", WORDS)
    for n, path in enumerate(sorted((tmp_path / "files").rglob("*.png"))):
        (repo / "blobs").mkdir(parents=True, exist_ok=True)
        link = snapshot / path.relative_to(tmp_path / "files")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.rename(repo / "blobs" / str(n)))
    found = type("Builder", (), {"name": "imagefolder"})()
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda name: found)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, repo_type: str(snapshot))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    train, held_out = (open_source("org/electronics", split=split) for split in ("train", "validation"))
    assert train.label_names == sorted(WORDS) and len(train) + len(held_out) == 40
    assert train.picture(0).size == (8, 8)


def test_parquet_files_are_of_the_split_that_their_whole_name_is(tmp_path):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})

    def write(name: str, text: str):
        content = save(tmp_path / "x.png").read_bytes()
        rows = {"image": [{"bytes": content, "path": None}] * 3, "text": [text] * 3}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "a [b]" / name))
        (tmp_path / "x.png").unlink()

    (tmp_path / "a [b]").mkdir()
    write("my test drive.parquet", "drive")
    assert set(sum(texts_of(tmp_path / "a [b]").values(), [])) == {"drive"}
    write("train.parquet", "train")
    write("validation-0.parquet", "held out")
    train, held_out = both(tmp_path / "a [b]")
    assert {*train.captions(0), *held_out.captions(0)} == {"train", "held out"}
    assert open_source(str(tmp_path / "a [b]"), split="my_test_drive").captions(0) == ["drive"]


def test_what_a_folder_of_tables_leaves_out_is_said(tmp_path, capsys):
    import datasets
    import pyarrow.parquet as pq

    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    (tmp_path / "data").mkdir()
    for number, name in enumerate(("train", "validation", "second")):
        content = save(tmp_path / "x.png", number).read_bytes()
        named = [{"bytes": content, "path": None}] * 3 + [{"bytes": None, "path": str(tmp_path / "named.png")}]
        data = datasets.Dataset.from_dict({"image": named, "text": ["a"] * 4}, features=features)
        pq.write_table(data.with_format("arrow")[:], tmp_path / "data" / f"{name}-0.parquet")  # keeps the name as it is
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n"
        "  - split: validation\n    path: data/validation-*\n---\n"
    )
    save(tmp_path / "named.png")
    save(tmp_path / "preview.jpg")
    train, held_out = both(tmp_path)
    assert len(train) == len(held_out) == 4
    said = capsys.readouterr().out
    assert ", train: 4 rows are read; left out: data/second-0.parquet (in no split); " in said
    assert "preview.jpg, x.png (no row names it)" in said and "named" not in said
    assert ", validation: 4 rows are read\n" in said


# ---- which files are read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".JPG", ".Jpeg", ".PNG", ".jfif", ".JPE", ".WebP", ".BMP", ".tif", ".TIFF", ".ppm"])
def test_every_ending_in_any_case(tmp_path, ending):
    classes(tmp_path, count=3, ending=ending)
    assert sum(map(len, both(tmp_path))) == 6


@pytest.mark.parametrize("name", ["my [data] (1)", "a*b?", "~me", "sp ace's", "{x,y}", "ünï 猫", "%20#&"])
def test_odd_names_of_folders_and_files(tmp_path, name):
    rows = captioned(tmp_path / name, 3, name=f"{name} {{}}.png".replace("{x,y}", "{{x,y}}"))
    assert len(texts_of(tmp_path / name)) == len(rows)
    classes(tmp_path / "c" / name, (name, f"{name}[0]"), 3)
    assert open_source(str(tmp_path / "c" / name), split="train").label_names == sorted((name, f"{name}[0]"))


def test_a_folder_of_ones_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    classes(tmp_path / "pets")
    assert len(open_source("~/pets", split="train")) == 18


def as_heic(root: Path) -> Path:
    classes(root / "train", count=8)
    for name in ("pears", "plums"):
        for n in range(6):
            (root / "train" / name / f"IMG_{n}.HEIC").parent.mkdir(exist_ok=True)
            (root / "train" / name / f"IMG_{n}.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(3000))
    return root


def test_heic_that_cannot_be_read_is_counted(tmp_path, monkeypatch):
    folder = as_heic(tmp_path)
    without = tuple(name for name in decoding.formats() if name != "HEIF")
    monkeypatch.setattr(folders, "formats", lambda: without)
    refused(
        r"12 of 28 pictures on disk.*pears/IMG_0.HEIC, .* and 2 more \(`pip install pillow-heif` reads them\)",
        folder,
    )


def test_heic_and_avif_are_read_where_they_can_be(tmp_path):
    pytest.importorskip("pillow_heif")
    refused("of .* pictures cannot be read, more than 5%: train/pears/IMG", as_heic(tmp_path / "a"))  # broken ones
    save(tmp_path / "b" / "x" / "1.png")
    save(tmp_path / "b" / "y" / "2.HEIC", 1, (64, 64), format="HEIF")
    save(tmp_path / "b" / "y" / "3.avif", 2, (64, 64))
    found = {PurePosixPath(name).name: source.picture(i).size for source in both(tmp_path / "b")
             for i, name in enumerate(source.names)}  # fmt: skip
    assert found == {"1.png": (8, 8), "2.HEIC": (64, 64), "3.avif": (64, 64)}


def test_what_is_on_disk_is_said_beside_what_is_read(tmp_path, capsys):
    classes(tmp_path, count=20)
    (tmp_path / "apples" / "raw.CR2").write_bytes(b"x")
    (tmp_path / "pears" / "old.PCX").write_bytes(b"x")
    both(tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(", ")[2] for line in said] == [
        "train: 40 of 42 pictures on disk are read, 4 of them held out to validate; left out: apples/raw.CR2, "
        "pears/old.PCX (save them as PNG or JPEG)"
    ]


@pytest.mark.parametrize("ending", ["", ".jpg_large", ".PNG~"])
def test_pictures_are_known_by_how_they_begin(tmp_path, ending):
    classes(tmp_path)
    for path in list((tmp_path / "apples").iterdir()):
        path.rename(path.with_suffix(ending))
    for name in ("notes", "labels.db"):
        (tmp_path / "apples" / name).write_bytes(b"BM: no picture")
    train, held_out = both(tmp_path)
    assert train.label_names == ["apples", "pears"] and len(train) + len(held_out) == 20


def test_what_systems_lay_beside_pictures_is_none(tmp_path):
    classes(tmp_path)
    for name in ("@eaDir/0.png/THUMB.jpg", "__MACOSX/0.png", "$RECYCLE.BIN/1.png"):
        save(tmp_path / "apples" / name, 900)
    assert sum(map(len, both(tmp_path))) == 20


def test_one_broken_picture_of_many_stops_neither_part(tmp_path):
    classes(tmp_path, count=30)
    held_out = open_source(str(tmp_path), split="validation")
    (tmp_path / held_out.names[0]).write_bytes(b"")
    assert [len(source) for source in both(tmp_path)] == [54, 5]
    for name in held_out.names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match="6 of 6 pictures cannot be read"):
        open_source(str(tmp_path), split="validation")


def test_a_zip_is_to_be_unpacked(tmp_path, capsys):
    classes(tmp_path / "pics")
    shutil.make_archive(str(tmp_path / "zip" / "train"), "zip", tmp_path / "pics")
    refused("unpack 'train.zip' into the folder", tmp_path / "zip")
    with zipfile.ZipFile(tmp_path / "zip" / "train.zip") as archive:
        archive.extractall(tmp_path / "zip")
    assert sum(map(len, both(tmp_path / "zip"))) == 20 and "what is in train.zip is not read" in capsys.readouterr().out


def test_pictures_of_phones_scanners_and_the_web_come_upright(tmp_path):
    folder, exif = classes(tmp_path, count=2) / "apples", Image.Exif()
    exif[0x0112] = 6
    picture, other = Image.new("RGB", (20, 10), (200, 30, 30)), Image.new("RGB", (20, 10), (0, 0, 255))
    moving = {"save_all": True, "append_images": [other]}
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.save(folder / "side.jpg", exif=exif)
    picture.save(folder / "two.jpg", "MPO", **moving)
    picture.save(folder / "moving.gif", **moving)
    picture.save(folder / "moving.webp", **moving)
    for mode in ("P", "1", "LA"):
        picture.convert(mode).save(folder / f"mode {mode}.png")
    seen = {PurePosixPath(name).name: source.picture(i) for source in both(tmp_path) for i, name in
            enumerate(source.names)}  # fmt: skip
    assert len(seen) == 10 and seen["side.jpg"].size == (10, 20)
    for name in ("two.jpg", "moving.gif", "moving.webp", "cmyk.jpg"):
        assert seen[name].convert("RGB").getpixel((3, 3))[0] > 150, name


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 2048, 4095]], np.uint16), [0, 128, 255]),  # 12 bits
        (np.array([[0, 2048, 65535]], np.uint16), [0, 8, 255]),  # 16 bits
        (np.array([[0, 100, 255]], np.uint16), [0, 100, 255]),  # 8 bits in 16
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[-1, np.nan, 0.25]], np.float32), [0, 0, 64]),
        (np.array([[0, 100.0, 250.0]], np.float32), [0, 100, 250]),
        (np.array([[0, 2**19, 2**20]], np.int32), [0, 128, 255]),
    ],
)
def test_one_decoder_for_greys_of_many_bits(tmp_path, values, expected):
    Image.fromarray(values).save(file := io.BytesIO(), "TIFF")
    (tmp_path / "x.tif").write_bytes(file.getvalue())
    trained = np.asarray(decode(file.getvalue()))[0, :, 0]
    assert np.array_equal(trained, np.asarray(decoding.upright(Image.open(tmp_path / "x.tif")))[0, :, 0])
    assert np.abs(trained.astype(int) - expected).max() <= 1


def test_a_page_sees_a_picture_as_training_does(tmp_path, monkeypatch):
    from apps.kit import uploads

    monkeypatch.setattr(uploads, "open_file", lambda path: open(path, "rb"))
    for mode, values in {"12": np.full((4, 4), 3000, np.uint16), "float": np.full((4, 4), 0.3, np.float32)}.items():
        Image.fromarray(values).save(path := tmp_path / f"{mode}.tif")
        assert np.array_equal(np.asarray(read_picture(str(path))), np.asarray(decode(path.read_bytes())))


# ---- what is said of them -------------------------------------------------------------------------------------------


def test_pictures_without_a_row_are_counted_and_named(tmp_path, capsys):
    captioned(tmp_path / "train", 40)
    save(tmp_path / "train" / "extra0.png", 99)
    assert len(texts_of(tmp_path)) == 40
    assert "40 of 41 pictures on disk are read" in (said := capsys.readouterr().out)
    assert "left out: train/extra0.png (no row of train/metadata.jsonl)" in said
    for n in range(1, 5):
        save(tmp_path / "train" / f"extra{n}.png", 100 + n)
    refused(r"5 of 45 pictures on disk \(train\) would not be read.*extra4.png", tmp_path)


def test_rows_without_a_picture_are_counted_and_named(tmp_path, capsys):
    captioned(tmp_path, 40)
    (tmp_path / "7.png").unlink()
    assert len(texts_of(tmp_path)) == 39
    assert "1 of 40 rows left out: metadata.jsonl names 7.png, which is not there." in capsys.readouterr().out
    for n in range(8, 12):
        (tmp_path / f"{n}.png").unlink()
    refused(r"names 7.png, which is not there.* So do 5 of 40 rows: 7.png, 8.png", tmp_path)
    (tmp_path / "images").mkdir()
    for n in range(40):
        save(tmp_path / "images" / f"{n}.png", n)
        (tmp_path / f"{n}.png").unlink(missing_ok=True)
    refused("names 0.png, which is not there. Did you mean images/0.png?", tmp_path)


@pytest.mark.parametrize("change", ["\\", "case", "space", "form"])
def test_names_as_other_systems_write_them(tmp_path, change):
    captioned(tmp_path / "train", 4, name="images/ü{}.png")
    path = tmp_path / "train" / "metadata.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        name = row["file_name"]
        row["file_name"] = {"\\": name.replace("/", "\\"), "case": name.upper(), "space": f" {name} ",
                            "form": name.replace("ü", "u\u0308")}[change]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(texts_of(tmp_path)) == 4


@pytest.mark.parametrize("ending", [".txt", ".TXT", ".caption"])
def test_a_text_beside_each_picture(tmp_path, ending):
    for row in captioned(tmp_path / "train" / "10_disc", 6):
        (tmp_path / "train" / "10_disc" / row["file_name"]).with_suffix(ending).write_text(row["text"] + "\n", "utf-8")
    (tmp_path / "train" / "10_disc" / "metadata.jsonl").unlink()
    (tmp_path / "train" / "10_disc" / "classes.txt").write_text("disc")
    assert texts_of(tmp_path) == {f"train/10_disc/{n}.png": [f"number {n}"] for n in range(6)}
    (tmp_path / "train" / "10_disc" / "2.png").with_suffix(ending).unlink()
    refused(r"1 of 6 pictures on disk.*train/10_disc/2.png \(no .txt beside it\)", tmp_path)
    for n in (1, 3, 4):
        (tmp_path / "train" / "10_disc" / f"{n}.png").with_suffix(ending).unlink()
    with pytest.raises(DataError, match="the caption is missing in column 'text'. 4 of 5 pictures have none: train/10"):
        texts_of(tmp_path)


@pytest.mark.parametrize("change", [str.upper, lambda stem: stem.replace("ü", "u\u0308"), lambda stem: f"{stem}.png"])
def test_the_text_beside_a_picture_as_other_systems_write_its_name(tmp_path, change):
    for n in range(4):
        save(tmp_path / f"aü{n}.png", n)
        (tmp_path / f"{change(f'aü{n}')}.txt").write_text(f"number {n}")
    assert texts_of(tmp_path) == {f"aü{n}.png": [f"number {n}"] for n in range(4)}


def test_boxes_beside_pictures_are_no_captions(tmp_path, capsys):
    for n in range(4):
        save(tmp_path / f"{n}.png", n)
        (tmp_path / f"{n}.txt").write_text(f"0 0.5 0.5 0.{n} 1e-3\n1 0 0 1 1\n" * (n > 0))
    with pytest.raises(DataError, match="has no captions: .* or write a .txt beside each picture"):
        texts_of(tmp_path)
    assert "0.txt, 1.txt, 2.txt, 3.txt: boxes, not captions" in capsys.readouterr().out


TEXTS = ["None", "NA", "007", "null", "größer; als, nichts", 'ein "Zitat"', "nan"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_of_a_spreadsheet(tmp_path, encoding, delimiter):
    import csv

    captioned(tmp_path, len(TEXTS))
    (tmp_path / "metadata.jsonl").unlink()
    csv.writer(text := io.StringIO(), delimiter=delimiter).writerows(
        [["file_name", "text"], *([f"{n}.png", said] for n, said in enumerate(TEXTS))]
    )
    (tmp_path / "metadata.csv").write_bytes(text.getvalue().encode(encoding))
    assert texts_of(tmp_path) == {f"{n}.png": [said] for n, said in enumerate(TEXTS)}


def test_csv_with_a_comma_too_many(tmp_path):
    captioned(tmp_path, 2)
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text("file_name,text\n0.png,a dog\n1.png,a dog, running\n")
    refused("metadata.csv, row 2, has more fields than the header: put a text with ',' into double quotes", tmp_path)


def test_labels_that_are_digits_or_no_answer_are_text(tmp_path):
    captioned(tmp_path, 12)
    (tmp_path / "metadata.jsonl").unlink()
    lines = [f"{n}.png,{label}" for n, label in enumerate(["10", "9", "2"] * 4)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    assert open_source(str(tmp_path), split="train").label_names == ["2", "9", "10"]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label", *lines]).replace("10\n", "NA\n"))
    assert open_source(str(tmp_path), split="train").label_names[-1] == "NA"


def test_metadata_in_the_root_in_json_and_under_other_names(tmp_path):
    rows = captioned(tmp_path / "a", 6, name="train/{}.png")
    expected = {row["file_name"]: [row["text"]] for row in rows}
    assert texts_of(tmp_path / "a") == expected
    (tmp_path / "a" / "metadata.jsonl").unlink()
    inside = [row | {"file_name": row["file_name"].removeprefix("train/")} for row in rows]
    for name, kept in {
        "metadata.json": inside,
        "Metadata.JSON": inside,
        "captions.json": {row["file_name"]: row["text"] for row in inside},
        "captions.jsonl": None,
    }.items():
        text = json.dumps(kept) if kept else "".join(json.dumps(row) + "\n" for row in inside)
        text = text.replace('"text"', '"caption"').replace('"file_name"', '"image"')
        (path := tmp_path / "a" / "train" / name).write_text(text)
        assert texts_of(tmp_path / "a") == expected, name
        path.unlink()


KAGGLE = "image_id,Label\n" + "".join(f"id{n},{n % 2 and 'b ' or 'a'}\n" for n in range(6))
FLICKR = "image,caption\n" + "".join(f'id{n}.jpg,"text, {n}.{k}"\n' for n in range(6) for k in range(2))
BARS = "image_name| comment_number| text\n" + "".join(
    f"id{n}.jpg| {k}| text {n}{k}\n" for n in range(6) for k in (0, 1)
)
COCO = {
    "images": [{"id": n, "file_name": f"id{n}.jpg"} for n in range(6)],
    "annotations": [{"image_id": n, "caption": f"text {n}"} for n in range(6)],
}


@pytest.mark.parametrize(
    ("name", "text"),
    [("train.csv", KAGGLE), ("labels.tsv", KAGGLE.replace(",", "\t")), ("x/captions.txt", FLICKR),
     ("results.csv", BARS), ("annotations/captions_train2017.json", json.dumps(COCO)), ("coco.json", json.dumps(COCO))],
)  # fmt: skip
@pytest.mark.parametrize("place", ["train", "Images", "."])
def test_a_table_of_any_name_that_names_the_pictures_is_read(tmp_path, capsys, name, text, place):
    for n in range(6):
        save(tmp_path / place / f"id{n}.jpg", n)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    (tmp_path / "sample_submission.csv").write_text(KAGGLE.replace(",b ", ",0"))
    (tmp_path / "id2label.json").write_text('{"0": "a", "1": "b"}')
    train, held_out = both(tmp_path)
    assert len(train) + len(held_out) == 6
    assert f"what is said of the pictures is read from {name}" in capsys.readouterr().out
    number = int(PurePosixPath(train.names[1]).stem[2:])
    if text.startswith("image_id"):
        assert train.label_names == ["a", "b"] and train.label(1) == number % 2
    else:
        assert len(train.captions(1)) == (1 if name.endswith("json") else 2) and str(number) in train.captions(1)[0]


def test_a_table_beside_class_folders_pairs_or_texts_changes_nothing(tmp_path):
    classes(tmp_path / "a", count=6)
    (tmp_path / "a" / "sizes.csv").write_text("file,width\n" + "".join(f"apples/{n}.png,8\n" for n in range(6)))
    assert open_source(str(tmp_path / "a"), split="train").label_names == ["apples", "pears"]
    folder = masks(tmp_path / "b", grey)
    (folder / "depths.csv").write_text("id,depth\n0,1\n1,1\n2,1\n3,1\n")
    assert len(open_masks(str(folder), split="train")) == 3
    for n in range(4):
        save(tmp_path / "c" / f"{n}.png", n)
    (tmp_path / "c" / "bad.csv").write_text("id,why\n3,blurred\n")  # of few of them
    assert sum(map(len, both(tmp_path / "c"))) == 4


def test_a_table_of_the_training_pictures_leaves_those_to_test_out(tmp_path, capsys):
    for n in range(6):
        save(tmp_path / "train" / f"id{n}.jpg", n)
        save(tmp_path / "test" / f"id{n}.jpg", 50 + n)
    (tmp_path / "train.csv").write_text(KAGGLE)
    assert all(name.startswith("train/") for source in both(tmp_path) for name in source.names)
    assert "test is left out: test/id0.jpg" in capsys.readouterr().out


def lines(rows: list[dict], form: str) -> str:
    return "".join(form.format(row["file_name"], row["text"]) for row in rows)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("metadata.jsonl", lambda rows: json.dumps(rows, indent=1)),
        ("metadata.json", lambda rows: "".join(json.dumps(row) + "\n" for row in rows)),
        ("metadata.json", lambda rows: json.dumps({"data": rows})),
        ("metadata.json", lambda rows: json.dumps({k: [row[k] for row in rows] for k in rows[0]})),
        ("metadata.json", lambda rows: json.dumps({k: {str(n): r[k] for n, r in enumerate(rows)} for k in rows[0]})),
        ("captions.json", lambda rows: json.dumps({row["file_name"][:-4]: row["text"] for row in rows})),
        ("metadata.csv", lambda rows: "File_Name;TEXT;;\n" + lines(rows, "{};{};;\n") + ";;;\n"),
        ("metadata.csv", lambda rows: 'file_name;"text";"a, b, c"\n' + lines(rows, "{};{};x\n")),
        ("metadata.csv", lambda rows: "file_name,text\n" + lines(rows, "{},{}\n").replace(".png", "")),
        ("metadata.csv", lambda rows: "file_name,text\n" + lines(rows, "C:\\Users\\me\\x\\{},{}\n")),
        ("metadata.csv", lambda rows: "file_name,text\n" + lines(rows, "/home/me/x/{},{}\n")),
    ],
)  # fmt: skip
def test_metadata_in_the_forms_that_other_tools_write(tmp_path, name, write):
    rows = captioned(tmp_path, 6)
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / name).write_text(write(rows))
    assert texts_of(tmp_path) == {row["file_name"]: [row["text"]] for row in rows}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('file_name,text\n0.png,a\n1.png,"b\n2.png,c\n', "begins with a double quote that nothing closes"),
        ("file_name,text,text\n0.png,a,b\n", "has the column 'text' twice"),
        ("0.png,a\n1.png,b\n", "has no column `file_name`.*Call the one that names the pictures so in its first line"),
    ],
)
def test_a_table_that_would_be_read_wrongly_is_refused(tmp_path, text, says):
    captioned(tmp_path, 3)
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text(text)
    refused(says, tmp_path)


def test_two_files_that_say_of_the_same_picture_are_both_named(tmp_path):
    captioned(tmp_path, 3)
    (tmp_path / "metadata.csv").write_text("file_name,text\n0.png,another\n")
    refused("metadata.csv and metadata.jsonl both name 0.png", tmp_path)


def test_the_first_bad_row_is_named_as_itself(tmp_path):
    rows = captioned(tmp_path, 6)
    for wrong, says in ((" ", "is empty"), (None, "is missing"), ([], "is missing")):
        rows[3]["text"] = wrong
        (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(DataError, match=rf"3\.png: the caption .*{says}"):
            texts_of(tmp_path)
    rows[3]["text"] = 7
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused(r"3\.png: column 'text' is 7, which does not go with the others \(str\)", tmp_path)
    for n, row in enumerate(rows):
        row["text"] = ["a", 7 if n == 3 else "b"]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused(r"3\.png: column 'text' is \['a', 7\], which does not go with the others", tmp_path)


# ---- classes --------------------------------------------------------------------------------------------------------


def test_classes_at_two_depths(tmp_path):
    classes(tmp_path / "train")
    save(tmp_path / "train" / "apples" / "new" / "77.png", 77)
    assert {name: source.label_names[source.label(i)] for source in both(tmp_path) for i, name in
            enumerate(source.names)}["train/apples/new/77.png"] == "apples"  # fmt: skip
    classes(tmp_path / "b" / "images", count=3)  # below one folder
    assert open_source(str(tmp_path / "b"), split="train").label_names == ["apples", "pears"]


def test_a_picture_in_no_class_folder_is_named(tmp_path):
    save(classes(tmp_path) / "stray.png", 99)
    assert sum(map(len, both(tmp_path))) == 21  # nobody asked for labels
    with pytest.raises(DataError, match="stray.png: the label is missing.*put it into a class folder"):
        both(tmp_path, label_column="label")


def test_labels_with_gaps_are_as_many_classes_as_there_are(tmp_path):
    rows = captioned(tmp_path, 20)
    for n, row in enumerate(rows):
        row["label"] = (1990, 2000)[n % 2]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, _ = both(tmp_path)
    assert train.label_names == ["1990", "2000"] and set(train.labels) == {0, 1}


def test_classes_are_the_same_however_their_names_are_written(tmp_path, capsys):
    classes(tmp_path / "train", ("café", "tea", "Tea"))
    classes(tmp_path / "val", ("cafe\u0301", "tea"), 2)
    train, held_out = both(tmp_path)
    compare(train, held_out, labelled=True)
    assert train.label_names == ["Tea", "café", "tea"] and set(held_out.labels) == {1, 2}
    assert "names differ in case alone: Tea, tea. Are they one?" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "says"),
    [("", "--dataset_name is empty"), ("emoji_sample", "Did you mean emoji-sample?"),
     ("https://huggingface.co/datasets/org/beans", "give the id of a data set on the Hub alone: org/beans")],
)  # fmt: skip
def test_a_data_set_that_is_none_says_what_was_meant(name, says):
    with pytest.raises(DataError) as error:
        open_source(name, split="train")
    assert says in str(error.value)


def config(script, folder: Path, run: Path, **options):
    return script.PRESETS["tiny"].__class__(
        **{**script.PRESETS["tiny"].__dict__, "dataset_name": str(folder), "output_dir": str(run), **options}
    )


def test_one_class_is_too_few_to_tell_apart_and_enough_to_draw(tmp_path):
    classes(tmp_path / "a", ("apples",))
    with pytest.raises(DataError, match="has one class, apples: two are needed"):
        classifier.task_of(config(classifier, tmp_path / "a", tmp_path))
    assert ddpm.task_of(config(ddpm, tmp_path / "a", tmp_path)).samples.sample(0, torch.Generator())["label"] in (0, 1)


def test_a_class_without_a_training_picture_is_refused_and_one_without_others_said(tmp_path, capsys):
    classes(tmp_path / "train")
    save(tmp_path / "train" / "plums" / "0.png", 500)
    train, held_out = both(tmp_path)  # its only picture is never held out
    assert train.labels.tolist().count(2) == 1
    compare(train, held_out, labelled=True)
    assert "class plums has no picture to validate: nothing is said of it" in capsys.readouterr().out
    classes(tmp_path / "validation", ("apples", "pears", "plums"), 3)
    shutil.rmtree(tmp_path / "train" / "plums")
    with pytest.raises(DataError, match="class plums has no picture to train on"):
        opened_pair(config(classifier, tmp_path, tmp_path), label_column="label")


def test_equal_pictures_in_both_parts_are_found(tmp_path, capsys):
    classes(tmp_path / "train")
    classes(tmp_path / "val", count=2)
    save(tmp_path / "val" / "apples" / "new.png", 900)
    compare(*both(tmp_path))
    said = capsys.readouterr().out
    assert "4 of 5 pictures to validate are trained on too" in said and "val/pears/1.png" in said


# ---- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_batches_of_any_size_are_mixed(size):
    mix = Mixup(0.2, 1.0, prob=1.0, label_smoothing=0.1, num_classes=3)
    pixels, target = classifier.mixed(mix, torch.rand(size, 3, 8, 8), torch.arange(size) % 3)
    assert pixels.shape == (size, 3, 8, 8) and target.shape == (size, 3)
    assert torch.allclose(target.sum(1), torch.ones(size))
    if size % 2:
        assert target[-1].argmax() == (size - 1) % 3 and target[-1].max() > 0.9


@pytest.mark.parametrize("count", range(2, 11))
def test_two_to_ten_pictures_are_split(tmp_path, count):
    captioned(tmp_path, count)
    assert [len(source) for source in both(tmp_path)] == [count - 1, 1]


def test_one_picture_is_one_too_few(tmp_path):
    captioned(tmp_path, 1)
    refused("has one picture: two are needed at least", tmp_path)


def test_one_picture_of_each_class_is_too_few(tmp_path):
    classes(tmp_path, count=1)
    with pytest.raises(DataError, match="has no picture to train on, only some to validate: add pictures"):
        opened_pair(config(classifier, tmp_path, tmp_path), label_column="label")


def test_a_upernet_needs_two_pictures_a_step(tmp_path):
    folder = masks(tmp_path, grey, 6)
    with pytest.raises(SystemExit, match="--train_batch_size must be at least 2 for a UPerNet"):
        segmentation.task_of(config(segmentation, folder, tmp_path, train_batch_size=1))


def test_shares_of_few_pictures_are_said_with_their_interval():
    results = Results("chance")
    results.note("validation", {"top1": 0.5, "loss": 1.0, "pictures": 4})
    results.note("test", {"top1": 0.5, "pictures": 10})
    assert results.left_out == [
        "validation/top1 is of 4 pictures alone: with 95 % confidence it lies between 15 and 85 %."
    ]


def test_marks_in_names_of_classes_stand_for_themselves():
    names = ["no", "yes | maybe", "Café & <b>Bar", "猫 🐈", "a_b*c`d\ne"]
    table = class_table({"per_class": {"validation": dict.fromkeys(names, 0.5)}})
    assert [line.replace("\\|", "").count("|") for line in table] == [3] * 7
    assert "| Café &amp; &lt;b&gt;Bar | 50.0 % |" in table and "| a\\_b\\*c\\`d e | 50.0 % |" in table


def test_long_captions_are_cut_with_a_count_and_as_prompts(tmp_path, capsys):
    captioned(tmp_path, 4, text="a word " * 600)
    selection = select(open_source(str(tmp_path), split="train"))
    assert all(len(text) <= text_to_image.contract.MAX_PROMPT_CHARACTERS for text in selection.prompts)

    class Tokenizer:
        def num_special_tokens_to_add(self):
            return 2

        def __call__(self, texts, verbose):
            return {"input_ids": [[0, *text.split(), 1] for text in texts]}

    assert say_cut("here", [["a short one", "a b c d e f g"], ["x " * 100]], Tokenizer(), 8) == 2
    assert "here: 2 of 3 captions are longer than 8 tokens, and cut there" in capsys.readouterr().out


# ---- masks ----------------------------------------------------------------------------------------------------------


def checked(folder: Path, **options) -> dict[int, int]:
    return check(open_masks(str(folder), split="train", **options))


def faults(folder: Path, **options) -> str:
    with pytest.raises(DataError) as error:
        checked(folder, **options)
    return str(error.value)


RED = np.array([[0, 0, 0], [128, 0, 0]], np.uint8)


def grey(k: np.ndarray) -> Image.Image:
    return Image.fromarray(k.astype(np.uint8))


@pytest.mark.parametrize("other", ["masks", "labels", "Annotations"])
@pytest.mark.parametrize("ending", ["", "_mask"])
def test_pictures_and_masks_are_pairs_by_name(tmp_path, other, ending):
    folder = masks(tmp_path / "x", grey)
    for path in list((folder / "masks").iterdir()):
        path.rename(path.with_stem(path.stem + ending))
    (folder / "masks").rename(folder / other)
    source = open_masks(str(folder), split="train")
    number = int(PurePosixPath(source.names[1]).stem)
    assert len(source) == 3 and np.array_equal(source.mask(1), ids(number))


@pytest.mark.parametrize("form", ["mask_{}", "{}_L", "{}.mask", "{}.png", "{}_segmentation", "trimaps/{}", "x/y/{}_GT"])
def test_pairs_by_what_all_masks_have_around_the_name(tmp_path, form):
    folder = masks(tmp_path, grey, 12)
    for path in list((folder / "masks").iterdir()):
        (target := folder / "masks" / f"{form.format(path.stem)}.png").parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    source = open_masks(str(folder), split="train")
    assert len(source) == 11
    for i, name in enumerate(source.names):
        assert np.array_equal(source.mask(i), ids(int(PurePosixPath(name).stem)))


def test_pictures_beside_images_and_masks_are_neither(tmp_path):
    folder = masks(tmp_path / "VOC2012", grey, 4)
    (folder / "masks").rename(folder / "SegmentationClass")
    (folder / "id2label.json").rename(tmp_path / "id2label.json")
    assert len(open_masks(str(tmp_path), split="train")) == 3
    shutil.copytree(folder / "SegmentationClass", folder / "SegmentationObject")
    with pytest.raises(DataError, match="4 of 8 pictures on disk.*SegmentationObject/0.png"):
        open_masks(str(tmp_path), split="train")


def test_palettes_that_number_colours_otherwise_are_refused(tmp_path):
    def paint(k):  # 0 is black in one half, red in the other
        turned = int(k[0, 0])
        image = Image.fromarray((k ^ turned).astype(np.uint8))
        image.putpalette([128, 0, 0, 0, 0, 0] if turned else [0, 0, 0, 128, 0, 0])
        return image

    folder = masks(tmp_path, paint, 8)
    assert "#800000 is 1 in the palette of the mask of images/0.png and 0 here: label_colors.json" in faults(folder)
    (folder / "label_colors.json").write_text('{"ground": "#000000", "disc": "#800000"}')
    assert set(checked(folder)) == {0, 1}


def test_masks_without_any_answer_are_said_before_the_start(tmp_path):
    folder = masks(tmp_path, lambda k: grey(k * 0 + 255))
    with pytest.raises(DataError, match="no pixel has an answer"):
        check(open_masks(str(folder), split="validation"), every_class=False)


def test_masks_that_are_not_found_say_where_they_may_lie(tmp_path):
    for n in range(4):
        save(tmp_path / f"{n}.jpg", n, (12, 8))
        grey(ids(n)).save(tmp_path / f"{n}_mask.png")
    with pytest.raises(DataError, match="no column 'label' of masks.* or they lie in masks/ beside images/"):
        open_masks(str(tmp_path), split="train")


def test_a_picture_without_a_mask_is_named(tmp_path):
    folder = masks(tmp_path, grey)
    (folder / "masks" / "2.png").unlink()
    with pytest.raises(DataError, match=r"images/2.png \(its picture or mask is missing\)"):
        checked(folder)


def test_colour_masks_say_what_to_write(tmp_path):
    said = faults(masks(tmp_path, lambda k: Image.fromarray(RED[k])))
    assert "\n" not in said and len(re.findall(r"images/\d.png", said)) == 3  # once for all of them
    assert "its mask is in colours (RGB PNG)" in said and "label_colors.json" in said and "#800000" in said


@pytest.mark.parametrize(
    "colours",
    [
        {"ground": [0, 0, 0], "disc": [128, 0, 0]},
        {"0": "#000000", "1": "#800000"},
        {"#000000": "ground", "#800000": "disc"},
        {"ground": "black", "disc": "maroon", "void": "white"},
    ],
)
def test_colour_masks_by_a_map_of_colours(tmp_path, colours):
    folder = masks(tmp_path, lambda k: Image.fromarray(RED[k]))
    (folder / "label_colors.json").write_text(json.dumps(colours))
    assert np.array_equal(open_masks(str(folder), split="train").mask(0), ids(0)) or checked(folder)
    assert set(checked(folder)) == {0, 1}


def test_a_palette_gives_ids_and_a_map_of_colours_needs_no_id2label(tmp_path):
    def paint(k):
        image = Image.fromarray(k.astype(np.uint8) * 5)
        image.putpalette([0, 0, 0] * 5 + [128, 0, 0] * 251)
        return image

    folder = masks(tmp_path, paint, names=None)
    (folder / "label_colors.json").write_text('{"ground": "#000000", "disc": "#800000", "void": "#ffffff"}')
    source = open_masks(str(folder), split="train")
    assert source.id2label == {0: "ground", 1: "disc"} and set(check(source)) == {0, 1}


def test_binary_masks_of_0_and_255(tmp_path):
    folder = masks(tmp_path, lambda k: grey(k * 255))
    assert "255 means no answer" in (said := faults(folder)) and "label_colors.json" in said
    (folder / "label_colors.json").write_text('{"ground": "black", "disc": "white"}')
    assert set(checked(folder)) == {0, 1}


def test_masks_in_jpeg_are_refused_or_with_a_map_quantised_with_the_share(tmp_path, capsys):
    assert "ids in a JPEG come back as shades: save masks as PNG" in faults(masks(tmp_path / "a", grey, ending=".jpg"))

    def paint(k):  # larger, and not in step with the blocks of a JPEG
        return Image.fromarray(RED[np.roll(np.kron(k, np.ones((8, 8), int)), 3)])

    folder = masks(tmp_path / "b", paint, ending=".jpg", quality=95, subsampling=0)
    for n in range(4):
        save(folder / "images" / f"{n}.png", n, (96, 64))
    (folder / "label_colors.json").write_text('{"ground": "#000000", "disc": "#800000"}')
    source = open_masks(str(folder), split="train")
    assert set(check(source)) == {0, 1}
    assert "masks have colours that label_colors.json doesn't, and took the nearest: " in capsys.readouterr().out
    (folder / "label_colors.json").write_text('{"ground": "#00ff00", "disc": "#800000"}')
    assert "of its mask are of no colour in label_colors.json, such as #" in faults(folder)


@pytest.mark.parametrize(
    ("paint", "says"),
    [
        (lambda k: grey(k + 1), "the masks start at 1"),
        (lambda k: Image.fromarray(k.astype(np.uint16)), None),
        (lambda k: grey(k).resize((6, 4), 0), "the picture is 12 × 8 px, its mask 6 × 4"),
        (lambda k: grey(k * 7), "id 7 in the mask"),
        (
            lambda k: Image.fromarray(np.dstack([np.zeros((8, 12, 3)), k * 255]).astype(np.uint8)),
            "in the alpha channel",
        ),
        (lambda k: Image.fromarray(k.astype(np.float32) / 2), "has fractions in it"),
        (lambda k: Image.fromarray(k.astype(np.float32)), None),
    ],
)
def test_odd_masks_read_or_say_what_to_do(tmp_path, paint, says):
    ending = ".png" if paint(ids()).mode != "F" else ".tif"
    folder = masks(tmp_path, paint, ending=ending)
    if says is None:
        assert set(checked(folder)) == {0, 1}
    else:
        assert says in faults(folder)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({"0": "disc"}, "has 1 class, but masks tell from 2"),
        ({str(k): f"class {k}" for k in range(300)}, "to 255 apart|without a gap"),
        ({"0": "ground", "7": "disc"}, r"ids \[0, 7\], not 0, 1, 2"),
    ],
)
def test_sets_of_classes_that_masks_cannot_have(tmp_path, names, says):
    folder = masks(tmp_path, grey)
    (folder / "id2label.json").write_text(json.dumps(names))
    with pytest.raises(DataError, match=says):
        checked(folder)


@pytest.mark.parametrize(
    "configs", ["3", "[3]", "[{data_files: 3}]", "[{data_files: [3, {split: 4, path: 5}]}]", "{a: b}"]
)
def test_a_card_with_odd_configurations_names_no_splits(tmp_path, configs):
    classes(tmp_path / "train")
    (tmp_path / "README.md").write_text(f"---\nconfigs: {configs}\n---\n")
    assert len(open_source(str(tmp_path), split="train")) == 18


@pytest.mark.parametrize("name", [["0.png"], {"a": 1}, 7, ""])
def test_what_is_no_name_is_refused_with_its_row(tmp_path, name):
    rows = captioned(tmp_path, 4)
    rows[2]["file_name"] = name
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused("metadata.jsonl, row 3: `file_name` is .*, not the name of a file", tmp_path)


@pytest.mark.parametrize("name", ["\ud800.png", "a\0.png", "../x.png", "file:/x.png", "x" * 5000])
def test_a_name_that_is_none_is_refused_with_its_row(tmp_path, name):
    rows = captioned(tmp_path, 4)
    rows[2]["file_name"] = name
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="metadata.jsonl(, row 3:| names )") as error:
        both(tmp_path)
    assert len(str(error.value)) < 400
