"""What a U-Net learns from: latents of pictures and states of captions, made once and kept.

Letters: B batch, R side of the picture in pixels, C × h × w a latent, L tokens, D width of the text states, N pictures,
M texts, V views of a picture (2 with flips).
"""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from hub_models import text_to_image as contract
from training.data.cache import cached
from training.data.pairs import Pairs
from training.data.recoloured import Recoloured
from training.text_to_image.config import TextToImageConfig
from training.text_to_image.few_steps import MAX_GUIDANCE
from training.text_to_image.mixture import Mixture
from training.text_to_image.selection import Selection, is_emoji


class LatentCaptions:
    """Training samples for `training.order.Samples`: a picture's latent or pixels, a caption or its states, the draws.

    {"mean", "std": (C, h, w)} from the cache, or {"pixels": (3, R, R)}; {"states": (L, D) fp16}, or {"caption": text};
    {"posterior", "noise": (C, h, w), "timestep": ()}; {"start_dropped", "scale": ()} if the config wants them.
    The draws are the same with the cache and without.
    """

    def __init__(self, selection: Selection | Recoloured | Pairs, model: contract.TextToImage, vae, cfg):
        self.selection, self.cfg, self.vae = selection, cfg, vae
        self.data_hash = selection.data_hash
        self.shape = model.latent_shape
        selection.source.preload(cfg.resolution)
        self.views = 2 if cfg.random_flip else 1
        self.latents: Any = None
        self.states: Any = None
        if not cfg.no_cache:
            self.latents = cached_latents(selection, vae, self.views, cfg.resolution)
            self.states, number = cached_states(sorted({c for texts in selection.captions for c in texts}), model)
            self.numbers = [[number[text] for text in texts] for texts in selection.captions]

    def __len__(self) -> int:
        return len(self.selection)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        view = int(torch.randint(self.views, (), generator=draw))
        which = int(torch.randint(len(self.selection.captions[index]), (), generator=draw))
        dropped = torch.rand((), generator=draw) < self.cfg.caption_dropout
        sample = {
            "timestep": torch.randint(self.cfg.num_train_timesteps, (), generator=draw),
            "noise": torch.randn(self.shape, generator=draw),
            "posterior": torch.randn(self.shape, generator=draw),
        }
        if self.cfg.few_steps:
            sample["scale"] = 1 + (MAX_GUIDANCE - 1) * torch.rand((), generator=draw)
        if self.cfg.start_dropout:
            sample["start_dropped"] = torch.rand((), generator=draw) < self.cfg.start_dropout
        if self.cfg.no_cache:
            picture = view_of(self.selection.picture(index), view)
            sample["pixels"] = self.vae.preprocess([picture])[0].cpu()
            sample["caption"] = "" if dropped else self.selection.captions[index][which]
            return sample
        row = 0 if dropped else self.numbers[index][which]
        mean, std = torch.from_numpy(np.array(self.latents[index, view]))  # (C, h, w) ×2
        return sample | {"mean": mean, "std": std, "states": torch.from_numpy(np.array(self.states[row]))}


def samples_of(
    selection: Selection, model: contract.TextToImage, vae, cfg: TextToImageConfig
) -> LatentCaptions | Mixture:
    """What a config trains on; without shares of recoloured pictures and pairs the selection alone."""
    usual = LatentCaptions(selection, model, vae, cfg)
    if not cfg.recoloured_share + cfg.pair_share:
        return usual
    if not is_emoji(selection.source) or cfg.caption_column:
        raise SystemExit("--recoloured_share and --pair_share need the emoji's names and styles: set them to 0")
    tinted = Recoloured(selection, variants=cfg.recolourings, resolution_px=cfg.resolution, keep=not cfg.no_cache)
    parts = [(cfg.recoloured_share, tinted)]
    if cfg.pair_share:
        parts.append((cfg.pair_share, Pairs(selection, tinted, count=cfg.pairs)))
    return Mixture(usual, [(share, LatentCaptions(part, model, vae, cfg)) for share, part in parts if share])


