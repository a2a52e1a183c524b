"""The emoji data: concepts, splits, labels, matching, drawing, and a build from a few drawings."""

import dataclasses
import hashlib
import io
import json
import tarfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from training.data.emoji import build, matching, tables

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "tests" / "data" / "emoji-sample"
BUILT = ROOT / "build" / "data" / "emoji"
UNSEEN = ROOT / "build" / "data" / "emoji-unseen"


def read(folder: Path, columns: list[str] | None = None) -> dict[str, list[dict]]:
    """The rows of each split."""
    splits = defaultdict(list)
    for path in sorted((folder / "data").glob("*.parquet")):
        splits[path.name.split("-")[0]] += pq.read_table(path, columns=columns).to_pylist()
    return splits


# ---------------------------------------------------------------------------------------------------------------------
# Concepts


@pytest.mark.parametrize(
    ("codes", "base"),
    [
        (["1F600"], "1f600"),
        (["1f44b", "1F44B-1F3FB", "1f44b-1f3ff"], "1f44b"),  # skin tones
        (["2764", "2764-FE0F"], "2764"),  # the variation selector
        (["1f9d1-200d-1f373", "1f468-200d-1f373", "1f469-200d-1f373", "1f469-1f3fd-200d-1f373"], "1f9d1-200d-1f373"),
        (["1f46e", "1f46e-200d-2640-fe0f", "1f46e-1f3fb-200d-2642-fe0f"], "1f46e"),  # gender signs
        (["1f9d1", "1f468", "1f469", "1f468-200d-1f9b0", "1f9d1-1f3fc-200d-1f9b3", "1f471-200d-2640"], "1f9d1"),  # hair
        (["1f9d2", "1f466", "1f467-1f3ff"], "1f9d2"),
        (["1f6b6", "1f6b6-200d-27a1-fe0f", "1f6b6-1f3fb-200d-2640-fe0f-200d-27a1-fe0f"], "1f6b6"),  # direction
        (["1f46a", "1f468-200d-1f469-200d-1f467-200d-1f466", "1f9d1-200d-1f9d2"], "1f46a"),  # families
        (["1f48f", "1f469-200d-2764-fe0f-200d-1f48b-200d-1f468"], "1f48f"),
        (["1f46b", "1f46c", "1f46d", "1f9d1-1f3fb-200d-1f91d-200d-1f9d1-1f3ff"], "1f46d"),
        (["1f934", "1f478", "1fac5"], "1fac5"),
        (["1f91d", "1faf1-1f3fb-200d-1faf2-1f3ff"], "1f91d"),
        (["2640"], "2640"),  # alone, the signs are emoji themselves
        (["27a1-fe0f"], "27a1"),
        (["1f1fa-1f1f8", "1f1fa-1f1f2"], "1f1fa-1f1f8"),  # one flag, two territories
        (["1f1eb-1f1f7", "1f1e8-1f1f5", "1f1f2-1f1eb"], "1f1eb-1f1f7"),
        (["1f1ee-1f1f9"], "1f1ee-1f1f9"),
    ],
)
def test_variants_of_an_emoji_are_one_concept(codes, base):
    assert [matching.base_code(code) for code in codes] == [base] * len(codes)
    assert matching.base_code(base) == base


# ---------------------------------------------------------------------------------------------------------------------
# Splits


def rows_of(concepts: int, styles: tuple[str, ...]) -> list[dict]:
    return [
        {"concept": f"{0x1F000 + k:x}", "style": style, "skin_tone": tone}
        for k in range(concepts)
        for style in styles
        for tone in ("", "dark")
    ]


