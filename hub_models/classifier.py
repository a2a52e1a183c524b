"""What is in a picture: any timm classifier, its top labels, and maps of where it looked.

A model folder is timm's own: config.json (architecture, num_classes, label_names, model_args, pretrained_cfg) and
model.safetensors; `timm.create_model("local-dir:…", pretrained=True)` opens it. Nothing is added to it.

A model of four input planes is one for noisy pictures, such as guide a diffusion model: its fourth plane says how much
noise there is, √(1 - ᾱ) at every pixel, 0 for a clean picture.

Letters: B pictures, R pixels a side, K labels, D features, N tokens of which the last P are patches, h × w cells.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_model_data_config

from hub_models import explain, store, timm_folders, windows
from hub_models.attention import probabilities
from hub_models.device import default_device
from hub_models.pictures import frame
from hub_models.store import CheckpointError
from hub_models.worlds import World, world_of


@dataclass(frozen=True)
class Occlusion:
    """An occlusion map as far as it is drawn. Positions still to come are 0."""

    done: int  # positions tried so far
    total: int
    drop: np.ndarray  # (h, w) float32: probability of the label without the patch minus with it, per position


class Classifier:
    """A timm model with its labels and its pre-processing. Build it with `load`."""

    world: World | None = None  # of the pictures that it was trained on, where its folder has it

    def __init__(self, model: Any, label_names: Sequence[str], *, name: str, weights_sha256: str):
        """model: a timm model; what it is made of is typed as Tensor | Module."""
        data = resolve_model_data_config(model)
        self.model = model
        self.label_names = list(label_names)
        self.name = name
        self.weights_sha256 = weights_sha256
        self.resolution_px: int = data["input_size"][-1]
        self.parameters = sum(p.numel() for p in model.parameters())
        self.device = next(model.parameters()).device
        self.mean = torch.tensor(data["mean"][:3]).view(3, 1, 1)  # a fourth plane goes in as it is
        self.std = torch.tensor(data["std"][:3]).view(3, 1, 1)
        self.reads_noise = data["input_size"][0] == 4

    @property
    def has_attention(self) -> bool:
        """Whether `attention_rollout` works: a plain ViT whose patches all attend to each other."""
        return windows.attends_to_all(self.model)

    def preprocess(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """The pictures as the model wants them, (B, 3, R, R): framed (see `frame`), then (x - mean) / std.

        For a model of noisy pictures (B, 4, R, R), the last plane saying that there is no noise.
        """
        pixels = np.stack([np.asarray(frame(image, self.resolution_px)) for image in images])  # (B, R, R, 3)
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255  # (B, 3, R, R)
        x = ((x - self.mean) / self.std).to(self.device)
        return with_noise_plane(x, 1.0) if self.reads_noise else x

    def gradient(self, x_t: torch.Tensor, alpha_bar: float, labels: Sequence[str | None]) -> torch.Tensor:
        """∇ log p(label | x_t) at noisy pictures, (B, 3, R, R), 0 for a picture without a label: what guides diffusion.

        x_t: (B, 3, R, R), √ᾱ x_0 + √(1 - ᾱ) ε of pictures x_0 in [-1, 1]. Dhariwal & Nichol 2021, §4.
        Raises ValueError for a model that doesn't read noise, a label it doesn't know, or pictures of another size.
        """
        if not self.reads_noise:
            raise ValueError(f"{self.name} has seen no noise: guidance needs a classifier of noisy pictures")
        if x_t.shape[-2:] != (self.resolution_px, self.resolution_px):
            raise ValueError(f"{self.name} sees {self.resolution_px} px, these pictures have {x_t.shape[-1]}")
        if unknown := [label for label in labels if label is not None and label not in self.label_names]:
            raise ValueError(f"{self.name} knows no label {unknown[0]!r}: one of {', '.join(self.label_names[:20])}")
        rows = [0 if label is None else self.label_names.index(label) for label in labels]
        asked = torch.tensor([label is not None for label in labels], device=x_t.device)  # (B,)
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            shown = (x * 0.5 + 0.5 - self.mean.to(x)) / self.std.to(x)  # of [0, 1], as pictures are shown to it
            log_p = self.model(with_noise_plane(shown, alpha_bar)).log_softmax(-1)  # (B, K)
            (log_p[torch.arange(len(rows)), rows] * asked).sum().backward()
        assert x.grad is not None
        return x.grad

    @torch.inference_mode()
    def logits(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Scores before the softmax, (B, K), on the CPU."""
        return self.model(self.preprocess(images)).float().cpu()

    def predict(self, images: Sequence[Image.Image], top_k: int = 5) -> list[list[tuple[str, float]]]:
        """The `top_k` most probable labels of each picture with their probabilities, best first."""
        probabilities, indices = self.logits(images).softmax(-1).topk(min(top_k, len(self.label_names)))  # (B, k)
        return [
            [(self.label_names[i], p) for i, p in zip(row_i, row_p, strict=True)]
            for row_i, row_p in zip(indices.tolist(), probabilities.tolist(), strict=True)
        ]

    @torch.inference_mode()
    def features(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """What the last layer is given, pooled: (B, D), on the CPU."""
        x = self.model.forward_features(self.preprocess(images))
        return self.model.forward_head(x, pre_logits=True).float().cpu()

    @torch.inference_mode()
    def attention_rollout(self, image: Image.Image) -> np.ndarray:
        """How much each patch flows into the answer by attention, (h, w) float32 stretched to [0, 1]; ViT only.

        The product over the layers of (A + I) / 2, A being the attention averaged over heads, read at the class token,
        or averaged over the patches where the model pools those. Abnar & Zuidema 2020, eq. 1.
        Raises ValueError where `has_attention` is False.
        """
        if not self.has_attention:
            raise ValueError(f"{self.name} has no global attention to roll out: choose a plain ViT")
        vit = self.model
        x = explain.embedded(vit, self.preprocess([image]))  # (1, N, D)
        rollout = torch.eye(x.shape[1], device=x.device)  # (N, N)
        for block in vit.blocks:
            attention = probabilities(block.attn, block.norm1(x)).mean(1)[0]  # (N, N), rows sum to 1
            rollout = (attention + torch.eye(len(attention), device=x.device)) / 2 @ rollout
            x = block(x)
        prefix = vit.num_prefix_tokens
        row = rollout[0] if vit.global_pool == "token" else rollout[prefix:].mean(0)  # (N,)
        return _stretch(row[prefix:].reshape(vit.patch_embed.grid_size).cpu().numpy())

    def saliency(self, image: Image.Image, label: str) -> np.ndarray:
        """How fast the score of `label` changes with each pixel, (R, R) float32: `explain.saliency`.

        Raises ValueError for an unknown label.
        """
        return explain.saliency(self.model, self.preprocess([image]), self._index(label), self.std)

    def grad_cam(self, image: Image.Image, label: str) -> np.ndarray:
        """What in the last layer speaks for `label`, and where, (h, w) float32 from 0 up: `explain.grad_cam`.

        Raises ValueError for an unknown label, and a model without such a layer.
        """
        return explain.grad_cam(self.model, self.preprocess([image]), self._index(label))

    def token_maps(self, image: Image.Image) -> list[np.ndarray]:
        """What each layer says of each place of the picture, (h, w, D) float32 each: `explain.token_maps`.

        Raises ValueError for a model that doesn't give them.
        """
        return [maps[0] for maps in explain.token_maps(self.model, self.preprocess([image]))]

    @property
    def layers(self) -> list[int]:
        """Cells a side of each of `token_maps`, about; [] where it doesn't give them."""
        found = getattr(self.model, "feature_info", None) if hasattr(self.model, "forward_intermediates") else None
        return [self.resolution_px // info["reduction"] for info in found or ()]

    def blocks(self) -> list[windows.Block]:
        """The blocks that the patches of a picture pass. Raises ValueError as `windows.blocks`."""
        return windows.blocks(self.model)

    @property
    def patches(self) -> tuple[int, int]:
        """Rows and columns of patches that a model with `blocks` cuts a picture into."""
        return tuple(self.model.patch_embed.grid_size)

    def _index(self, label: str) -> int:
        if label not in self.label_names:
            raise ValueError(f"{label!r} is not a label of {self.name}: one of {', '.join(self.label_names[:20])}")
        return self.label_names.index(label)

    def occlusion_steps(
        self, image: Image.Image, label: str, *, patch_px: int = 8, stride_px: int = 4, batch_size: int = 32
    ) -> Iterator[Occlusion]:
        """The map of `occlusion` as it fills, one batch at a time. Close the iterator to stop.

        Raises ValueError: unknown label; patch or stride that does not fit the picture.
        """
        index = self._index(label)
        if not (1 <= patch_px <= self.resolution_px and 1 <= stride_px and batch_size >= 1):
            raise ValueError(f"patch_px must be from 1 to {self.resolution_px}, stride_px and batch_size at least 1")
        return self._occlude(image, index, patch_px, stride_px, batch_size)

    def _occlude(self, image, index, patch_px, stride_px, batch_size) -> Iterator[Occlusion]:
        x = self.preprocess([image])  # (1, 3, R, R)
        whole = self._probability(x, index)[0]
        corners = range(0, self.resolution_px - patch_px + 1, stride_px)
        positions = [(top, left) for top in corners for left in corners]
        drop = np.zeros(len(positions), np.float32)
        for start in range(0, len(positions), batch_size):
            batch = positions[start : start + batch_size]
            covered = x.repeat(len(batch), 1, 1, 1)
            for row, (top, left) in zip(covered, batch, strict=True):
                row[:, top : top + patch_px, left : left + patch_px] = 0  # the mean colour, after normalising
            drop[start : start + len(batch)] = (whole - self._probability(covered, index)).numpy()
            yield Occlusion(start + len(batch), len(positions), drop.reshape(len(corners), -1).copy())

    @torch.inference_mode()
    def _probability(self, x: torch.Tensor, index: int) -> torch.Tensor:
        return self.model(x).float().softmax(-1)[:, index].cpu()  # (B,)

    def occlusion(
        self, image: Image.Image, label: str, *, patch_px: int = 8, stride_px: int = 4, batch_size: int = 32
    ) -> np.ndarray:
        """How far the probability of `label` drops when a grey patch covers each place, (h, w) float32 in [-1, 1].

        Cell (i, j) is the patch with its corner at (i, j) · stride_px of the framed picture. Zeiler & Fergus 2014,
        §4.2. Raises ValueError as `occlusion_steps`.
        """
        steps = self.occlusion_steps(image, label, patch_px=patch_px, stride_px=stride_px, batch_size=batch_size)
        return list(steps)[-1].drop


def with_noise_plane(x: torch.Tensor, alpha_bar: torch.Tensor | float) -> torch.Tensor:
    """x (B, 3, R, R) and a fourth plane of √(1 - ᾱ), (B, 4, R, R). alpha_bar: of all, or (B,)."""
    share = torch.as_tensor(1 - alpha_bar, dtype=x.dtype, device=x.device).sqrt().reshape(-1, 1, 1, 1)
    return torch.cat([x, share.expand(len(x), 1, *x.shape[2:])], 1)


def spread(drop: np.ndarray, *, size_px: int, patch_px: int, stride_px: int) -> np.ndarray:
    """A map (h, w) laid over its picture, (size_px, size_px): each pixel has the mean of the patches on it."""
    total, count = np.zeros((2, size_px, size_px), np.float32)
    for (i, j), value in np.ndenumerate(drop):
        window = np.s_[i * stride_px : i * stride_px + patch_px, j * stride_px : j * stride_px + patch_px]
        total[window] += value
        count[window] += 1
    return total / np.maximum(count, 1)


def _stretch(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return ((values - low) / (high - low if high > low else 1)).astype(np.float32)


def load(name: str | Path = "swin", device: str | torch.device | None = None) -> Classifier:
    """The classifier of a bundled variant, a folder or a Hub repo of a timm model ("org/repo[@revision]"); fp32, eval.

    Raises store.CheckpointError, which names the file at fault.
    """
    folder = store.resolve("classifier", name)
    with store.opening(folder):
        model, names = _open(folder)
        sha256, world = store.weights_sha256(folder), world_of(folder)
    served = Classifier(model.to(device or default_device()), names, name=str(name), weights_sha256=sha256)
    served.world = world
    return served


def _open(folder: Path) -> tuple[torch.nn.Module, list[str]]:
    model = timm_folders.opened(folder, "this page needs a timm classifier")
    size = resolve_model_data_config(model)["input_size"]
    if model.num_classes < 2 or size[0] not in (3, 4) or size[1] != size[2]:
        raise CheckpointError(
            f"{folder}: {model.num_classes} labels on input {tuple(size)}; this page needs two or more labels on "
            "square RGB, or RGB and a plane of the noise level"
        )
    names = _label_names(model, folder)
    Classifier(
        model, names, name="", weights_sha256=""
    )  # what it reads of the config, while a fault is still the folder's
    return model, names


def _label_names(model: Any, folder: Path) -> list[str]:
    """The names in config.json; for ImageNet heads without names timm's own list; else numbers."""
    names = model.pretrained_cfg.get("label_names")
    if names:
        described = model.pretrained_cfg.get("label_descriptions") or {}  # timm's ImageNet models: synset → words
        names = [described.get(name, name) for name in (names.values() if isinstance(names, dict) else names)]
        if len(names) != model.num_classes or not all(isinstance(name, str) for name in names):
            raise CheckpointError(f"{folder}/config.json: label_names must be {model.num_classes} strings, one a class")
        return _distinct(names)
    subset = infer_imagenet_subset(model)
    if subset:
        info = ImageNetInfo(subset)
        return _distinct([info.index_to_description(i) for i in range(model.num_classes)])
    return [f"class {i}" for i in range(model.num_classes)]


def _distinct(names: list[str]) -> list[str]:
    """The names, those that occur twice with their index: ImageNet has two cranes."""
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({i})" for i, name in enumerate(names)]
