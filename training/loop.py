"""The one training loop.

Letters: B samples per process and forward pass, A accumulation steps, W processes, G = A·W·B samples per optimiser step.

Exact resume comes from a stateless design: which sample stands where is a function of (seed, epoch), and every random
draw a function of (seed, step, position in the global batch). Nothing about the data order has to be saved, and one
process or two draw the same numbers.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import random
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from training import checkpoint
from training.checkpoint import RunError
from training.config import TrainConfig, global_batch_size, identity
from training.muon import Muon, muon_groups

MAX_SKIPPED_IN_A_ROW = 10


class Samples(Protocol):
    """What `fit` trains on: `len()`, a hash of the content, and sample(index, draw) -> {name: tensor}.

    `draw` is a torch.Generator that is a function of (seed, step, position): all randomness of a sample comes from it.
    """

    data_hash: str

    def __len__(self) -> int: ...

    def sample(self, index: int, draw: torch.Generator) -> dict[str, Any]: ...


def draw_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on all parts: the same on every machine, process and Python version."""
    text = ":".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def sample_order(length: int, seed: int, start: int, count: int) -> np.ndarray:
    """Indices (count,) int64 that stand at places start … start + count - 1 of the endless sequence of epochs.

    Epoch e is a permutation of range(length) drawn from (seed, e); the last samples of an epoch share a batch with the
    first of the next, so none is left out.
    """
    taken = []
    while count > 0:
        epoch, offset = divmod(start, length)
        order = np.random.default_rng(draw_seed("order", seed, epoch)).permutation(length)[offset : offset + count]
        taken.append(order)
        start, count = start + len(order), count - len(order)
    return np.concatenate(taken)


class _Draws(Dataset):
    """Map-style view of `Samples` whose keys are (step, position, index)."""

    def __init__(self, samples: Samples, seed: int):
        self.samples, self.seed = samples, seed

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        step, position, index = key
        draw = torch.Generator().manual_seed(draw_seed("sample", self.seed, step, position))
        return self.samples.sample(index, draw)


class _Schedule:
    """Batches of keys for one process, from the first batch of `start_step` on: A batches of B keys per step."""

    def __init__(self, length: int, cfg: TrainConfig, start_step: int, rank: int, world: int):
        self.length, self.cfg, self.start_step, self.rank, self.world = length, cfg, start_step, rank, world

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        batch, whole = self.cfg.train_batch_size, global_batch_size(self.cfg, self.world)
        for step in range(self.start_step, self.cfg.max_train_steps):
            order = sample_order(self.length, self.cfg.seed, step * whole, whole)
            for part in range(self.cfg.gradient_accumulation_steps):
                first = (part * self.world + self.rank) * batch
                yield [(step, place, int(order[place])) for place in range(first, first + batch)]


