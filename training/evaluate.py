"""Measure a checkpoint: `python -m training.evaluate <stem> --model <variant|folder|org/repo>`.

Prints a table and writes results.json. With --record the file also goes into the checkpoint's own folder, beside the
weights it is about, and the model card is written again from it.
"""

import argparse
import functools
import importlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from hub_models import store
from hub_models.documents import read_object
from hub_models.publish import paths
from training import publish

STEMS = (
    "autoencoder",
    "captioning",
    "classifier",
    "clip",
    "ddpm",
    "detection",
    "energy",
    "gan",
    "ladder",
    "pretrain",
    "segmentation",
    "text_to_image",
    "tokens",
    "translation",
)
COLUMNS = (
    "dataset_config_name", "image_column", "label_column", "caption_column", "concept_column", "objects_column",
    "reduce_labels",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="training.evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("stem", choices=STEMS)
    parser.add_argument("--model", required=True, help="a bundled variant, a folder, or org/repo[@revision]")
    parser.add_argument("--dataset", help="as --dataset_name of the training scripts (default: what it was trained on)")
    for name in COLUMNS[:-1]:
        parser.add_argument(f"--{name}", help="as in the training scripts (default: as in its training on these data)")
    parser.add_argument(
        "--judge",
        metavar="MODEL",
        help="ddpm, energy, gan, ladder, tokens: a classifier of the same data that looks at the drawn",
    )
    parser.add_argument(
        "--labels_each",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="pretrain: also fine-tune the tower with so many labels a class, for each N",
    )
    parser.add_argument("--output", type=Path, help="where to write results.json (default: build/results/)")
    parser.add_argument("--record", action="store_true", help="also write it into the checkpoint's folder and card")
    args = parser.parse_args(argv)
    for name, has_it in (
        ("judge", args.stem in ("ddpm", "energy", "gan", "ladder", "tokens")),
        ("caption_column", args.stem not in ("detection", "segmentation", "translation")),
        ("label_column", args.stem != "detection"),
        ("labels_each", args.stem == "pretrain"),
        ("concept_column", args.stem == "translation"),
        ("objects_column", args.stem == "detection"),
    ):
        if getattr(args, name) and not has_it:
            parser.error(f"--{name} is nothing that {args.stem} is measured by")

    began = time.perf_counter()
    script = importlib.import_module(f"training.{args.stem}")
    contract = importlib.import_module(f"hub_models.{args.stem}")
    folder = getattr(contract, "resolve", functools.partial(store.resolve, args.stem))(args.model)
    dataset = args.dataset or trained_on(folder)
    options = {"columns": columns_of(folder, dataset, vars(args))} | ({"judge": args.judge} if args.judge else {})
    options |= {"labels_each": args.labels_each} if args.labels_each else {}
    measured = script.evaluate_checkpoint(args.model, dataset, **options)
    seconds = round(time.perf_counter() - began, 1)
    results = {"stem": args.stem, "model": paths.called(args.model), "dataset": dataset, "seconds": seconds}
    results |= measured.as_json()
    print(table(results))
    output = args.output or Path("build/results") / f"{args.stem}-{label(folder, args)}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name, picture in measured.figures.items():
        picture.save(output.with_name(f"{output.stem}-{name}.png"), optimize=True)
    print(f"written to {output}")
    if args.record:
        kept = json.dumps(paths.without_places(results), indent=1) + "\n"
        (folder / publish.RESULTS).write_text(kept, encoding="utf-8")
        publish.write_card(folder, measured.figures)
        print(f"recorded in {folder}")


def config_of(folder: Path) -> dict:
    """The config of the run that made a checkpoint; of an export that lies in its run folder as it was given there.

    Elsewhere that of its run.json, without this machine's places; {} where there is none.
    """
    beside = folder.parent / "config.json"
    if folder.name == "export" and beside.is_file():
        return read_object(beside)
    config = read_object(folder / publish.RUN).get("config") if (folder / publish.RUN).is_file() else None
    return config if isinstance(config, dict) else {}


def trained_on(folder: Path) -> str:
    """The --dataset_name of the run that made a checkpoint. Raises SystemExit where nothing says it."""
    name = config_of(folder).get("dataset_name")
    if not isinstance(name, str):
        raise SystemExit(f"{folder} does not say what it was trained on: name a data set with --dataset")
    return name


def columns_of(folder: Path, dataset: str, given: dict) -> dict:
    """The options by which the data are opened: those given, else as the run that made the checkpoint opened them."""
    config = config_of(folder)
    if config.get("dataset_name") not in (dataset, paths.called(dataset)):
        config = {}
    found = {name: given.get(name) or config.get(name) for name in COLUMNS}
    return {name: value for name, value in found.items() if value}


def label(folder: Path, args: argparse.Namespace) -> str:
    """What the results of a checkpoint on some data are filed under: no two of them under one name."""
    name = paths.called(args.model)
    if folder not in store.bundled(args.stem).values():
        name += f"-{store.weights_sha256(folder)[:8]}"
    return name + (f"-on-{paths.called(args.dataset)}" if args.dataset else "")


def table(results: dict) -> str:
    """The metrics of a results.json as aligned text, the baseline beside where it has the same name."""
    baseline = results.get("baseline", {})
    width = max(map(len, results["metrics"]), default=0)
    lines = [
        f"{results['stem']} {results['model']} on {results['dataset']} ({results['seconds']} s)",
        f"{'':{width}}  {'measured':>10}  {results.get('baseline_name', '') if baseline else ''}",
    ]
    for name, value in results["metrics"].items():
        other = f"{baseline[name]:>10.4g}" if name in baseline else ""
        lines.append(f"{name:{width}}  {value:>10.4g}  {other}".rstrip())
    return "\n".join(lines + results.get("left_out", []))


if __name__ == "__main__":
    main()
