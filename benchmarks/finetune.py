"""How long fine-tuning takes and what memory it needs here: `python -m benchmarks.finetune [--task NAME] [--write]`.

Each line of the README's table is the preset `finetune` of a script as it stands, from the shipped weights, on a folder
of pictures as a person would bring it, for a few steps in a process of its own. --write puts the table into README.md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.table import markdown, write
from hub_models import store
from training import results
from training.data.scenes import Scenes, materialise
from training.data.sources import open_source

STEPS, WARM = 14, 4  # of each run, and how many of them are not counted
PLANNED = 1000  # steps of the preset
START, END = "<!-- finetune:start -->", "<!-- finetune:end -->"
TASKS = {  # the stem, the folder its pictures lie in, and the shipped model it starts from
    "classifier": ("classifier", "classes", "swin"),
    "ddpm": ("ddpm", "classes", "emoji-32"),
    "text_to_image": ("text_to_image", "captions", "emoji"),
    "text_to_image, LoRA": ("text_to_image", "captions", "emoji"),
    "segmentation": ("segmentation", "masks", "swin-scenes"),
    "captioning": ("captioning", "captions", "emoji"),
    "clip": ("clip", "captions", "emoji"),
    "classifier, photographs": ("classifier", "classes", "photo"),
    "segmentation, photographs": ("segmentation", "masks", "photo"),
    "captioning, photographs": ("captioning", "captions", "photo"),
}
FLAGS = {  # those of README's examples
    "text_to_image, LoRA": "--lora_rank 8",
    "classifier, photographs": "--resolution 224 --learning_rate 5e-4 --layer_decay 0.8 --scale 0.5 1.0 --random_flip",
    "segmentation, photographs": "--resolution 192",
    "captioning, photographs": "--resolution 224",
}


def folders(home: Path) -> dict[str, Path]:
    """{kind: a data folder of that kind}: class folders, captioned pictures, pictures with masks."""
    source = open_source("emoji-sample", split="train")
    classes, captions, masks = (home / kind for kind in ("classes", "captions", "masks"))
    (captions / "train").mkdir(parents=True)
    lines = []
    for i in range(len(source)):
        picture, name = source.picture(i), source.label_names[source.label(i)].replace(" ", "_")
        (classes / "train" / name).mkdir(parents=True, exist_ok=True)
        picture.save(classes / "train" / name / f"{i}.png")
        picture.save(captions / "train" / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": source.column("name")[i]}))
    (captions / "train" / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    materialise(Scenes("train", dataset_name="emoji-sample", length=64), masks)
    return {"classes": classes, "captions": captions, "masks": masks}


def measure(task: str, data: Path, home: Path) -> dict:
    """A row of the table: the pictures and seconds of a step, and the process's largest memory."""
    stem, _, base = TASKS[task]
    run = home / task.replace(", ", "-")
    command = [
        sys.executable, "-m", f"training.{stem}", "--preset", "finetune", "--pretrained_model_name_or_path", base,
        "--dataset_name", str(data), "--output_dir", str(run), "--max_train_steps", str(STEPS), "--logging_steps", "1",
        "--validation_steps", "100000", "--checkpointing_steps", "100000",
        *FLAGS.get(task, "").split(),
    ]  # fmt: skip
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{(home / 'log').read_text()[-3000:]}")
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speed = float(np.median([line["images_per_second"] for line in logged if "images_per_second" in line][WARM:]))
    batch = json.loads((run / "config.json").read_text())["train_batch_size"]
    return {
        "task": task,
        "from": f"`{stem}/{base}`",
        "pictures a step": batch,
        "seconds a step": batch / speed,
        f"{PLANNED:,} steps, minutes": PLANNED * batch / speed / 60,
        "memory, GiB": used.ru_maxrss / 2**20,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.finetune", description=__doc__.split("\n")[0])
    parser.add_argument("--task", choices=TASKS, action="append", help="several can be named; all by default")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    args = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as elsewhere:
        home = Path(elsewhere)
        made = folders(home)
        for task in args.task or TASKS:
            if TASKS[task][2] not in store.bundled(TASKS[task][0]):
                print(f"{task}: {TASKS[task][0]}/{TASKS[task][2]} isn't shipped, so it is left out", flush=True)
                continue
            rows.append(measure(task, made[TASKS[task][1]], home))
            print(markdown(rows[-1:]), flush=True)
    threads = torch.get_num_threads()
    cores = f"{threads} core{'s' if threads > 1 else ''}"
    where = f"Measured on {cores} of a {platform.machine()} CPU without a GPU, in fp32."
    write("finetune", {"rows": rows, "where": where})
    table = f"{markdown(rows)}\n\n{where}"
    print(f"\n{table}")
    if args.write:
        readme = results.ROOT / "README.md"
        readme.write_text(results.with_block(readme.read_text(), table, START, END))


if __name__ == "__main__":
    main()
