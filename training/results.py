"""Write the tables of README.md, docs/RESULTS.md and training/recipes.md from what lies beside each shipped model.

    python -m training.results           # writes all (make results)
    python -m training.results --check   # writes nothing; exit status 1 if one of them is stale

A number stands in those files because it was measured, or it doesn't stand there.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from hub_models import store
from hub_models.publish import card, tables
from training import publish, recipes

ROOT = Path(__file__).parent.parent
GUIDANCE = ROOT / "docs" / "guidance.json"  # what `benchmarks.guidance` found
TOWERS = ROOT / "docs" / "towers.json"  # what `benchmarks.towers` found
START, END = "<!-- results:start -->", "<!-- results:end -->"
HEADLINES = {  # what the README says of a model; of one that isn't here, its first three numbers
    "autoencoder": ("validation/psnr", "validation/ssim"),
    "captioning": ("heldout_pairs/exact_name_accuracy", "unseen_style/exact_name_accuracy",
                   "scenes/new_scenes/objects_right", "scenes/new_scenes/relations_right"),
    "classifier": ("validation/top1", "heldout_pairs/top1", "unseen_style/top1"),
    "clip": ("unseen_style/image_to_text/recall@5", "unseen_style/text_to_image/recall@5",
             "heldout_pairs/image_to_text/recall@5"),
    "ddpm": ("label_accuracy", "named_label_accuracy"),
    "detection": ("new_scenes/map50", "new_scenes/mask_map50", "new_scenes/counted", "validation/map50"),
    "energy": ("label_accuracy", "recall", "seconds_per_picture"),
    "gan": ("label_accuracy", "recall", "seconds_per_picture"),
    "ladder": ("label_accuracy", "validation/bits_per_dim", "validation/psnr"),
    "pretrain": ("validation/knn", "heldout_pairs/knn", "unseen_style/knn"),
    "segmentation": ("new_scenes/miou", "validation/miou", "unseen_style/miou"),
    "text_to_image": ("train/named_first", "heldout_pairs/classed", "colours/both_right"),
    "tokens": ("label_accuracy", "recall", "seconds_per_picture"),
    "translation": ("heldout_pairs/nearer_than_input", "heldout_pairs/style_right", "heldout_pairs/rms_distance"),
}  # fmt: skip


def shipped() -> dict[str, dict[str, dict]]:
    """{stem: {variant: its results.json}} of what lies in hub_models/weights, both sorted by name.

    A part that several models have is shown once: the results of its copies are the same.
    """
    found: dict[str, dict[str, dict]] = {}
    for stem in sorted({path.name for path in store.WEIGHTS.glob("*")} | set(store.PARTS)):
        for name, folder in store.bundled(stem).items():
            if (folder / publish.RESULTS).is_file():
                results = json.loads((folder / publish.RESULTS).read_text())
                if results not in found.setdefault(stem, {}).values():
                    found[stem][name] = results
    return found


def table_of(variants: dict[str, dict]) -> list[str]:
    """The lines of one table, of variants measured on the same data: metrics down, variants and baseline across."""
    names = list(dict.fromkeys(name for results in variants.values() for name in results["metrics"]))
    baselines = {
        k: v for results in variants.values() for k, v in (results.get("baseline") or {}).items() if k in names
    }
    title = next((r["baseline_name"] for r in variants.values() if r.get("baseline_name")), "baseline")
    header = ["metric", *variants, *([title] if baselines else [])]
    lines = [f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 1)]
    for name in names:
        cells = [tables.format_number(name, results["metrics"].get(name)) for results in variants.values()]
        if baselines:
            cells.append(tables.format_number(name, baselines[name]) if name in baselines else "")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return lines


def headlines(stem: str, results: dict) -> str:
    """A cell of the README's table: the numbers that matter most, each beside its baseline where it has one."""
    metrics, baseline = results["metrics"], results.get("baseline") or {}
    chosen = [name for name in HEADLINES.get(stem, ()) if name in metrics] or list(metrics)[:3]
    said = []
    for name in chosen:
        beside = f" ({tables.format_number(name, baseline[name])})" if name in baseline else ""
        said.append(f"`{name}` {tables.format_number(name, metrics[name])}{beside}")
    if any(name in baseline for name in chosen):
        said.append(f"(in brackets: {results.get('baseline_name', 'baseline')})")
    return "<br>".join(said)


