"""Distillation: a tower says what a larger or better one says, be it of timm or of transformers.

Hinton et al. 2015, "Distilling the Knowledge in a Neural Network" (logits), Romero et al. 2015, "FitNets" (features;
here by their cosine, since teachers differ in scale). With features f and logits l of student s and teacher t,

    L = mean [ 1 - cos(W(f_s), f_t) ] + w T² KL( softmax(l_t / T) ‖ softmax(l_s / T) )

where W and the student's logits are a projection and a linear layer that training alone has. The second term is there
for teachers with classes.

Letters: B pictures, D numbers of the teacher's features, K its classes.
"""

from typing import Any

import torch
import transformers
from timm.data import resolve_model_data_config
from torch import nn
from torch.nn import functional as F
from torchvision.ops import MLP
from transformers import AutoModel

from hub_models import pretrained, timm_folders
from training import beginnings
from training.pretrain.config import PretrainConfig


class Teacher:
    """A frozen model of timm or transformers that is shown what the student sees, in its own size and colours."""

    def __init__(self, model: Any, side_px: int, mean, std, *, timm: bool):
        self.model, self.side_px, self.timm = model.eval().requires_grad_(False), side_px, timm
        self.mean, self.std = (torch.tensor([float(v) for v in three]).view(3, 1, 1) for three in (mean, std))
        features, logits = self.answers(torch.zeros(1, 3, side_px, side_px))
        self.width, self.classes = features.shape[1], 0 if logits is None else logits.shape[1]

    @torch.no_grad()
    def answers(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features (B, D) of pictures (B, 3, R, R) in [-1, 1], and logits (B, K) where it has classes; fp32."""
        self.model.to(x.device)
        if x.shape[-1] != self.side_px:
            size = (self.side_px, self.side_px)
            x = F.interpolate(x, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        x = (x / 2 + 0.5 - self.mean.to(x)) / self.std.to(x)
        if self.timm:
            states = self.model.forward_features(x)
            logits = self.model.forward_head(states).float() if self.model.num_classes else None
            return self.model.forward_head(states, pre_logits=True).float(), logits
        if hasattr(self.model, "get_image_features"):
            found = self.model.get_image_features(pixel_values=x)
            return getattr(found, "pooler_output", found).float(), None
        body = getattr(self.model, "encoder", self.model) if hasattr(self.model, "decoder") else self.model
        out = body(pixel_values=x, output_hidden_states=True)
        logits = getattr(out, "logits", None)
        pooled = getattr(out, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1).float(), logits
        last = out.hidden_states[-1]  # (B, N, D) or (B, D, h, w)
        return (last.mean(1) if last.ndim == 3 else last.mean((2, 3))).float(), logits


def teacher_of(name: str) -> Teacher:
    """The teacher of a name: see `beginnings.tower_folder`. Raises store.CheckpointError, SystemExit."""
    folder = beginnings.tower_folder(name)
    if beginnings.is_timm(folder):
        model = timm_folders.opened(folder, "a teacher is a model of timm or of transformers")
        data = resolve_model_data_config(model)
        if data["input_size"][0] != 3:
            raise SystemExit(f"--distil_name_or_path {name} sees {data['input_size'][0]} planes: name one of RGB")
        return Teacher(model, data["input_size"][-1], data["mean"], data["std"], timm=True)
    config = pretrained.open_config(folder, "a teacher of transformers")
    kind = getattr(transformers, (config.architectures or [""])[0], AutoModel)
    model, processor = pretrained.open_model(folder, kind, config, "teacher"), pretrained.open_image_processor(folder)
    eyes = getattr(config, "vision_config", None) or getattr(config, "encoder", config)
    side = getattr(eyes, "image_size", None)
    if not isinstance(side, int):
        raise SystemExit(f"--distil_name_or_path {name}: a {config.model_type} doesn't say how large its pictures are")
    return Teacher(model, side, processor.image_mean, processor.image_std, timm=False)


class Objective(nn.Module):
    """A tower, its projection into the teacher's features and its logits; of the views the first."""

    def __init__(self, tower: Any, cfg: PretrainConfig):
        super().__init__()
        assert cfg.distil_name_or_path is not None
        self.tower: Any = tower
        self._teacher = [teacher_of(cfg.distil_name_or_path)]  # in a list, and so no part of what is trained and saved
        teacher = self._teacher[0]
        self.projection = MLP(tower.num_features, [*cfg.projection, teacher.width])
        self.logits = nn.Linear(tower.num_features, teacher.classes) if teacher.classes else None
        self.temperature, self.weight = cfg.distil_temperature, cfg.distil_logits_weight

    def forward(self, batch: dict) -> tuple[torch.Tensor, dict]:
        x = batch["views"][:, 0]
        features, logits = self._teacher[0].answers(x)
        own = self.tower(x)
        parts = {"features": 1 - F.cosine_similarity(self.projection(own).float(), features).mean()}
        loss = parts["features"]
        if self.logits is not None and logits is not None:
            parts["logits"] = softened(self.logits(own).float(), logits, self.temperature)
            loss = loss + self.weight * parts["logits"]
        return loss, {name: value.detach() for name, value in parts.items()}


def softened(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T² KL(teacher ‖ student) of logits (B, K) at a temperature T, mean over the batch: Hinton 2015, §2."""
    log_s, log_t = (F.log_softmax(logits / temperature, dim=1) for logits in (student, teacher))
    return temperature**2 * F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)