def test_a_twentieth_of_the_concepts_and_of_the_pairs_is_held_back():
    rows = rows_of(2000, ("noto", "twemoji", "fluent"))
    splits = matching.assign_splits(rows)
    validation = {row["concept"] for row, split in zip(rows, splits, strict=True) if split == "validation"}
    pairs = {
        (row["concept"], row["style"]) for row, split in zip(rows, splits, strict=True) if split == "heldout_pairs"
    }
    assert abs(len(validation) / 2000 - 0.05) < 0.015
    assert abs(len(pairs) / (3 * (2000 - len(validation))) - 0.05) < 0.01


def test_splits_follow_concept_and_style_alone():
    rows = rows_of(500, ("noto", "twemoji"))
    split_of = {
        (r["concept"], r["style"], r["skin_tone"]): s for r, s in zip(rows, matching.assign_splits(rows), strict=True)
    }
    backwards = rows[::-1]
    assert matching.assign_splits(backwards) == [split_of[r["concept"], r["style"], r["skin_tone"]] for r in backwards]
    for concept, style, _ in split_of:  # a skin tone goes where its emoji goes
        assert split_of[concept, style, ""] == split_of[concept, style, "dark"]
    more = rows_of(500, ("noto", "twemoji", "fluent"))  # another style moves no concept between train and validation
    for row, split in zip(more, matching.assign_splits(more), strict=True):
        before = split_of.get((row["concept"], row["style"], row["skin_tone"]), split)
        assert (split == "validation") == (before == "validation")


def test_a_concept_drawn_in_one_style_is_never_a_held_out_pair():
    assert set(matching.assign_splits(rows_of(500, ("noto",)))) == {"train", "validation"}
    rows = rows_of(3000, ("noto", "twemoji"))
    splits = matching.assign_splits(rows)
    trained = {row["concept"] for row, split in zip(rows, splits, strict=True) if split == "train"}
    assert {row["concept"] for row, split in zip(rows, splits, strict=True) if split == "heldout_pairs"} <= trained


def test_the_unseen_style_is_in_no_other_split():
    rows = rows_of(200, ("noto", "openmoji"))
    for row, split in zip(rows, matching.assign_splits(rows), strict=True):
        assert (split == "unseen_style") == (row["style"] == "openmoji")


def check_hygiene(splits: dict[str, list[dict]]) -> None:
    for rows in splits.values():
        for row in rows:
            assert row["concept"] == matching.base_code(row["code"])
            assert row["concept_split"] == matching.concept_split(row["concept"])
            assert tables.LABELS[row["label"]] == tables.LABEL_OF_SUBGROUP[row["subgroup"]]
    concepts = {split: {row["concept"] for row in rows} for split, rows in splits.items()}
    pairs = {split: {(row["concept"], row["style"]) for row in rows} for split, rows in splits.items()}
    plain = {row["concept"] for row in splits["train"] if not row["skin_tone"]}
    assert not concepts["validation"] & (concepts["train"] | concepts["heldout_pairs"])
    assert concepts["heldout_pairs"] <= plain
    assert not pairs["heldout_pairs"] & pairs["train"]
    drawn = {split: {hashlib.sha256(row["image"]["bytes"]).digest() for row in rows} for split, rows in splits.items()}
    assert not drawn["train"] & drawn["validation"], "a picture of validation is in train, to the pixel"
    assert not drawn["train"] & drawn["heldout_pairs"], "a picture of heldout_pairs is in train, to the pixel"
    assert not any(row["style"] in tables.UNSEEN_STYLES for rows in splits.values() for row in rows)


def test_no_concept_of_the_sample_is_in_two_splits_but_by_rule():
    splits = read(SAMPLE)
    check_hygiene(splits)
    plain = [row for row in splits["train"] if not row["skin_tone"]]
    assert {tables.LABELS[row["label"]] for row in plain} == set(tables.LABELS)
    assert sum(map(len, splits.values())) == 100
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 600_000