def readme_block() -> str:
    """What stands between the markers of README.md: a line for each shipped model."""
    lines = ["| model | parameters | trained | measured |", "|---|---:|---|---|"]
    for stem, variants in shipped().items():
        for name, results in variants.items():
            folder = store.bundled(stem)[name]
            run = json.loads((folder / publish.RUN).read_text())
            link = f"[{stem}/{name}](hub_models/weights/{folder.relative_to(store.WEIGHTS).as_posix()}/README.md)"
            total = card.in_all(run)
            trained = f"{total['hours']:.1f} h, {total['images_seen']:,} pictures" if total["hours"] else tables.UNKNOWN
            cells = [f"{link}<br>{run['title']}", f"{run['parameters'] / 1e6:.1f} M", trained, headlines(stem, results)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else "No weights are shipped yet."


def results_page() -> str:
    """docs/RESULTS.md: all that results.json files say, with the hash of the data and the command that repeats it."""
    parts = [
        "# Results",
        "Generated by `make results` from the results.json beside each checkpoint. Not edited by hand.",
    ]
    for stem, variants in shipped().items():
        parts.append(f"## {stem}")
        datasets = dict.fromkeys(results["dataset"] for results in variants.values())
        for dataset in datasets:  # a table each, since a baseline is of its data alone
            alike = {name: results for name, results in variants.items() if results["dataset"] == dataset}
            parts += [f"Measured on `{dataset}`:", "\n".join(table_of(alike))]
        for variant, results in variants.items():
            parts += [f"### {stem}/{variant}", *results.get("left_out", [])]
            if table := tables.class_table(results):
                parts += ["Per class:", "\n".join(table)]
            parts.append(
                f"Repeat: `python -m training.evaluate {stem} --model {variant} --dataset {results['dataset']}` "
                f"(took {results['seconds']:.0f} s). Data: `{results['data_hash']}`."
            )
    parts += drawn_part(shipped())
    if GUIDANCE.is_file():
        parts += guidance_part(json.loads(GUIDANCE.read_text()))
    if TOWERS.is_file():
        parts += towers_part(json.loads(TOWERS.read_text()))
    return "\n\n".join(parts if len(parts) > 2 else [*parts, "No weights are shipped yet."]) + "\n"


DRAWN = {  # columns of the table of all that draws by class: of which metric, the first that is there
    "KID × 1000 (95 %)": ("kid_x1000",),
    "precision": ("precision",),
    "recall": ("recall",),
    "label accuracy": ("label_accuracy",),
    "bits per dimension": ("validation/bits_per_dimension", "validation/bits_per_dim"),
    "seconds a picture": ("seconds_per_picture",),
}
BESIDE = """One table of all that draws the same classes from the same pictures, each drawn alone on one core for
the seconds. KID, precision and recall are distances to held-out pictures in the features of the kept judge, which says
also whether a label was obeyed; real pictures stand below. Bits per dimension don't compare across kinds: exact for
pixels in the colours of a palette, of its codes alone where a VQ-VAE has made them, an upper bound (of real-valued
pixels, so it may lie below zero) of a VAE. Hours are a model's own, without those of a
VQ-VAE under it: one preset of each family had from half an hour to three, its others less than one, which says
little of what they can do."""


def drawn_part(found: dict[str, dict[str, dict]]) -> list[str]:
    """What docs/RESULTS.md says of all models that draw by class side by side; nothing where there are not two."""
    rows = {}
    for stem, variants in found.items():
        for name, results in variants.items():
            if {"label_accuracy", "seconds_per_picture"} <= set(results["metrics"]):
                run = json.loads((store.bundled(stem)[name] / publish.RUN).read_text())
                cells = [_drawn_cell(names, results["metrics"]) for names in DRAWN.values()]
                hours = f"{card.in_all(run)['hours']:.1f}"
                rows[f"{stem}/{name}"] = [*cells, f"{run['parameters'] / 1e6:.2f} M", hours]
                real = [_drawn_cell(names, results["baseline"]) for names in list(DRAWN.values())[:4]]
    if len(rows) < 2:
        return []
    rows["real pictures"] = [*real, "", "", "", ""]
    lines = [f"| | {' | '.join([*DRAWN, 'parameters', 'hours'])} |", "|---|" + "---:|" * (len(DRAWN) + 2)]
    return ["## Drawn by class", BESIDE, "\n".join([*lines, *(f"| {k} | {' | '.join(v)} |" for k, v in rows.items())])]


def _drawn_cell(names: Sequence[str], metrics: dict) -> str:
    name = next((name for name in names if name in metrics), None)
    if name is None:
        return ""
    said = tables.format_number(name, metrics[name])
    ends = [tables.format_number(name, metrics.get(f"{name}_{end}")) for end in ("low", "high")]
    return f"{said} ({ends[0]} … {ends[1]})" if f"{name}_low" in metrics else said


def guidance_part(found: dict) -> list[str]:
    """What docs/RESULTS.md says of guidance scales, from what `benchmarks.guidance` found."""
    titles = list(found["rows"][0])
    lines = [f"| {' | '.join(titles)} |", f"|---{'|---:' * (len(titles) - 1)}|"]
    for row in found["rows"]:
        lines.append(f"| {' | '.join(f'{row[t]:.1f}' if isinstance(row[t], float) else row[t] for t in titles)} |")
    said = (
        f"{found['pictures']} pictures of ddpm/emoji-32 (`{found['model']}`) in each row, as many of each class, 20 "
        f"steps of DPM-Solver++; the classifier that guides is classifier/noised (`{found['guide']}`), the judge "
        "another one (`python -m training.judges`). Diversity: how far two pictures of a class are apart in the "
        "judge's features."
    )
    return ["## Guidance", said, "\n".join(lines), "Repeat: `python -m benchmarks.guidance --write`."]


def towers_part(found: dict) -> list[str]:
    """What docs/RESULTS.md says of towers by how they were pretrained, from what `benchmarks.towers` found."""
    few, steps = found["labels"], found["steps"]
    sets = ("validation", "heldout_pairs", "unseen_style")
    ways = {"knn": "k-NN", "probe": "probe", f"few_{few}": f"{few} labels a class"}
    heads = {"segmentation": "scenes, mIoU", "detection": "scenes, box mAP"}
    lines = [f"| | {' | '.join([*ways.values(), *heads.values()])} |", "|---|" + "---:|" * (len(ways) + len(heads))]
    for row in [*found["rows"], {"tower": "HOG and colour", "architecture": ""} | found["baseline"]]:
        cells = []
        for way in ways:
            of_each = [row.get(f"{split}/{way}") for split in sets]
            cells.append("" if None in of_each else " / ".join(f"{100 * share:.1f}" for share in of_each))
        cells += [f"{100 * row[head]:.1f}" if head in row else "" for head in heads]
        lines.append(f"| {' '.join([row['tower'], row['architecture']]).strip()} | {' | '.join(cells)} |")
    said = (
        "Per cent right on things never seen, held-out pairs and the unseen style: the 20 nearest neighbours' vote, "
        f"logistic regression, and the whole tower fine-tuned with {few} labels a class. Then scenes never seen, after "
        f"{steps['segmentation']:,} steps as the body of a segmenter (a Swin under UPerNet, a ViT under DPT: compare "
        f"within a kind) and {steps['detection']:,} of a detector, the same for each. Empty: the script has no head "
        "for that kind of tower. Real labels were what a supervised tower learned from; the others saw none."
    )
    return ["## Towers", said, "\n".join(lines), "Repeat: `python -m benchmarks.towers NAME=FOLDER … --write`."]


def with_block(readme: str, block: str, start: str = START, end: str = END) -> str:
    """The README with `block` between the markers. Raises ValueError if it doesn't have each marker once, in order."""
    if readme.count(start) != 1 or readme.count(end) != 1 or readme.index(start) > readme.index(end):
        raise ValueError(f"README.md needs one line {start} and one line {end} after it")
    return readme[: readme.index(start) + len(start)] + f"\n\n{block}\n\n" + readme[readme.index(end) :]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="training.results", description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail if a file is stale")
    args = parser.parse_args(argv)
    readme, made = ROOT / "README.md", ROOT / "training" / "recipes.md"
    wanted = {
        readme: with_block(readme.read_text(), readme_block()),
        ROOT / "docs" / "RESULTS.md": results_page(),
        made: recipes.page(shipped(), headlines),
    }
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        if not args.check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path])
        print(f"{'stale' if args.check else 'wrote'} {path.relative_to(ROOT)}", file=sys.stderr)
    if args.check and stale:
        print("run: make results", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
