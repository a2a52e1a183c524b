"""What a segmenter is trained for: the right class of each pixel, and each class as a whole.

Letters: B batch, R side of the training picture in pixels, K classes. Masks hold class ids, and 255 where there is no
answer.
"""

import numpy as np
import torch
import torch.nn.functional as F

from training.data.masks import IGNORE


def training_loss(
    logits: torch.Tensor, mask: torch.Tensor, *, dice_weight: float, class_weight: torch.Tensor | None = None
) -> tuple[torch.Tensor, dict]:
    """Cross-entropy + dice_weight · Dice of logits (B, K, R, R) for masks (B, R, R), and each of them.

    Where the mask is 255 nothing counts; a batch without any answer has a loss of 0.
    """
    log_probability = logits.float().log_softmax(1)
    each = F.nll_loss(log_probability, mask, class_weight, ignore_index=IGNORE, reduction="none")  # (B, R, R)
    entropy = each.sum() / (mask != IGNORE).sum().clamp(min=1)
    dice = dice_loss(log_probability.exp(), mask)
    return entropy + dice_weight * dice, {"cross_entropy": entropy.detach(), "dice": dice.detach()}


def dice_loss(probability: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """1 - Dice coefficient of the probabilities of a batch with its truth, mean over the classes that the truth has.

    Milletari et al. 2016, §3, with plain sums in the denominator. probability (B, K, R, R), mask (B, R, R) with 255 =
    no answer. The truth isn't spelled out as K planes: that takes five times as long on a CPU.
    """
    classes, answered = probability.shape[1], mask != IGNORE
    truth = mask.masked_fill(~answered, 0)
    right = probability.gather(1, truth[:, None])[:, 0] * answered  # (B, R, R): of the true class
    shared = right.new_zeros(classes).scatter_add(0, truth.flatten(), right.flatten())  # (K,)
    size = torch.bincount(truth[answered], minlength=classes)
    total = (probability if answered.all() else probability * answered[:, None]).sum((0, 2, 3)) + size
    coefficient, present = 2 * shared / total.clamp(min=1e-6), size > 0
    return ((1 - coefficient) * present).sum() / present.sum().clamp(min=1)


def class_weights(counts: dict[int, int], num_classes: int, balance: float) -> torch.Tensor | None:
    """(K,) weights ∝ count^-balance whose mean over pixels is 1; None for balance 0. counts: {class id: pixels}."""
    if not balance:
        return None
    count = np.array([counts.get(k, 0) for k in range(num_classes)], np.float64)
    weight = np.where(count > 0, np.maximum(count, 1) ** -balance, 0)
    return torch.tensor(weight * count.sum() / (weight * count).sum(), dtype=torch.float32)