@pytest.mark.skipif(not BUILT.is_dir(), reason="`make data` has not been run")
def test_no_concept_of_the_build_is_in_two_splits_but_by_rule():
    splits = read(BUILT)
    check_hygiene(splits)
    plain = [row for rows in splits.values() for row in rows if not row["skin_tone"]]
    assert len(plain) >= 6893 and len({row["name"] for row in plain}) >= 1897
    assert set(splits) == {"train", "validation", "heldout_pairs"}
    # The sample was taken from these splits.
    split_of = {(row["style"], row["code"]): split for split, rows in splits.items() for row in rows}
    for split, rows in read(SAMPLE, ["style", "code"]).items():
        assert {split_of[row["style"], row["code"]] for row in rows} == {split}


@pytest.mark.skipif(not UNSEEN.is_dir(), reason="`make data` has not been run")
def test_the_unseen_build_is_one_style_in_one_split():
    splits = read(UNSEEN, ["style", "code", "concept", "concept_split"])
    assert set(splits) == {"unseen_style"}
    for row in splits["unseen_style"]:
        assert row["style"] == "openmoji"
        assert row["concept"] == matching.base_code(row["code"])
        assert row["concept_split"] == matching.concept_split(row["concept"])


def test_labels_are_twelve_and_each_has_a_subgroup():
    assert len(tables.LABELS) == 12
    assert set(tables.LABEL_OF_SUBGROUP.values()) == {*tables.LABELS, None}


# ---------------------------------------------------------------------------------------------------------------------
# Matching


def entry(code: str, name: str, shortcodes: tuple[str, ...] = ()) -> dict:
    return {"code": code, "name": name, "shortcodes": list(shortcodes)}


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("woman’s hat", "womans-hat"),
        ("flag: Åland Islands", "flag-aland-islands"),
        ("keycap: *", "keycap-asterisk"),
        ("Japanese “here” button", "japanese-here-button"),
        ("flag: Trinidad & Tobago", "flag-trinidad-and-tobago"),
        ("flag: St. Lucia", "flag-st-lucia"),
    ],
)
def test_slug(name, slug):
    assert matching.slug(name) == slug


def test_the_surest_way_to_match_goes_first_and_an_icon_is_used_once():
    entries = [
        entry("1f431", "cat face", ("cat",)),
        entry("1f408", "cat", ("cat2",)),
        entry("2663-fe0f", "club suit", ("clubs",)),
        entry("1f600", "grinning face", ("grinning",)),
        entry("1f699", "sport utility vehicle", ("blue_car",)),
        entry("1f68b", "tram car", ("train",)),
        entry("1f42f", "tiger face", ("tiger",)),
    ]
    icons = {"cat", "blackclubsuit", "smile-one", "recreationalvehicle", "tramcar", "tiger"}
    found = matching.match(entries, icons, {"1F600-FE0F": "smile-one"}, {"tramcar": "", "tiger": "1f42f"})
    assert found == {
        "1f408": ("cat", "name"),  # so the shortcode of the face may not have it
        "2663-fe0f": ("blackclubsuit", "Unicode name"),
        "1f600": ("smile-one", "code point"),
        "1f699": ("recreationalvehicle", "Unicode name"),
        "1f42f": ("tiger", "table"),
    }
    assert matching.match(entries[:1], {"cat"}, {}, {}) == {"1f431": ("cat", "shortcode")}


def test_the_table_of_firefox_drawings_gives_no_emoji_twice():
    codes = [code for code in tables.FXEMOJI.values() if code]
    assert len(codes) == len(set(codes))


# ---------------------------------------------------------------------------------------------------------------------
# Drawing

LEFT_HALF_RED = '<path fill="#f00" d="M0 0h5v20h-5z"/>'


def pixels(icons: dict, name: str) -> np.ndarray:
    return np.asarray(
        Image.open(io.BytesIO(build.render(build.icon_svg(icons, name), 40))).convert("RGBA")
    )  # (40, 40, 4)


