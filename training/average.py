"""The mean of two models that one began as the other, or both as a third: often better than either.

    python -m training.average runs/a/export runs/b/export --share 0.7 --output_dir runs/mean [--rest runs/c/export]
    python -m training.publish runs/mean --bundle captioning/photo

Wortsman et al. 2022, "Model soups". Where fine-tuning on new data has cost something of what was known before, the mean
keeps most of both (WiSE-FT, Wortsman et al. 2022). The card tells all stages that lie behind it.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from safetensors.torch import load_file, save_file

from hub_models import store
from hub_models.publish import packing
from training.publish import RUN, write_export

WEIGHTS = "model.safetensors"
STAGE = ("command", "hours", "steps", "images_seen", "changed_on_resume")


@dataclass(frozen=True)
class Config:
    first: Annotated[Path, tyro.conf.Positional]  # export folder of a run
    second: Annotated[Path, tyro.conf.Positional]  # of another one, of the same architecture
    output_dir: Path  # its export/ is written
    share: float = 0.5  # of the second model in the mean, in [0, 1]
    rest: Path | None = None  # export folder that config, tokenizer, world, licence, credits come from; None = second


def main(cfg: Config) -> None:
    """Write the mean. Raises SystemExit where the two are not alike, store.CheckpointError for a damaged folder."""
    if not 0 <= cfg.share <= 1:
        raise SystemExit(f"--share must lie in [0, 1], got {cfg.share}")
    rest = cfg.rest or cfg.second
    for folder in (cfg.first, cfg.second, rest):
        if not packing.own_file(folder / RUN) or not packing.own_file(folder / WEIGHTS):
            raise SystemExit(f"{folder} is no export folder: it has no {RUN} or no {WEIGHTS}")
        store.verify(folder, manifest_required=True)
    ours, theirs = (load_file(folder / WEIGHTS) for folder in (cfg.first, cfg.second))
    if {name: value.shape for name, value in ours.items()} != {name: value.shape for name, value in theirs.items()}:
        raise SystemExit(f"{cfg.first} and {cfg.second} have other tensors: they are no runs of one model")
    mean = {}
    for name, value in ours.items():
        mean[name] = value
        if value.is_floating_point():
            mean[name] = (1 - cfg.share) * value.float() + cfg.share * theirs[name].float()

    def save(folder: Path) -> None:
        for file in rest.iterdir():
            if file.name not in (RUN, WEIGHTS, "README.md", "results.json", "manifest.json") and file.suffix != ".png":
                shutil.copy(file, folder / file.name)
        save_file(mean, folder / WEIGHTS, metadata={"format": "pt"})

    print("\n".join(write_export(cfg.output_dir / "export", save, described(cfg, rest))))


def described(cfg: Config, rest: Path) -> dict:
    """run.json of the mean: that of `rest`, with the stages of both in the order in which they ran."""
    run = json.loads((rest / RUN).read_text(encoding="utf-8"))
    stages = {stage["command"]: stage for folder in (cfg.first, cfg.second) for stage in lineage(folder)}
    names = [(folder.parent if folder.name == "export" else folder).name for folder in (cfg.first, cfg.second)]
    said = (f" Its weights are a mean: {1 - cfg.share:.0%} of those of {names[0]} and {cfg.share:.0%} of those of "
            f"{names[1]}, whose commands stand below.")  # fmt: skip
    command = (f"python -m training.average {cfg.first} {cfg.second} --share {cfg.share} --output_dir {cfg.output_dir}"
               + (f" --rest {cfg.rest}" if cfg.rest else ""))  # fmt: skip
    kept = {key: value for key, value in run.items() if key not in ("base_model", "history", "changed_on_resume")}
    none = {"hours": 0.0, "steps": 0, "images_seen": 0, "skipped_steps": 0}
    return kept | none | {"summary": run["summary"] + said, "command": command, "earlier": list(stages.values())}


def lineage(folder: Path) -> list[dict]:
    """The stages of an export and of the local ones that it began from, oldest first."""
    run = json.loads((folder / RUN).read_text(encoding="utf-8"))
    base = Path(str(run.get("base_model") or ""))
    before = run.get("earlier") or (lineage(base) if run.get("base_model") and packing.own_file(base / RUN) else [])
    return [*before, {key: run[key] for key in STAGE if run.get(key)}]


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
