"""A sheet to be named by eye: `python -m benchmarks.blind --write [--model emoji] [--seed 0]`.

The same 60 captions of training pictures for every model, drawn once each, in 4 rows of 15 with numbers for names. What
was asked for lies in a .txt beside the PNG: write down 60 names first, then look. The seed decides the noise, and which
caption has which number. Without --write nothing is drawn.
"""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hub_models import text_to_image
from training.data.sources import open_source
from training.data.split import ROOT
from training.samples import sheet
from training.text_to_image.config import FIRST_GROUPS
from training.text_to_image.evaluation import draw
from training.text_to_image.selection import Selection, select

FOLDER = ROOT / "build" / "blind"
COUNT, COLUMNS = 60, 15


def asked(selection: Selection, count: int = COUNT) -> list[str]:
    """The prompts of `count` names, one each: those whose sha256 is least, whatever else is there and in what order."""
    chosen: dict[str, str] = {}
    hashed = sorted(zip(selection.prompts, selection.names, strict=True), key=lambda one: _sha256(one[0]))
    for prompt, name in hashed:
        chosen.setdefault(name, prompt)
    return list(chosen.values())[:count]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.blind", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="emoji", help="a bundled variant, a folder, or org/repo[@revision]")
    parser.add_argument("--dataset", default="emoji", help="whose training captions are asked for")
    parser.add_argument("--seed", type=int, default=0, help="of the noise, and of which caption has which number")
    parser.add_argument("--output_dir", type=Path, default=FOLDER)
    parser.add_argument("--write", action="store_true", help="draw the sheet and write it with its key")
    args = parser.parse_args(argv)
    prompts = asked(select(open_source(args.dataset, split="train"), groups=FIRST_GROUPS))
    prompts = [prompts[i] for i in np.random.default_rng(args.seed).permutation(len(prompts))]
    path = args.output_dir / f"{Path(args.model).name}-{args.seed}.png"
    print(f"{len(prompts)} captions, seed {args.seed}: {path}, key in {path.with_suffix('.txt').name}")
    if not args.write:
        return
    pictures = [Image.fromarray(p) for p in draw(text_to_image.load(args.model), prompts, args.seed)]
    numbers = [str(number) for number in range(1, len(prompts) + 1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet(pictures, numbers, COLUMNS).save(path, optimize=True)
    key = "\n".join(f"{number} {prompt}" for number, prompt in zip(numbers, prompts, strict=True))
    path.with_suffix(".txt").write_text(key + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