def test_an_oblong_icon_is_centred_and_cut_to_its_box():
    icons = {"icons": {"tall": {"body": '<path fill="#f00" d="M-50-50h100v100h-100z"/>', "width": 10, "height": 20}}}
    drawn = pixels(icons, "tall")
    assert (drawn[:, 10:30] == (255, 0, 0, 255)).all()
    assert not drawn[:, :10].any() and not drawn[:, 30:].any()


def test_an_alias_is_flipped_and_turned():
    body = {"body": LEFT_HALF_RED, "width": 10, "height": 20}
    icons = {
        "icons": {"a": body},
        "aliases": {
            "b": {"parent": "a", "hFlip": True},
            "c": {"parent": "b", "hFlip": True},
            "d": {"parent": "a", "rotate": 1},
        },
    }
    plain, flipped, twice, turned = (pixels(icons, name) for name in "abcd")
    assert plain[20, 12, 3] == 255 and plain[20, 27, 3] == 0
    assert np.array_equal(flipped, plain[:, ::-1])
    assert np.array_equal(twice, plain)
    assert np.array_equal(turned, np.rot90(plain, -1))


@pytest.mark.parametrize("body", ["", '<path fill="none" d="M0 0h5v20h-5z"/>', "<path"])
def test_nothing_drawn_is_none(body):
    assert build.render(build.icon_svg({"icons": {"a": {"body": body}}}, "a"), 16) is None


# ---------------------------------------------------------------------------------------------------------------------
# The build