def view_of(picture: Image.Image, view: int) -> Image.Image:
    return ImageOps.mirror(picture) if view else picture


def conditions(batch: dict, model: contract.TextToImage, vae) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (B, C, h, w), drawn from their posteriors, and text states (B, L, D) of a batch, cached or not."""
    device = batch["noise"].device
    if "mean" in batch:
        mean, std, states = batch["mean"], batch["std"], batch["states"]
    else:
        model.pipe.vae.to(device), model.pipe.text_encoder.to(device)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            mean, std = vae.encode_tensor(batch["pixels"])
            # fp16, as the cache has them
            states = model.text_states(batch["caption"]).half()
    states = states.float()
    if "start_dropped" in batch:
        states = without_start(states, batch["start_dropped"], start_of_nothing(model))
    return mean + std * batch["posterior"], states


def without_start(states: torch.Tensor, dropped: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """States (B, L, D) whose first token is `start` (D,), where dropped (B,) is true.

    The text tower attends both ways, so that its first token may hold the whole prompt; a U-Net that reads that one
    alone never learns what words say. Where it holds nothing, they have to be read where they stand.
    """
    first = torch.where(dropped[:, None], start.to(states), states[:, 0])  # (B, D)
    return torch.cat([first[:, None], states[:, 1:]], dim=1)


@functools.lru_cache(maxsize=1)
def start_of_nothing(model: contract.TextToImage) -> torch.Tensor:
    """The state of the first token of "", float16 (D,) on the CPU."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        return model.text_states([""])[0, 0].half().cpu()


def cached_latents(selection: Selection | Recoloured | Pairs, vae, views: int, resolution_px: int) -> np.ndarray:
    """Posterior mean and standard deviation of each view of each picture, float32 (N, V, 2, C, h, w), on disk."""

    def build(folder: Path) -> None:
        shape = (len(selection), views, 2, *vae.latent_shape)
        made = np.lib.format.open_memmap(folder / "latents.npy", "w+", np.float32, shape)
        for at in range(0, len(selection), 64):
            part = range(at, min(at + 64, len(selection)))
            for view in range(views):
                pair = vae.encode([view_of(selection.picture(i), view) for i in part])  # (B, C, h, w) ×2
                made[part.start : part.stop, view] = torch.stack(pair, dim=1).cpu().numpy()
        made.flush()
        print(f"latents of {len(selection)} pictures made once: {made.nbytes / 2**20:.0f} MiB", flush=True)

    key = {"data": selection.data_hash, "weights": vae.weights_sha256, "views": views, "resolution": resolution_px}
    key["ground"] = list(vae.ground)
    return np.load(cached("latents", key, build) / "latents.npy", mmap_mode="r")


def cached_states(texts: list[str], model: contract.TextToImage) -> tuple[np.ndarray, dict[str, int]]:
    """States of each text, float16 (M, L, D), on disk, and {text: its row}. Row 0 is that of ""."""
    texts = ["", *(text for text in texts if text)]

    def build(folder: Path) -> None:
        shape = (len(texts), *model.text_states([""]).shape[1:])
        made = np.lib.format.open_memmap(folder / "states.npy", "w+", np.float16, shape)
        for at in range(0, len(texts), 128):
            made[at : at + 128] = model.text_states(texts[at : at + 128]).half().cpu().numpy()
        made.flush()
        print(f"states of {len(texts)} captions made once: {made.nbytes / 2**20:.0f} MiB", flush=True)

    tokenizer = hashlib.sha256(json.dumps(sorted(model.pipe.tokenizer.get_vocab().items())).encode()).hexdigest()
    said, weights = hashlib.sha256(json.dumps(texts).encode()).hexdigest(), tensors_sha256(model.pipe.text_encoder)
    key = {"texts": said, "tokenizer": tokenizer, "weights": weights, "length": model.max_length}
    states = np.load(cached("states", key, build) / "states.npy", mmap_mode="r")
    return states, {text: row for row, text in enumerate(texts)}


def tensors_sha256(model: torch.nn.Module) -> str:
    """One hash of a model's weights, wherever they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
