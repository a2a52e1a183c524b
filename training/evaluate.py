"""Measure a checkpoint: `python -m training.evaluate <stem> --model <variant|folder|org/repo>`.

Prints a table and writes results.json. With --record the file also goes into the checkpoint's own folder, beside the
weights it is about, and the model card is written again from it.
"""

import argparse
import importlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from hub_models import store
from training import publish

STEMS = ("autoencoder", "captioning", "classifier", "clip", "ddpm", "segmentation", "text_to_image")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="training.evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("stem", choices=STEMS)
    parser.add_argument("--model", required=True, help="a bundled variant, a folder, or org/repo[@revision]")
    parser.add_argument("--dataset", help="as --dataset_name of the training scripts (default: what it was trained on)")
    parser.add_argument("--output", type=Path, help="where to write results.json (default: build/results/)")
    parser.add_argument("--record", action="store_true", help="also write it into the checkpoint's folder and card")
    args = parser.parse_args(argv)

    began = time.perf_counter()
    script = importlib.import_module(f"training.{args.stem}")
    folder = store.resolve(args.stem, args.model)
    dataset = args.dataset or trained_on(folder)
    measured = script.evaluate_checkpoint(args.model, dataset)
    seconds = round(time.perf_counter() - began, 1)
    results = {"stem": args.stem, "model": Path(args.model).name, "dataset": dataset, "seconds": seconds}
    results |= measured.as_json()
    print(table(results))
    output = args.output or Path("build/results") / f"{args.stem}-{Path(args.model).name}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n")
    for name, picture in measured.figures.items():
        picture.save(output.with_name(f"{output.stem}-{name}.png"), optimize=True)
    print(f"written to {output}")
    if args.record:
        (folder / publish.RESULTS).write_text(json.dumps(results, indent=1) + "\n")
        publish.write_card(folder, measured.figures)
        print(f"recorded in {folder}")


def trained_on(folder: Path) -> str:
    """The --dataset_name of the run that made a checkpoint; "emoji" where its run.json is not there."""
    path = folder / publish.RUN
    return json.loads(path.read_text())["config"]["dataset_name"] if path.is_file() else "emoji"


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