def tarball(path: Path, files: dict) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, value in files.items():
            content = json.dumps(value).encode()
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A folder of small packages: 40 animals in three styles, one of them unseen, one of them with an empty drawing."""
    folder = tmp_path / "npm"
    folder.mkdir()
    animals = [{"hexcode": f"{0x1F400 + k:X}", "label": f"animal {k}", "group": 3, "subgroup": 34} for k in range(40)]
    animals[0] |= {
        "tags": ["rat", "grey"],
        "skins": [{"hexcode": "1F400-1F3FB", "label": "animal 0: light", "tone": 1}],
    }
    animals.append({"hexcode": "1F3FB", "label": "light skin tone", "group": 2, "subgroup": 32})
    animals.append({"hexcode": "1F1E6", "label": "regional indicator A"})
    names = {
        "groups": {"2": "component", "3": "animals-nature"},
        "subgroups": {"32": "skin-tone", "34": "animal-mammal"},
    }
    shortcodes = {f"en/shortcodes/{n}.json": {} for n in ("cldr", "emojibase", "github", "iamcal", "joypixels")}

    def icons(colour: str) -> dict:
        return {
            "icons": {
                f"animal-{k}": {"body": f'<path fill="{colour}" d="M0 0h{k + 1}v40h-{k + 1}z"/>'} for k in range(40)
            },
            "width": 40,
            "height": 40,
        }

    info = {"author": {"name": "A", "url": "https://a"}, "license": {"title": "M", "spdx": "MIT", "url": "https://m"}}
    empty = icons("#0f0")
    empty["icons"]["animal-3"] = {"body": ""}
    contents = {
        "emojibase-data": {"en/data.json": animals, "meta/groups.json": names, **shortcodes},
        "@iconify-json/noto": {
            "icons.json": icons("#f00"),
            "info.json": info,
            "chars.json": {f"{0x1F400 + k:x}": f"animal-{k}" for k in range(40)},
        },
        "@iconify-json/twemoji": {"icons.json": empty, "info.json": info, "chars.json": {}},
        "@iconify-json/openmoji": {
            "icons.json": icons("#00f"),
            "info.json": info | {"license": {"title": "S", "spdx": "CC-BY-SA-4.0", "url": "https://s"}},
            "chars.json": {},
        },
    }
    packages = {}
    for name, files in contents.items():
        package = tables.Package(name, "1.0.0", "")
        tarball(folder / package.tarball, files)
        sha256 = hashlib.sha256((folder / package.tarball).read_bytes()).hexdigest()
        packages[name.split("/")[-1]] = dataclasses.replace(package, sha256=sha256)
    monkeypatch.setattr(tables, "NAMES", packages.pop("emojibase-data"))
    monkeypatch.setattr(tables, "STYLES", packages)
    return folder


def config(sources: Path, output_dir: Path, **changes) -> build.Config:
    styles = changes.pop("styles", ("noto", "twemoji"))
    return build.Config(output_dir, 16, styles, source_dir=sources, num_workers=1, **changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_sources_give_the_same_bytes(sources, tmp_path):
    first = build.build(config(sources, tmp_path / "a"))
    assert build.build(config(sources, tmp_path / "b" / "c")) == first
    assert contents(tmp_path / "a") == contents(tmp_path / "b" / "c")
    assert build.build(config(sources, tmp_path / "a")) == first  # an earlier build is replaced
    assert contents(tmp_path / "a") == contents(tmp_path / "b" / "c")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_build_counts_matches_and_drops_what_is_empty(sources, tmp_path):
    statistics = build.build(config(sources, tmp_path / "a"))
    assert statistics["styles"]["noto"]["matched_by"] == {"code point": 40}
    assert statistics["styles"]["twemoji"]["matched_by"] == {"name": 40}
    assert statistics["styles"]["twemoji"]["empty"] == ["animal 3"]
    assert statistics["styles"]["twemoji"]["pictures"] == 39
    assert sum(split["pictures"] for split in statistics["splits"].values()) == 79


def test_datasets_opens_the_build_with_its_features(sources, tmp_path):
    import datasets

    build.build(config(sources, tmp_path / "a"))
    data = datasets.load_dataset(str(tmp_path / "a"), cache_dir=str(tmp_path / "cache"))
    assert data["train"].features == build.features()
    row = data["train"][0]
    assert row["image"].mode == "RGBA" and row["image"].size == (16, 16)
    assert (row["name"], row["keywords"], row["style"]) == ("animal 0", ["rat", "grey"], "noto")
    assert (row["code"], row["concept"], row["skin_tone"], row["license"]) == ("1f400", "1f400", "", "MIT")
    assert data["train"].features["label"].int2str(row["label"]) == "animal"
    assert row["source"] == "@iconify-json/noto@1.0.0:animal-0"


def test_the_unseen_style_has_a_split_of_its_own_and_its_licence_in_the_card(sources, tmp_path):
    import yaml

    statistics = build.build(config(sources, tmp_path / "a", styles=("openmoji",)))
    assert set(statistics["splits"]) == {"unseen_style"}
    text = (tmp_path / "a" / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "cc-by-sa-4.0"
    assert front["configs"][0]["data_files"] == [{"split": "unseen_style", "path": "data/unseen_style-*"}]
    assert "[CC-BY-SA-4.0](https://s)" in text and "[A](https://a)" in text


def test_another_tarball_than_the_pinned_one_is_refused(sources, tmp_path):
    path = sources / tables.STYLES["noto"].tarball
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(build.SourceError, match="not the pinned .*`npm pack @iconify-json/noto@1.0.0`"):
        build.build(config(sources, tmp_path / "a"))
    path.unlink()
    with pytest.raises(build.SourceError, match="noto-1.0.0.tgz is missing"):
        build.build(config(sources, tmp_path / "a"))
    assert not (tmp_path / "a").exists()


def test_without_npm_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(build.SourceError, match="Install Node.js, or pass --source_dir"):
        build.build(build.Config(tmp_path / "a"))


def test_a_style_that_is_not_there_and_a_folder_of_something_else_are_refused(sources, tmp_path):
    with pytest.raises(ValueError, match="no style noot: choose among noto, twemoji, openmoji"):
        build.build(config(sources, tmp_path / "a", styles=("noot",)))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        build.build(config(sources, tmp_path / "home"))
    assert (tmp_path / "home" / "letter.txt").read_text() == "mine"
