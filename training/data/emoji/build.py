"""From npm packages to a data set folder: fetch, read, draw, split, write."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import resvg_py
from datasets import ClassLabel, Features, List, Value
from datasets import Image as ImageColumn
from PIL import Image

from training.data.emoji import tables
from training.data.emoji.card import card
from training.data.emoji.matching import assign_splits, base_code, concept_split, match, take_sample
from training.data.emoji.tables import LABELS, Package

ROWS_PER_FILE = 4000
ROWS_PER_GROUP = 100


class SourceError(RuntimeError):
    """A source package is absent, or not the pinned one."""


@dataclass(frozen=True)
class Config:
    """Render emoji art into a data set folder."""

    output_dir: Path = Path("build/data/emoji")  # the folder to write; an earlier build there is replaced
    resolution: int = 128  # side of the square pictures, in pixels
    styles: tuple[str, ...] = ("noto", "twemoji", "fluent", "fluent-flat", "fxemoji")  # openmoji: the unseen style
    source_dir: Path | None = None  # a folder with the npm tarballs; without it `npm pack` fetches them
    sample: bool = False  # write a sample of 100 pictures instead: each label in each split
    num_workers: int = 2  # rendering processes
    push_to_hub: bool = False  # upload the folder as a data set
    hub_dataset_id: str | None = None  # "name/data-set"; needed for push_to_hub
    hub_private: bool = False  # whether a repository created by the push is private


def fetch(package: Package, source_dir: Path | None, work_dir: Path) -> Path:
    """The package's tarball, verified; from source_dir, else by `npm pack` into work_dir."""
    pack = f"npm pack {package.name}@{package.version}"
    path = Path(source_dir or work_dir) / package.tarball
    if source_dir is None and not path.is_file():
        if shutil.which("npm") is None:
            raise SourceError(
                "npm is not installed, and the emoji art comes from npm packages. Install Node.js, or pass "
                "--source_dir with their tarballs."
            )
        command = [*pack.split(), "--silent", "--pack-destination", str(work_dir)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not path.is_file():
            raise SourceError(
                f"`{pack}` failed: {done.stderr.strip() or done.stdout.strip()}. Check the network, or pass "
                "--source_dir with the tarballs."
            )
    if not path.is_file():
        raise SourceError(f"{path} is missing. Put it there with `{pack}`, or leave out --source_dir.")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package.sha256:
        raise SourceError(
            f"{path} has sha256 {found}, not the pinned {package.sha256}: delete it and fetch it again with `{pack}`."
        )
    return path


def read_json(tarball: Path, *names: str) -> list:
    """The parsed JSON files of an npm tarball, in the order of names."""
    with tarfile.open(tarball) as tar:
        files = [tar.extractfile(f"package/{name}") for name in names]
        return [json.load(file) for file in files if file]


def read_emoji(tarball: Path) -> list[dict]:
    """All emoji of emojibase that have a label, as rows without a picture, with their shortcodes."""
    codes = ("cldr", "emojibase", "github", "iamcal", "joypixels")
    data, groups, *shortcodes = read_json(
        tarball, "en/data.json", "meta/groups.json", *(f"en/shortcodes/{name}.json" for name in codes)
    )
    emoji = []
    for entry in data:
        if "group" not in entry:
            continue  # regional indicators, the letters that flags are spelled with
        group, subgroup = groups["groups"][str(entry["group"])], groups["subgroups"][str(entry["subgroup"])]
        label = tables.LABEL_OF_SUBGROUP[subgroup]
        if label is None:
            continue
        for variant in (entry, *entry.get("skins", ())):
            tones = variant.get("tone", [])
            tones = tones if isinstance(tones, list) else [tones]
            names = [table.get(variant["hexcode"], []) for table in shortcodes]
            emoji.append(
                {
                    "code": variant["hexcode"].lower(),
                    "concept": base_code(variant["hexcode"]),
                    "name": variant["label"],
                    "keywords": entry.get("tags", []),
                    "group": group,
                    "subgroup": subgroup,
                    "skin_tone": ", ".join(tables.SKIN_TONES[tone] for tone in tones),
                    "label": label,
                    "shortcodes": [s for name in names for s in ([name] if isinstance(name, str) else name)],
                }
            )
    return emoji


def icon_svg(icons: dict, name: str) -> str:
    """A square, transparent SVG of an icon of an iconify set.

    An oblong icon is centred, an alias flipped or turned as it says.
    """
    icon, changes = name, {}
    while icon in icons.get("aliases", {}):
        alias = icons["aliases"][icon]
        for flip in ("hFlip", "vFlip"):
            changes[flip] = changes.get(flip, False) != alias.get(flip, False)
        changes["rotate"] = changes.get("rotate", 0) + alias.get("rotate", 0)
        icon = alias["parent"]
    icon = icons["icons"][icon]
    left, top, width, height = (
        icon.get(key, icons.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    side = max(width, height)
    x, y = (side - width) / 2, (side - height) / 2
    turn = f"rotate({90 * (changes.get('rotate', 0) % 4)} {side / 2:g} {side / 2:g})"
    if changes.get("hFlip"):
        turn += f" translate({side:g} 0) scale(-1 1)"
    if changes.get("vFlip"):
        turn += f" translate(0 {side:g}) scale(1 -1)"
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return (
        f'<svg {namespaces} viewBox="0 0 {side:g} {side:g}"><g transform="{turn}">'
        f'<svg x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
        f'viewBox="{left:g} {top:g} {width:g} {height:g}">'
        f"{icon['body']}</svg></g></svg>"
    )


def render(svg: str, resolution_px: int) -> bytes | None:
    """The PNG (RGBA, resolution_px squared) of an SVG; None where nothing is drawn or the SVG is broken."""
    try:
        png = bytes(
            resvg_py.svg_to_bytes(svg_string=svg, width=resolution_px, height=resolution_px, skip_system_fonts=True)
        )
    except ValueError:
        return None
    with Image.open(io.BytesIO(png)) as image:
        return png if image.convert("RGBA").getchannel("A").getbbox() else None


def build(config: Config) -> dict:
    """Write the data set folder and return its statistics: rows per split, and per style how its drawings were matched.

    Raises SourceError where a package is missing or not the pinned one, ValueError for a style that does not exist or
    a folder that holds something else.
    """
    unknown = [style for style in config.styles if style not in tables.STYLES]
    if unknown or not config.styles:
        raise ValueError(f"no style {', '.join(unknown) or 'given'}: choose among {', '.join(tables.STYLES)}.")
    output_dir = Path(config.output_dir)
    if output_dir.exists() and any(output_dir.iterdir()) and not (output_dir / "data").is_dir():
        raise ValueError(f"{output_dir} holds something else than a data set: choose another --output_dir.")

    rows, svgs, styles = [], [], {}
    with tempfile.TemporaryDirectory() as work_dir:
        emoji = read_emoji(fetch(tables.NAMES, config.source_dir, Path(work_dir)))
        for style in (style for style in tables.STYLES if style in config.styles):
            styles[style], of_style = drawings(style, emoji, config.source_dir, Path(work_dir))
            rows += [row for row, _ in of_style]
            svgs += [svg for _, svg in of_style]
    kept = []
    for row, png in zip(rows, pngs_of(svgs, config), strict=True):
        if png is None:
            styles[row["style"]]["empty"].append(row["name"])
            continue
        styles[row["style"]]["pictures"] += 1
        styles[row["style"]]["without_skin_tone"] += not row["skin_tone"]
        kept.append(row | {"image": {"bytes": png, "path": f"{row['style']}-{row['code']}.png"}})
    for row, split in zip(kept, assign_splits(kept), strict=True):
        row |= {"split": split, "concept_split": concept_split(row["concept"])}
    if config.sample:
        kept = take_sample(kept)
    splits = {split: [row for row in kept if row["split"] == split] for split in tables.SPLITS}
    counted = {split: count(part) for split, part in splits.items() if part}
    statistics = {"resolution": config.resolution, "sample": config.sample, "styles": styles, "splits": counted}
    _write(output_dir, splits, statistics)
    return statistics


def drawings(style: str, emoji: list[dict], source_dir: Path | None, work_dir: Path) -> tuple[dict, list]:
    """(Who drew a style and how its drawings were matched, the (row, SVG) of each drawing)."""
    package = tables.STYLES[style]
    icons, info, chars = read_json(fetch(package, source_dir, work_dir), "icons.json", "info.json", "chars.json")
    if style in tables.CODE_POINTS_OF:
        sister = fetch(tables.STYLES[tables.CODE_POINTS_OF[style]], source_dir, work_dir)
        (chars,) = read_json(sister, "chars.json")
    names = {*icons["icons"], *icons.get("aliases", {})}
    found = match(emoji, names, chars, tables.FXEMOJI if style == "fxemoji" else {})
    about = {
        "author": info["author"]["name"],
        "url": info["author"]["url"],
        "license": info["license"]["spdx"],
        "license_url": info["license"]["url"],
        "package": f"{package.name}@{package.version}",
        "matched_by": dict(Counter(how for _, how in found.values())),
        "pictures": 0,
        "without_skin_tone": 0,
        "empty": [],
    }
    drawn = []
    for entry in emoji:
        if entry["code"] in found:
            icon = found[entry["code"]][0]
            row = {key: value for key, value in entry.items() if key != "shortcodes"}
            row |= {"style": style, "license": about["license"], "source": f"{about['package']}:{icon}"}
            drawn.append((row, icon_svg(icons, icon)))
    return about, drawn


def pngs_of(svgs: list[str], config: Config) -> list[bytes | None]:
    """What `render` gives for each, by config.num_workers processes."""
    sizes = [config.resolution] * len(svgs)
    if config.num_workers <= 1:
        return list(map(render, svgs, sizes))
    with ProcessPoolExecutor(config.num_workers) as pool:
        return list(pool.map(render, svgs, sizes, chunksize=32))


def count(rows: list[dict]) -> dict:
    """What the card says of a split."""
    plain = [row for row in rows if not row["skin_tone"]]
    return {
        "pictures": len(rows),
        "without_skin_tone": len(plain),
        "concepts": len({row["concept"] for row in rows}),
        "labels": dict(Counter(row["label"] for row in plain)),
    }


def features():
    """The columns, as `datasets.Features`."""
    text = Value("string")
    return Features(
        {
            "image": ImageColumn(),
            "name": text,
            "keywords": List(text),
            "group": text,
            "subgroup": text,
            "style": text,
            "code": text,  # lower-case hex, as "1f469-200d-1f373"
            "concept": text,  # base_code(code)
            "concept_split": text,  # train or validation: which of the unseen style's concepts are new as well
            "skin_tone": text,  # "" without one
            "label": ClassLabel(names=list(LABELS)),
            "license": text,
            "source": text,
        }
    )


def _write(output_dir: Path, splits: dict[str, list[dict]], statistics: dict) -> None:
    """Write data/<split>-*.parquet and README.md beside output_dir, then move the finished folder there."""
    schema = features().arrow_schema
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=f".{output_dir.name}-") as work_dir:
        folder = Path(work_dir) / output_dir.name
        (folder / "data").mkdir(parents=True)
        for split, rows in splits.items():
            files = -(-len(rows) // ROWS_PER_FILE)
            for k in range(files):
                part = [
                    {name: row[name] for name in schema.names} | {"label": LABELS.index(row["label"])}
                    for row in rows[k * ROWS_PER_FILE : (k + 1) * ROWS_PER_FILE]
                ]
                path = folder / "data" / f"{split}-{k:05d}-of-{files:05d}.parquet"
                pq.write_table(pa.Table.from_pylist(part, schema), path, row_group_size=ROWS_PER_GROUP)
        (folder / "README.md").write_text(card(statistics))
        if output_dir.exists():
            shutil.rmtree(output_dir)
        folder.rename(output_dir)
