"""The fields that every training script shares, and how a command line becomes a config.

A script declares one frozen dataclass on top of `TrainConfig` and a dict of presets; `parse` reads
`--preset NAME` first and lets every other flag override that preset. Flags keep the names of the
diffusers training examples. An unknown flag is an error.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import tyro


@dataclass(frozen=True)
class TrainConfig:
    """What `training.loop.fit` needs to know. Units are in the names; a batch size is per process."""

    # Data
    dataset_name: str = "emoji"  # "emoji", "emoji-sample", a folder of pictures or parquet files, or a Hub dataset id
    dataset_config_name: str | None = None  # configuration of a Hub dataset
    image_column: str = "image"  # column that holds the pictures
    resolution: int = 64  # side of the square training picture, pixels
    skin_tones: bool = False  # also take the skin-tone variants of the emoji build
    dataloader_num_workers: int = 0  # processes that prepare samples; 0 = the training process itself
    pretrained_model_name_or_path: str | None = None  # bundled variant, folder or Hub id of a model to start from

    # Run
    output_dir: str = "runs/unnamed"  # checkpoints, metrics.jsonl, config.json, samples/ and export/ go here
    seed: int = 0  # decides weights, order of samples and every random draw
    max_train_steps: int = 10_000  # optimiser steps
    train_batch_size: int = 64  # samples per process and forward pass
    gradient_accumulation_steps: int = 1  # forward passes per optimiser step
    mixed_precision: Literal["no", "bf16"] = "no"  # bf16 is refused where the CPU has no bf16 units
    cpu: bool = False  # train on the CPU even where there is an accelerator

    # Optimiser
    optimizer: Literal["adamw", "muon"] = "adamw"  # Loshchilov & Hutter 2019; or Muon, see training/muon.py
    learning_rate: float = 3e-4
    lr_scheduler: Literal["constant", "cosine"] = "cosine"  # after the warm-up
    lr_warmup_steps: int = 200  # linear, from 0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    adam_weight_decay: float = 0.01
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm
    ema_decay: float = 0.999  # decay of the averaged weights, the ones that are evaluated and exported

    # Checkpoints, evaluation, logs
    checkpointing_steps: int = 500  # a checkpoint every so many steps, and one at the end
    checkpoints_total_limit: int = 2  # how many are kept; at least 2
    resume_from_checkpoint: str | None = None  # "latest", or a checkpoint folder of this run
    force_resume: bool = False  # resume although configuration or data changed
    validation_steps: int = 500  # evaluate and draw samples every so many steps
    logging_steps: int = 10  # one line in metrics.jsonl every so many steps
    report_to: str | None = None  # a tracker of accelerate: tensorboard, wandb, …; "all" that are installed, or "none"
    dry_run: bool = False  # print the resolved configuration and stop

    # Hub
    push_to_hub: bool = False  # push export/ when the training is done
    hub_model_id: str | None = None  # "org/name" to push to
    hub_private: bool = False  # create the repository as a private one
    hub_license: str | None = None  # the weights' licence where those of data and base model don't settle it

    @property
    def base(self) -> str:
        """The model to start from, of a config that names one."""
        assert self.pretrained_model_name_or_path is not None
        return self.pretrained_model_name_or_path

    @property
    def tracker(self) -> str | None:
        """What is reported to, None for nothing."""
        return None if self.report_to in (None, "", "none", "None") else self.report_to

    def __post_init__(self):
        """Refuse values no run can use. Raises ValueError that names the flag and its range."""
        counts = "max_train_steps train_batch_size gradient_accumulation_steps checkpointing_steps validation_steps"
        for name in (*counts.split(), "logging_steps", "resolution"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if self.checkpoints_total_limit < 2:
            raise ValueError("--checkpoints_total_limit must be at least 2: the older one is the fallback")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema_decay must lie in [0, 1), got {self.ema_decay}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"--seed must lie in [0, 2**31), got {self.seed}")
        for name in ("learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:  # NaN too: clipping to a norm of NaN makes every weight NaN
                raise ValueError(f"--{name} must be a positive number, got {getattr(self, name)}")
        if self.lr_warmup_steps < 0:
            raise ValueError(f"--lr_warmup_steps must not be negative, got {self.lr_warmup_steps}")
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("--push_to_hub needs --hub_model_id org/name")


# Fields that may differ when a run is resumed: they change where and how often things are written, not the weights.
OPERATIONAL = frozenset(
    "output_dir resume_from_checkpoint force_resume checkpointing_steps checkpoints_total_limit validation_steps "
    "logging_steps report_to dry_run push_to_hub hub_model_id hub_private hub_license dataloader_num_workers preset "
    "cpu train_batch_size gradient_accumulation_steps".split()
)

# How flags are called elsewhere, in the examples of diffusers and transformers above all: what says the same here.
HABITS: dict[str, str] = {
    name: here
    for here, names in {
        "--dataset_name": "train_data_dir instance_data_dir data_dir train_dir dataset data train_file",
        "--max_train_steps (steps, not epochs)": "num_train_epochs epochs num_epochs max_epochs max_steps",
        "--train_batch_size": "batch_size per_device_train_batch_size per_gpu_train_batch_size",
        "--pretrained_model_name_or_path": "model_name_or_path model pretrained_model base_model",
        "--learning_rate": "lr",
        "--lora_rank": "rank lora_r network_dim",
        "--mixed_precision bf16": "fp16 bf16",
        "--validation_steps": "validation_epochs eval_steps",
        "--checkpointing_steps": "save_steps checkpointing_epochs",
        "--validation_prompts": "validation_prompt",
        "--resume_from_checkpoint": "resume",
        "--output_dir": "output save_dir out_dir logging_dir",
        "--ema_decay (averaging is always on)": "use_ema",
        "--lr_warmup_steps": "warmup_steps",
        "--resolution": "image_size img_size size",
        "--optimizer": "optim use_8bit_adam",
        "a line of metadata.jsonl for each picture": "instance_prompt class_prompt class_data_dir",
    }.items()
    for name in names.split()
}
C = TypeVar("C", bound=TrainConfig)


def of_habit(argv: Sequence[str], fields: set[str]) -> str | None:
    """A sentence on the first flag that is called otherwise here; None where there is none."""
    for word in argv:
        name = word.partition("=")[0].removeprefix("--").replace("-", "_")
        if word.startswith("--") and name in HABITS and name not in fields:
            return f"--{name} is no flag of this script; here it is {HABITS[name]}. --help has them all"
    return None


def parse(presets: Mapping[str, C], argv: Sequence[str] | None = None, *, description: str = "") -> C:
    """The config that `argv` (default: the process's own) asks for; prints what of it differs from the preset.

    On `--dry_run` it prints all of it, as JSON, and stops there; a run writes it into config.json.

    Raises SystemExit(2) with the valid choices on an unknown preset, flag or value.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    name = next(iter(presets))
    for at, word in enumerate(argv):
        if word == "--preset" or word.startswith("--preset="):
            name = word.partition("=")[2] if "=" in word else (argv[at + 1] if at + 1 < len(argv) else "")
            del argv[at : at + (1 if "=" in word else 2)]
            break
    if name not in presets:
        print(f"--preset {name!r} is unknown; choose one of: {', '.join(presets)}", file=sys.stderr)
        raise SystemExit(2)
    default = presets[name]
    if said := of_habit(argv, {field.name for field in dataclasses.fields(default)}):
        print(f"error: {said}", file=sys.stderr)
        raise SystemExit(2)
    text = f"{description}\n\n--preset one of: {', '.join(presets)} (this help shows the defaults of {name!r})"
    try:
        cfg = tyro.cli(type(default), default=default, args=argv, description=text, use_underscores=True)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if cfg.dry_run:
        print(json.dumps(dataclasses.asdict(cfg), indent=2), flush=True)
        raise SystemExit(0)
    print(f"preset {name}{differences(default, cfg)}", flush=True)
    return cfg


def differences(before: TrainConfig, cfg: TrainConfig) -> str:
    """The fields in which a config differs from another, as ": name value, name value"; "" for none."""
    own = {f.name: getattr(cfg, f.name) for f in dataclasses.fields(cfg)}
    changed = [f"{key} {value}" for key, value in own.items() if value != getattr(before, key)]
    return f": {', '.join(changed)}" if changed else ""


def identity(cfg: TrainConfig, *, world_size: int = 1) -> dict:
    """The part of a config that decides the weights: what must be equal when a run is resumed.

    `max_train_steps` belongs to it only under a schedule that depends on the horizon; of the batch sizes only
    their product does, so that a run may move from one process to two.
    """
    kept = {key: value for key, value in dataclasses.asdict(cfg).items() if key not in OPERATIONAL}
    if cfg.lr_scheduler == "constant":
        del kept["max_train_steps"]
    kept["global_batch_size"] = global_batch_size(cfg, world_size)
    return json.loads(json.dumps(kept))  # as a checkpoint gives it back: tuples are lists


def defaults_of(cfg: TrainConfig) -> dict:
    """The default of each field of a config, as a checkpoint gives it back."""
    made = (
        (f.name, f.default if f.default_factory is dataclasses.MISSING else f.default_factory())
        for f in dataclasses.fields(cfg)
    )
    return json.loads(json.dumps(dict(made)))


def global_batch_size(cfg: TrainConfig, world_size: int) -> int:
    """Samples per optimiser step over all processes and accumulation steps."""
    return cfg.train_batch_size * cfg.gradient_accumulation_steps * world_size


def require_resolution(cfg: TrainConfig, side_px: int, does: str = "sees") -> None:
    """Raise SystemExit where the model to start from takes pictures of another side."""
    if side_px != cfg.resolution:
        raise SystemExit(f"{cfg.pretrained_model_name_or_path} {does} {side_px} px: set --resolution {side_px}")
