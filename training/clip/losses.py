"""What a dual encoder is trained for: contrast with texts, with pictures of other names, and the names themselves.

Letters: B samples, V views of each, N = B·V pictures, M texts, R side in pixels, P side before augmentation, L tokens,
D width of the common space, K names, W processes, A uniform numbers per picture.
"""

import math

import torch
import torch.nn.functional as F

from hub_models import clip as contract
from training import hybrid
from training.clip.augmentation import augment
from training.clip.config import CLIPConfig
from training.data.views import texts_of

MAX_LOGIT_SCALE = math.log(100)  # Radford 2021, §2.5


class Trainee(torch.nn.Module):
    """The dual encoder that will be exported, and a linear head over the training names that will not.

    maps: whether it is shown maps of the first stages of its backbone of timm instead of pictures.
    """

    def __init__(self, clip: contract.DualEncoder, num_names: int, *, maps: bool = False):
        super().__init__()
        self.clip, self.maps = clip, maps
        self.head = torch.nn.Linear(clip.visual_projection.in_features, num_names) if num_names else None

    def train(self, mode: bool = True):
        super().train(mode)
        hybrid.keep_statistics(self.clip.vision_model)
        return self

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor | None):
        """Unit rows (N, D) of pictures (N, 3, R, R), or maps, (M, D) of texts (M, L), logits (N, K) of names, scale."""
        if self.maps:
            pooled = hybrid.tower_from_maps(self.clip.vision_model, pixels).pooler_output
        else:
            pooled = self.clip.vision_model(pixel_values=pixels).pooler_output  # (N, width)
        image = F.normalize(self.clip.visual_projection(pooled).float(), dim=-1)
        names = self.head(pooled) if self.head is not None else None
        return image, contract.unit_text_rows(self.clip, ids, mask), names, self.clip.logit_scale.exp()


def training_loss(model, batch: dict, served: contract.CLIP, cfg: CLIPConfig) -> tuple[torch.Tensor, dict]:
    """The weighted sum of the three losses of a batch, and each of them."""
    scale = served.model.logit_scale
    with torch.no_grad():
        scale.clamp_(0, MAX_LOGIT_SCALE)
    pixels, chances = batch["pixels"].flatten(0, 1), batch["chances"].flatten(0, 1)  # (N, P, P, 4), (N, A)
    maskless = bool(batch["chances"][0, 0, -1] < cfg.maskless)
    tokens = served.tokenizer(
        list(batch["caption"]),
        padding="max_length" if maskless else True,
        truncation=True,
        max_length=served.max_length,
        return_tensors="pt",
    ).to(pixels.device)
    with torch.autocast(pixels.device.type, enabled=False):
        seen = normalise(augment(pixels, chances, cfg), served)
    image, text, names, scale = model(seen, tokens["input_ids"], None if maskless else tokens["attention_mask"])
    with torch.autocast(pixels.device.type, enabled=False):
        own = batch["name"].repeat_interleave(cfg.views)  # (N,)
        image, text = gather(image.float()), gather(text.float())
        image_name, text_name = gather(own), gather(batch["name"])
        parts = {"contrastive": contrastive_loss(image, text, image_name, text_name, scale)}
        loss = parts["contrastive"]
        if names is not None:
            parts["concept"] = F.cross_entropy(names.float(), own, label_smoothing=cfg.label_smoothing)
            loss = loss + cfg.concept_weight * parts["concept"]
        if cfg.image_weight:
            parts["image"] = image_contrast(image, image_name, cfg.image_temperature)
            loss = loss + cfg.image_weight * parts["image"]
    return loss, {key: value.detach() for key, value in parts.items()} | {"logit_scale": scale.detach()}


def viewed_loss(model, batch: dict, served: contract.CLIP) -> tuple[torch.Tensor, dict]:
    """The contrast between pictures and their captions of a batch of `training.data.views.ViewedPictures`."""
    texts = texts_of(batch["caption"])
    tokens = served.tokenizer(
        texts, padding=True, truncation=True, max_length=served.max_length, return_tensors="pt"
    ).to(batch["pixels"].device)
    with torch.no_grad():
        served.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
    image, text, _, scale = model(batch["pixels"], tokens["input_ids"], tokens["attention_mask"])
    with torch.autocast(batch["pixels"].device.type, enabled=False):
        row, each = batch["row"], len(texts) // len(batch["row"])
        image, text = gather(image.float()), gather(text.float())
        loss = contrastive_loss(image, text, gather(row), gather(row.repeat_interleave(each)), scale)
    return loss, {"logit_scale": served.model.logit_scale.detach()}


def normalise(pixels: torch.Tensor, served: contract.CLIP) -> torch.Tensor:
    """(x - mean) / std of the image processor, for pictures (N, 3, R, R) in [0, 1]."""
    mean, std = (
        torch.tensor(list(values), device=pixels.device).view(3, 1, 1)
        for values in (served.image_processor.image_mean, served.image_processor.image_std)
    )
    return (pixels - mean) / std


def contrastive_loss(image, text, image_name, text_name, scale) -> torch.Tensor:
    """Symmetric InfoNCE (van den Oord 2018; Radford 2021, fig. 3) of unit rows image (N, D) and text (M, D).

    image_name (N,), text_name (M,): whoever shares a number is a positive pair; the target is spread evenly over them.
    """
    logits = scale * image @ text.T  # (N, M)
    same = (image_name[:, None] == text_name[None]).float()
    by_image = F.cross_entropy(logits, same / same.sum(1, keepdim=True))
    return (by_image + F.cross_entropy(logits.T, same.T / same.T.sum(1, keepdim=True))) / 2


def image_contrast(image: torch.Tensor, name: torch.Tensor, temperature: float) -> torch.Tensor:
    """Supervised contrastive loss, L_out of Khosla et al. 2020, eq. 2, of unit rows (N, D) with their names (N,)."""
    itself = torch.eye(len(image), dtype=torch.bool, device=image.device)
    logits = (image @ image.T / temperature).masked_fill(itself, -torch.inf)  # (N, N)
    same = (name[:, None] == name[None]) & ~itself
    log_share = logits.log_softmax(1).masked_fill(~same, 0)
    count = same.sum(1)
    return -(log_share.sum(1) / count.clamp(min=1))[count > 0].sum() / (count > 0).sum().clamp(min=1)


class _Gather(torch.autograd.Function):
    """Rows of all processes, in the order of their ranks; the gradient goes back to every process, summed."""

    @staticmethod
    def forward(ctx, rows: torch.Tensor) -> torch.Tensor:
        ctx.count = len(rows)
        parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, *gradients: torch.Tensor) -> torch.Tensor:
        gradient = gradients[0].contiguous()
        torch.distributed.all_reduce(gradient)
        return gradient[torch.distributed.get_rank() * ctx.count :][: ctx.count]


def gather(rows: torch.Tensor) -> torch.Tensor:
    """(n, …) of this process → (W·n, …) of all; itself where there is one process.

    Every process then computes the same loss over all samples. The gradient that each gets for its own rows is W times
    that loss's, and averaging over processes, which follows, makes it the gradient of one process with all the samples.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return rows
    return _Gather.apply(rows)