def learning_rate_factor(step: int, cfg: TrainConfig) -> float:
    """Factor in [0, 1] on the learning rate of 0-based optimiser step `step`: linear warm-up, then constant or cosine.

    Counted in optimiser steps, whatever the number of processes (Loshchilov & Hutter 2017 for the cosine).
    """
    if step < cfg.lr_warmup_steps:
        return (step + 1) / cfg.lr_warmup_steps
    if cfg.lr_scheduler == "constant":
        return 1.0
    done = (step - cfg.lr_warmup_steps) / max(1, cfg.max_train_steps - cfg.lr_warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """AdamW's parameter groups: matrices and kernels decay; biases, gains and other vectors don't."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def parameter_groups(model: torch.nn.Module, cfg: TrainConfig) -> list[dict]:
    """The groups that --optimizer wants, each with its weight decay."""
    by = muon_groups if cfg.optimizer == "muon" else decay_groups
    return by(model, cfg.adam_weight_decay)


def check_precision(mixed_precision: str, device: torch.device) -> None:
    """Refuse bf16 on a CPU that would emulate it (75 times slower, measured). Raises RunError with the reason."""
    if mixed_precision == "bf16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        capability = torch.backends.cpu.get_cpu_capability()
        raise RunError(
            f"--mixed_precision bf16: this CPU ({capability}) has no bf16 units and would be far slower than in fp32; "
            "leave the flag out"
        )


def plain_attention(model: torch.nn.Module) -> None:
    """Let the models of transformers in it attend by plain matrix products instead of PyTorch's fused attention.

    Without a GPU a step in bf16 then takes 0.65 (a Swin with windows of 4) or 0.6 (a ViT) of the time. It isn't saved.
    """
    for part in model.modules():
        if hasattr(part, "set_attn_implementation"):
            part.set_attn_implementation("eager")


@contextlib.contextmanager
def ema_weights(model: torch.nn.Module, ema: EMAModel) -> Iterator[torch.nn.Module]:
    """`model` in eval mode with the averaged weights in place of its own, for the time of the block."""
    ema.store(model.parameters())
    ema.copy_to(model.parameters())
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        ema.restore(model.parameters())
        model.train(training)


def fit(
    model: torch.nn.Module,
    loss_fn: Callable[[torch.nn.Module, Any], tuple[torch.Tensor, dict[str, Any]]],
    samples: Samples,
    cfg: TrainConfig,
    *,
    run_dir: Path | str,
    evaluate: Callable[[torch.nn.Module], dict[str, float]] | None = None,
    draw_samples: Callable[[torch.nn.Module], Any] | None = None,
    export: Callable[[torch.nn.Module, Path, dict], list[str]] | None = None,
    parameter_groups: list[dict] | None = None,
) -> torch.nn.Module:
    """Train for cfg.max_train_steps optimiser steps and return the model with its averaged (EMA) weights.

    loss_fn(model, batch) -> (scalar, {name: number}); called with the global generators of random, numpy and torch
    seeded from (seed, step, process), so a dropout is resumed exactly too.
    samples: see `Samples`; batches are its samples collated by torch's default rule.
    evaluate(ema_model) -> {name: number} and draw_samples(ema_model) -> PIL image: every cfg.validation_steps steps.
    export(ema_model, folder, run) -> names of the files that would be pushed: tried on the untrained model before
    step 1, as evaluate is, so that nothing fails after hours, and called with the trained one at the end
    (folder = run_dir/export).
    `run` = {"steps", "images_seen", "hours", "hardware", "seed", …}.
    parameter_groups: AdamW groups with "lr_scale" where a layer learns slower than cfg.learning_rate.

    Raises RunError (another run holds the folder, resume with another configuration, disk full, ten non-finite
    batches in a row). SIGTERM and SIGINT save and exit with 143 and 130; a second signal exits at once.
    """
    accelerator = Accelerator(
        mixed_precision=cfg.mixed_precision, cpu=cfg.cpu, log_with=cfg.report_to, project_dir=str(run_dir)
    )
    check_precision(cfg.mixed_precision, accelerator.device)
    if accelerator.device.type == "cpu":
        plain_attention(model)
    run = Path(run_dir)
    with contextlib.ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(checkpoint.locked(run))
        accelerator.wait_for_everyone()
        return _Run(
            accelerator, model, loss_fn, samples, cfg, run, evaluate, draw_samples, export, parameter_groups
        ).go()


class _Run:
    """The state of one `fit` call, so that its phases read as functions of their own."""

    def __init__(self, accelerator, model, loss_fn, samples, cfg, run_dir, evaluate, draw_samples, export, groups):
        self.accelerator, self.loss_fn, self.samples, self.cfg, self.run_dir = (
            accelerator,
            loss_fn,
            samples,
            cfg,
            run_dir,
        )
        self.evaluate, self.draw_samples, self.export = evaluate, draw_samples, export
        self.main, self.world = accelerator.is_main_process, accelerator.num_processes
        self.whole = global_batch_size(cfg, self.world)
        if not len(samples):
            raise RunError("the training set is empty: check --dataset_name and its split")
        groups = groups or parameter_groups(model, cfg)
        for group in groups:
            group.setdefault("lr_scale", 1.0)
        settings = {"lr": cfg.learning_rate, "betas": (cfg.adam_beta1, cfg.adam_beta2)}
        if cfg.optimizer == "muon":
            optimizer = Muon(groups, dtype=torch.float32 if cfg.mixed_precision == "no" else torch.bfloat16, **settings)
        else:
            optimizer = torch.optim.AdamW(groups, **settings)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.bare = accelerator.unwrap_model(self.model)
        self.ema = EMAModel(self.bare.parameters(), decay=cfg.ema_decay)
        self.ema.to(accelerator.device)
        self.step, self.seconds, self.skipped, self.in_a_row = 0, 0.0, 0, 0
        self.window: list[dict[str, float]] = []  # the finite numbers of each step since the last line of the log
        self.received: int | None = None  # the signal this process got
        self.signal: int | None = None  # the one that all processes agreed to act upon
        self.hardware, self.forced = _hardware(accelerator), []

    # --- the phases ------------------------------------------------------------------------------------------------

    def go(self) -> torch.nn.Module:
        cfg = self.cfg
        self._start_or_resume()
        if self.main:
            self.run_dir.joinpath("config.json").write_text(json.dumps(dataclasses.asdict(cfg), indent=2) + "\n")
        if cfg.report_to:
            plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in dataclasses.asdict(cfg).items()}
            self.accelerator.init_trackers("vitrail", plain)  # TensorBoard takes no tuples
        loader = DataLoader(
            _Draws(self.samples, cfg.seed),
            batch_sampler=_Schedule(len(self.samples), cfg, self.step, self.accelerator.process_index, self.world),
            num_workers=cfg.dataloader_num_workers,
            persistent_workers=False,
            pin_memory=self.accelerator.device.type == "cuda",
            worker_init_fn=_one_thread,
            collate_fn=default_collate,
        )
        if self.step == 0:
            self._preflight()
        with _signals(self._on_signal):
            self._train(iter(loader))
        self.ema.copy_to(self.bare.parameters())
        self.bare.eval()
        if self.main and self.export:
            folder = self.run_dir / "export"
            shutil.rmtree(folder, ignore_errors=True)
            self.export(self.bare, folder, self._facts())
            self._say(f"exported the averaged weights to {folder}")
        if cfg.report_to:
            self.accelerator.end_training()
        return self.bare

    def _start_or_resume(self) -> None:
        cfg, found = self.cfg, None
        self.identity = identity(cfg, world_size=self.world) | {"data_hash": self.samples.data_hash}
        if cfg.resume_from_checkpoint:
            found = checkpoint.find(self.run_dir, cfg.resume_from_checkpoint, say=self._say)
            if found is None:
                self._say(f"nothing to resume in {self.run_dir}: starting from scratch")
        elif checkpoint.found(self.run_dir):
            raise RunError(
                f"{self.run_dir} holds the checkpoints of an earlier run: continue it with "
                "--resume_from_checkpoint latest, or choose another --output_dir"
            )
        log = self.run_dir / "metrics.jsonl"
        if found is None:
            if self.main:
                log.write_text("")
            return
        # A field that is younger than the checkpoint had its default then.
        before = {field.name: field.default for field in dataclasses.fields(cfg)} | found.state["identity"]
        changed = {k: (before.get(k), v) for k, v in self.identity.items() if before.get(k) != v}
        if changed:
            text = ", ".join(f"{key} was {old!r} and is {new!r}" for key, (old, new) in changed.items())
            if not cfg.force_resume:
                raise RunError(f"{found.path.name} belongs to another configuration: {text}. Restore it, choose another "
                               "--output_dir, or resume all the same with --force_resume")  # fmt: skip
            self._say(f"resuming although {text}")
            self.forced = [f"from step {found.step} on, {text}"]
        self.bare.load_state_dict(found.tensors("model"))
        averaged = found.tensors("ema")
        for number, shadow in enumerate(self.ema.shadow_params):
            shadow.data.copy_(averaged[str(number)])
        self.ema.optimization_step = found.step - found.state["skipped"]
        checkpoint.load_optimizer_tensors(self.optimizer, found.tensors("optimizer"))
        self.forced = found.state.get("forced", []) + self.forced
        if found.step >= self.cfg.max_train_steps:  # nothing left to train: what trained is what saved it
            self.hardware = found.state["hardware"]
        self.step, self.seconds, self.skipped = found.step, found.state["seconds"], found.state["skipped"]
        self.in_a_row, self.window = found.state["in_a_row"], found.state["window"]
        if self.main and log.exists():
            kept = [line for line in log.read_text().splitlines() if _step_of(line) <= self.step]
            checkpoint.write_atomically(log, "".join(line + "\n" for line in kept))
        self.accelerator.wait_for_everyone()
        self._say(f"resumed {found.path.name}: {self.cfg.max_train_steps - self.step} steps to go")

    def _preflight(self) -> None:
        """One measured step that changes nothing, and an export and an evaluation of the untrained model."""
        buffers = {name: value.clone() for name, value in self.bare.named_buffers()}
        dataset, schedule = _Draws(self.samples, self.cfg.seed), _Schedule(
            len(self.samples), self.cfg, 0, self.accelerator.process_index, self.world)  # fmt: skip
        keys = next(iter(schedule))
        began = time.perf_counter()
        batch = self._to_device(default_collate([dataset[key] for key in keys]))
        self._seed(0)
        loss, _ = self.loss_fn(self.model.train(), batch)
        self.accelerator.backward(loss)
        self.optimizer.zero_grad()
        seconds = (time.perf_counter() - began) * self.cfg.gradient_accumulation_steps
        with torch.no_grad():
            for name, value in self.bare.named_buffers():
                value.copy_(buffers[name])
        ends = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + seconds * self.cfg.max_train_steps))
        peak = (torch.cuda.max_memory_allocated() if self.accelerator.device.type == "cuda"
                else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)  # fmt: skip
        parameters = sum(p.numel() for p in self.bare.parameters())
        self._say(
            f"{parameters / 1e6:.2f}M parameters, {len(self.samples)} samples, {self.whole} per step on "
            f"{self.accelerator.device} × {self.world}; one measured step: {seconds:.2f} s, so the run ends about {ends}; "
            f"peak memory so far {peak / 2**20:.0f} MiB"
        )
        if self.main and self.export:
            folder = self.run_dir / "preflight"
            shutil.rmtree(folder, ignore_errors=True)
            names = self.export(self.bare, folder, self._facts())
            shutil.rmtree(folder)
            self._say("export works; a push would take: " + ", ".join(names))
        self._evaluate()  # of the untrained model: step 0 of the curve, and proof that it works

    def _train(self, batches: Iterator) -> None:
        cfg = self.cfg
        bar = tqdm(total=cfg.max_train_steps, initial=self.step, unit="step", disable=not self.main or None,
                   dynamic_ncols=True)  # fmt: skip
        logged_step, logged_seconds, mark = self.step, self.seconds, time.perf_counter()
        while self.step < cfg.max_train_steps:
            numbers = self._optimise(batches)
            self.step += 1
            self.window.append({key: value for key, value in numbers.items() if math.isfinite(value)})
            now = time.perf_counter()
            self.seconds, mark = self.seconds + now - mark, now
            if self.step % cfg.logging_steps == 0 or self.step == cfg.max_train_steps:
                rate = (self.step - logged_step) * self.whole / max(self.seconds - logged_seconds, 1e-9)
                keys = dict.fromkeys(key for numbers in self.window for key in numbers)
                means = {key: float(np.mean([n[key] for n in self.window if key in n])) for key in keys}
                now_at = {"lr": cfg.learning_rate * learning_rate_factor(self.step - 1, cfg), "skipped_steps": self.skipped,
                          "images_per_second": round(rate, 2), "seconds": round(self.seconds, 1)}  # fmt: skip
                self._log(means | now_at)
                bar.set_postfix_str(f"loss {means.get('loss', math.nan):.4f}, {rate:.1f} images/s")
                self.window, logged_step, logged_seconds = [], self.step, self.seconds
            bar.update()
            last = self.step == cfg.max_train_steps
            if self.step % cfg.validation_steps == 0 or last:
                self._evaluate()
            if self.step % cfg.checkpointing_steps == 0 or last or self.signal:
                self._save()
            if self.signal:
                bar.close()
                self._say(f"signal {self.signal}: saved step {self.step}; go on with --resume_from_checkpoint latest")
                raise SystemExit(128 + self.signal)
            if self.step % cfg.validation_steps == 0 or self.step % cfg.checkpointing_steps == 0:
                mark = time.perf_counter()  # evaluation and saving are not training time
        bar.close()

    # --- one step --------------------------------------------------------------------------------------------------

    def _optimise(self, batches: Iterator) -> dict[str, float]:
        """One optimiser step over A forward passes; a step with a non-finite loss or gradient is skipped and counted."""
        cfg, parts = self.cfg, self.cfg.gradient_accumulation_steps
        self.model.train()
        factor = learning_rate_factor(self.step, cfg)
        for group in self.optimizer.param_groups:
            group["lr"] = cfg.learning_rate * factor * group["lr_scale"]
        total, extra = torch.zeros((), device=self.accelerator.device), {}
        buffers = [(buffer, buffer.clone()) for buffer in self.bare.buffers()]
        for part in range(parts):
            batch = self._to_device(next(batches))
            self._seed(self.step * parts + part)
            with contextlib.nullcontext() if part == parts - 1 else self.accelerator.no_sync(self.model):
                with self.accelerator.autocast():
                    loss, numbers = self.loss_fn(self.model, batch)
                self.accelerator.backward(loss / parts)
            total += loss.detach() / parts
            extra = numbers
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), cfg.max_grad_norm)
        stop = float(self.received or 0)
        # One collective per step: mean loss, worst gradient, whether any process was told to stop.
        seen = torch.stack([total.float(), norm.float().to(total.device), torch.tensor(stop, device=total.device)])
        seen = self.accelerator.gather(seen[None])  # (W, 3)
        loss, norm = seen[:, 0].mean().item(), seen[:, 1].max().item()
        if told := int(torch.nan_to_num(seen[:, 2]).max().item()):
            self.signal = told
        if math.isfinite(loss) and torch.isfinite(seen[:, 1]).all():
            self.optimizer.step()
            self.ema.step(self.bare.parameters())
            self.in_a_row = 0
        else:
            with torch.no_grad():  # running statistics have seen the bad batch
                for buffer, before in buffers:
                    buffer.copy_(before)
            self._skip(loss, norm)
        self.optimizer.zero_grad()
        return {"loss": loss, "grad_norm": norm} | {key: float(value) for key, value in extra.items()}

    def _skip(self, loss: float, norm: float) -> None:
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        order = sample_order(len(self.samples), self.cfg.seed, self.step * self.whole, self.whole)
        self._say(f"step {self.step + 1} skipped: loss {loss}, gradient norm {norm}; samples {order[:16].tolist()} …")
        if self.in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise RunError(
                f"{self.in_a_row} steps in a row had a non-finite loss or gradient, the last on samples "
                f"{order.tolist()} of {self.cfg.dataset_name}: look at these samples, lower --learning_rate, or use "
                "--mixed_precision no. The newest checkpoint is from before"
            )

    def _seed(self, number: int) -> None:
        seed = draw_seed("global", self.cfg.seed, number, self.accelerator.process_index)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        if self.accelerator.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _to_device(self, batch: Any) -> Any:
        return {key: value.to(self.accelerator.device, non_blocking=True) if torch.is_tensor(value) else value
                for key, value in batch.items()}  # fmt: skip

    # --- what is written -------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        if self.main and self.evaluate:
            with ema_weights(self.bare, self.ema) as model:
                self._log({f"validation/{key}": value for key, value in self.evaluate(model).items()}, show=True)
                if self.draw_samples:
                    folder = self.run_dir / "samples"
                    folder.mkdir(exist_ok=True)
                    self.draw_samples(model).save(folder / f"step-{self.step:07d}.png")
        self.accelerator.wait_for_everyone()

    def _save(self) -> None:
        if self.main:
            tensors = {
                "model": self.bare.state_dict(),
                "ema": {str(number): shadow for number, shadow in enumerate(self.ema.shadow_params)},
                "optimizer": checkpoint.optimizer_tensors(self.optimizer),
            }
            state = {"identity": self.identity, "seconds": self.seconds, "skipped": self.skipped,
                     "in_a_row": self.in_a_row, "window": self.window,
                     "hardware": self.hardware, "forced": self.forced}  # fmt: skip
            checkpoint.save(self.run_dir, self.step, tensors, state, keep=self.cfg.checkpoints_total_limit)
        self.accelerator.wait_for_everyone()

    def _log(self, numbers: dict[str, float], *, show: bool = False) -> None:
        if not self.main:
            return
        with open(self.run_dir / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": self.step} | numbers) + "\n")
        if self.cfg.report_to:
            self.accelerator.log(numbers, step=self.step)
        if show:
            self._say(f"step {self.step}: " + ", ".join(f"{key} {value:.4g}" for key, value in numbers.items()))

    def _facts(self) -> dict:
        """What a model card says about the run; numbers are those of this run so far."""
        return {
            "steps": self.step,
            "images_seen": self.step * self.whole,
            "hours": round(self.seconds / 3600, 2),
            "hardware": self.hardware,
            "seed": self.cfg.seed,
            "skipped_steps": self.skipped,
            "changed_on_resume": self.forced,
            "data_hash": self.samples.data_hash,
            "config": {
                key: value
                for key, value in dataclasses.asdict(self.cfg).items()
                if key not in ("output_dir", "resume_from_checkpoint", "force_resume")
            },  # not this machine's
            "history": _history(self.run_dir / "metrics.jsonl"),
        }

    def _say(self, text: str) -> None:
        if self.main:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def _on_signal(self, number: int, _frame: Any) -> None:
        if self.received:
            raise SystemExit(128 + number)
        self.received = number
        if self.world == 1:  # else all must stop at the same step: they tell each other in `_optimise`
            self.signal = number


@contextlib.contextmanager
def _signals(handler: Callable) -> Iterator[None]:
    """SIGTERM and SIGINT go to `handler` for the time of the block (main thread only, as Python has it)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _one_thread(_worker: int) -> None:
    """A sample worker keeps to one core, and leaves the signals to the training process."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _hardware(accelerator: Accelerator) -> str:
    if accelerator.device.type == "cuda":
        return f"{accelerator.num_processes} × {torch.cuda.get_device_name()}"
    return f"{accelerator.num_processes} × CPU process, {torch.get_num_threads()} threads"


def _history(log: Path, points: int = 200) -> dict[str, list[list[float]]]:
    """{"loss" and every validation score: [[step, value], …]} of a metrics.jsonl; the loss as means over `points` spans."""
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    history = {"loss": [[row["step"], row["loss"]] for row in rows if "loss" in row and math.isfinite(row["loss"])]}
    span = -(-len(history["loss"]) // points) or 1
    parts = [history["loss"][at : at + span] for at in range(0, len(history["loss"]), span)]
    history["loss"] = [[part[-1][0], round(float(np.mean([value for _, value in part])), 6)] for part in parts]
    for row in rows:
        for key, value in row.items():
            if key.startswith("validation/"):
                history.setdefault(key, []).append([row["step"], round(value, 6)])
    return {key: value for key, value in history.items() if value}


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return math.inf  # a line cut in the middle by a kill
