"""What a tower that was trained without labels makes of a picture: one vector, and one for each of its places.

A model folder is timm's own with no classes in it: config.json (architecture, num_classes 0, model_args,
pretrained_cfg) and model.safetensors; `timm.create_model("local-dir:…", pretrained=True, num_classes=0)` opens it.

Letters: B pictures, R pixels a side, D features, h × w places, P tokens that are no place of the picture.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import resolve_model_data_config

from hub_models import attention, building, explain, store, timm_folders
from hub_models.device import default_device
from hub_models.pictures import frame
from hub_models.store import CheckpointError
from hub_models.worlds import World, world_of


class Tower:
    """A timm model without a class layer, and its pre-processing. Build it with `load`."""

    world: World | None = None  # of the pictures that it was trained on, where its folder has it
    folder: Path | None = None  # that it was loaded from

    def __init__(self, model: Any, *, name: str = "in training", weights_sha256: str = ""):
        """model: a timm model with num_classes = 0; what it is made of is typed as Tensor | Module."""
        data = resolve_model_data_config(model)
        self.model = model
        self.name = name
        self.weights_sha256 = weights_sha256
        self.resolution_px: int = data["input_size"][-1]
        self.mean, self.std = tuple(data["mean"]), tuple(data["std"])
        self.parameters = sum(p.numel() for p in model.parameters())
        self.width: int = model.num_features  # D

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def preprocess(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """The pictures as the model wants them, (B, 3, R, R): framed (see `frame`), then (x - mean) / std."""
        pixels = np.stack([np.asarray(frame(image, self.resolution_px)) for image in images])  # (B, R, R, 3)
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255  # (B, 3, R, R)
        mean, std = (torch.tensor(three).view(3, 1, 1) for three in (self.mean, self.std))
        return ((x - mean) / std).to(self.device)

    @torch.inference_mode()
    def features(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """One vector a picture, pooled as the model pools: (B, D), on the CPU."""
        return self.model(self.preprocess(images)).float().cpu()

    @torch.inference_mode()
    def tokens(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """One vector for each place of the last layer, after its norm: (B, h, w, D), on the CPU."""
        return places_of(self.model, self.model.forward_features(self.preprocess(images))).float().cpu()

    def token_maps(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """What each layer says of each place of the pictures, (B, h, w, D) float32 each: blocks of a ViT, or stages.

        Raises ValueError for a model that doesn't give them.
        """
        return explain.token_maps(self.model, self.preprocess(images))

    @property
    def depth(self) -> int:
        """How many blocks `looked` can look into; 0 where it can't look into any."""
        return attention.depth(self.model)

    def looked(self, image: Image.Image, number: int, row: float, column: float) -> attention.Looked:
        """Where a place of the picture looks in a block, head by head: `attention.looked`."""
        return attention.looked(self.model, self.preprocess([image]), number, row, column)


def places_of(model: Any, states: torch.Tensor) -> torch.Tensor:
    """The states of a timm model's last layer by place, (B, h, w, D).

    states: of `forward_features`: (B, P + h·w, D), (B, h, w, D) or (B, D, h, w), as the architecture has them.
    """
    if states.ndim == 3:
        states = states[:, getattr(model, "num_prefix_tokens", 0) :]
        return states.unflatten(1, tuple(model.patch_embed.grid_size))
    return states if getattr(model, "output_fmt", "NCHW") == "NHWC" else states.permute(0, 2, 3, 1)


def load(name: str | Path, device: str | torch.device | None = None) -> Tower:
    """The tower of a bundled variant, a folder or a Hub repo of a timm model ("org/repo[@revision]"); fp32, eval.

    A class layer, where the folder has one, is left away. Raises store.CheckpointError, which names the file at fault.
    """
    folder = store.resolve("pretrain", name)
    with store.opening(folder):
        model = timm_folders.opened(folder, "this needs a tower of timm, as training/pretrain exports it")
        size = resolve_model_data_config(model)["input_size"]
        if size[0] != 3 or size[1] != size[2]:
            raise CheckpointError(f"{folder}: its input is {tuple(size)}; this needs a tower of square RGB pictures")
        if model.num_classes:
            model.reset_classifier(0)
        sha256, world = store.weights_sha256(folder), world_of(folder)
    served = Tower(model.to(device or default_device()), name=str(name), weights_sha256=sha256)
    served.world, served.folder = world, folder
    return served


def untrained(folder: Path, seed: int = 0) -> Any:
    """A timm model of the architecture in a folder, without a class layer, with fresh weights: nothing learned.

    folder: one that `load` has opened.
    """
    with torch.random.fork_rng(devices=[]), building.as_large_as_its_weights(folder):
        torch.manual_seed(seed)
        model: Any = timm.create_model(f"local-dir:{folder}", pretrained=False, num_classes=0)
    return model.eval().requires_grad_(False)


def save_folder(folder: Path, tower: Tower) -> None:
    """Write timm's own layout: config.json (architecture, arguments, normalisation) and model.safetensors."""
    timm.models.save_for_hf(tower.model, str(folder), model_config={"num_classes": 0}, safe_serialization=True)
