"""Other looks of pictures, on whole batches: a picture at a time would cost more than the model.

Letters: N pictures, R side in pixels, P side before augmentation, A uniform numbers per picture.
"""

import math

import torch
import torch.nn.functional as F

from training.clip.config import CLIPConfig

CHANCES = 27  # A: the uniform numbers that `augment` uses for a picture


@torch.no_grad()
def augment(pixels: torch.Tensor, chances: torch.Tensor, cfg: CLIPConfig) -> torch.Tensor:
    """Pictures uint8 (N, P, P, 4) as the model shall see them in training: float (N, 3, R, R) in [0, 1].

    chances (N, A) uniform in [0, 1): all randomness, so that a picture's view is a function of its own numbers. Moved
    and turned, recoloured, laid on a ground; some outlined, turned into line art, blurred, or with a part erased.
    """
    u = iter(chances.T[:, :, None, None])  # A times (N, 1, 1)

    def between(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * next(u)

    art = pixels.permute(0, 3, 1, 2).float() / 255  # (N, 4, P, P)
    art[:, :3] *= art[:, 3:]
    art = F.grid_sample(
        art,
        F.affine_grid(_affine(between, cfg), [len(art), 4, *[cfg.resolution] * 2], align_corners=False),
        align_corners=False,
    )
    colour, alpha = art[:, :3], art[:, 3:]
    colour = _recolour(colour, alpha, between, next, u, cfg)
    other = torch.cat([between(0, 1) for _ in range(3)], 1)[..., None]  # (N, 3, 1, 1) some colour
    ground = torch.where((next(u) < cfg.ground_share)[..., None], other, 1.0)
    x = colour + ground * (1 - alpha)  # (N, 3, R, R)

    kind, darkness, blur, erase = (next(u)[:, 0, 0] for _ in range(4))
    lined = (kind < cfg.outline_share + cfg.line_art_share).nonzero()[:, 0]
    if len(lined):
        part = x[lined]
        edge = (F.max_pool2d(part, 3, 1, 1) + F.max_pool2d(-part, 3, 1, 1)).amax(1, keepdim=True)  # (n, 1, R, R)
        ink = ((edge - 0.15) * 3).clamp(0, 1) * (0.6 + 0.4 * darkness[lined, None, None, None])
        only = (kind[lined] < cfg.line_art_share)[:, None, None, None]
        x[lined] = torch.where(only, 1.0, part) * (1 - ink)
    soft = (blur < cfg.blur_share).nonzero()[:, 0]
    if len(soft):
        x[soft] = F.avg_pool2d(F.pad(x[soft], (1, 1, 1, 1), mode="replicate"), 3, 1)
    place = torch.linspace(0, 1, cfg.resolution, device=x.device)
    high, wide, top, left = (next(u)[:, 0] for _ in range(4))  # (N, 1) each
    rows = (place >= top * 1.2 - 0.2) & (place < top * 1.2 - 0.2 + 0.15 + 0.35 * high)  # (N, R)
    columns = (place >= left * 1.2 - 0.2) & (place < left * 1.2 - 0.2 + 0.15 + 0.35 * wide)
    hole = rows[:, None, :, None] & columns[:, None, None, :] & (erase < cfg.erase_share)[:, None, None, None]
    return torch.where(hole, other, x)


def _affine(between, cfg: CLIPConfig) -> torch.Tensor:
    """Where each output pixel looks in the picture: (N, 2, 3), for `affine_grid`."""
    angle = between(-1, 1) * math.radians(cfg.rotation_deg)
    side, stretch = between(*cfg.crop), between(-1, 1) * cfg.aspect
    wide, high = side * (1 + stretch / 2), side * (1 - stretch / 2)
    x, y = between(-2, 2) * cfg.shift, between(-2, 2) * cfg.shift  # the side is 2 in these coordinates
    first = torch.cat([wide * angle.cos(), -high * angle.sin(), x], 2)
    return torch.cat([first, torch.cat([wide * angle.sin(), high * angle.cos(), y], 2)], 1)


def _recolour(colour: torch.Tensor, alpha: torch.Tensor, between, take, u, cfg: CLIPConfig) -> torch.Tensor:
    """Premultiplied colours (N, 3, R, R) with another hue, saturation, contrast and brightness; some in grey."""
    full = take(u) < cfg.hue_share
    angle = between(-1, 1) * torch.where(full, math.pi, cfg.colour / 2)
    saturation = torch.exp(between(-2, 2) * cfg.colour)
    saturation = torch.where(take(u) < cfg.grayscale_share, 0.0, saturation)
    contrast, brightness = torch.exp(between(-1, 1) * cfg.colour), between(-0.5, 0.5) * cfg.colour
    eye, grey = torch.eye(3, device=colour.device), torch.full((3, 3), 1 / 3, device=colour.device)
    across = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=colour.device) / math.sqrt(3)
    turn = angle.cos() * (eye - grey) + angle.sin() * across  # (N, 3, 3) about the grey axis (Rodrigues)
    matrix = contrast * (saturation * turn + grey)
    mixed = torch.einsum("nij,njhw->nihw", matrix, colour)
    return (mixed + (0.5 * (1 - contrast) + brightness)[..., None] * alpha).clamp(min=0).minimum(alpha)
