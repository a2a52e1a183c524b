"""Mask R-CNN on a Swin: torchvision's `MaskRCNN`, with the backbone and the folders of transformers.

No library has the two together: `SwinMaskRCNN.from_pretrained(folder).rcnn` is a stock
`torchvision.models.detection.MaskRCNN` whose backbone is a stock `SwinBackbone` under a stock `FeaturePyramidNetwork`.

Each cell of a pyramid of maps says for some boxes around it whether a thing is there; of the likeliest boxes a second
network sees the part of the maps that they cover, and answers with a class, a better box and a mask (He et al. 2017;
the pyramid: Lin et al. 2017; proposals: Ren et al. 2015).

Letters: B pictures, R their side in pixels, N things of a picture, K classes, Q answers to the picture that has most.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, box_convert
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForInstanceSegmentation,
    PreTrainedConfig,
    PreTrainedModel,
    RfDetrImageProcessor,
    RTDetrImageProcessor,
    SwinConfig,
)
from transformers.backbone_utils import load_backbone
from transformers.utils import ModelOutput

KIND = "swin_mask_rcnn"
BOX_CELLS, MASK_CELLS = 7, 14  # on a side, of what is cut out of the maps for a class and box, and for a mask
BELOW = -1e4  # the logit of a class that an answer isn't: its score is 0


class RcnnConfig(PreTrainedConfig):
    """Sizes of a `SwinMaskRCNN`."""

    model_type = KIND
    sub_configs = {"backbone_config": SwinConfig}

    def __init__(
        self,
        backbone_config: Any = None,
        width: int = 96,
        hidden: int = 256,
        mask_layers: int = 2,
        anchor_px: list | tuple = ((12, 17), (24, 34), (48, 68)),
        anchor_ratios: list | tuple = (0.6, 1.0, 1.6),
        proposals: int = 60,
        answers: int = 30,
        least_score: float = 0.02,
        most_overlap: float = 0.5,
        **kwargs,
    ):
        """backbone_config: of a Swin. width: channels of the pyramid; hidden: of what tells class and box.

        anchor_px: sides in pixels of the boxes that a cell speaks of, for each map; anchor_ratios: height by width.
        proposals: boxes that are looked at. answers: the most that come back of a picture, each surer than least_score;
        of two of a class that share more than most_overlap, one does.
        """
        if isinstance(backbone_config, dict):
            backbone_config = SwinConfig.from_dict(backbone_config)
        self.backbone_config = backbone_config or SwinConfig.from_dict({"out_features": ["stage1"]})
        self.width, self.hidden, self.mask_layers = width, hidden, mask_layers
        self.anchor_px, self.anchor_ratios = [list(sides) for sides in anchor_px], list(anchor_ratios)
        self.proposals, self.answers = proposals, answers
        self.least_score, self.most_overlap = least_score, most_overlap
        super().__init__(**kwargs)


@dataclass
class RcnnOutput(ModelOutput):
    """What a `SwinMaskRCNN` answers: losses with labels, else the rest, under the names that an RF-DETR's has."""

    loss: torch.Tensor | None = None
    loss_dict: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None  # (B, Q, K), of scores; an answer is of one class, and BELOW for the others
    pred_boxes: torch.Tensor | None = None  # (B, Q, 4) centre x, centre y, width, height as shares of the picture
    pred_masks: torch.Tensor | None = None  # (B, Q, R, R) logits of each pixel; below 0 where there is no answer


class RcnnImageProcessor(RTDetrImageProcessor):
    """Makes pictures what a `SwinMaskRCNN` is shown, and masks of its answers."""

    post_process_instance_segmentation = RfDetrImageProcessor.post_process_instance_segmentation


class AsGiven(GeneralizedRCNNTransform):
    """Pictures as they are: the image processor has given them their size and range."""

    def __init__(self):
        super().__init__(0, 0, [0.0] * 3, [1.0] * 3, size_divisible=1)

    def resize(self, image: torch.Tensor, target: dict | None = None):
        return image, target


class Pyramid(nn.Module):
    """Maps of one width at each stride of a Swin, as torchvision wants them of a backbone."""

    def __init__(self, config: RcnnConfig):
        super().__init__()
        self.encoder = load_backbone(config)
        self.fpn = FeaturePyramidNetwork(self.encoder.channels, config.width)
        self.out_channels = config.width

    def forward(self, pixels: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        maps = self.encoder(pixels).feature_maps
        return self.fpn(OrderedDict((str(level), one) for level, one in enumerate(maps)))


class SwinMaskRCNN(PreTrainedModel):
    """A Mask R-CNN as transformers saves and opens models; `rcnn` is torchvision's."""

    config_class = RcnnConfig
    main_input_name = "pixel_values"

    def __init__(self, config: RcnnConfig):
        super().__init__(config)
        pyramid = Pyramid(config)
        levels = [str(level) for level in range(len(pyramid.encoder.channels))]
        if len(config.anchor_px) != len(levels):
            raise ValueError(f"anchor_px has sides for {len(config.anchor_px)} maps, the backbone has {len(levels)}")
        with torch.device("cpu"):  # no weights: they are made here, also where weights will be read later
            anchors = AnchorGenerator(tuple(map(tuple, config.anchor_px)), (tuple(config.anchor_ratios),) * len(levels))
        known: Any = config
        side, answers = known.backbone_config.image_size, known.num_labels + 1  # one of these: no thing
        seen: dict = {"canonical_scale": side // 2, "canonical_level": 3}
        width = config.width
        self.rcnn = MaskRCNN(
            pyramid, None, rpn_anchor_generator=anchors, rpn_batch_size_per_image=64,
            rpn_pre_nms_top_n_train=200, rpn_post_nms_top_n_train=100, rpn_pre_nms_top_n_test=200,
            rpn_post_nms_top_n_test=config.proposals, box_batch_size_per_image=32, box_positive_fraction=0.35,
            box_roi_pool=MultiScaleRoIAlign(levels, BOX_CELLS, 1, **seen),
            box_head=TwoMLPHead(width * BOX_CELLS**2, config.hidden),
            box_predictor=FastRCNNPredictor(config.hidden, answers), box_detections_per_img=config.answers,
            box_score_thresh=config.least_score, box_nms_thresh=config.most_overlap,
            mask_roi_pool=MultiScaleRoIAlign(levels, MASK_CELLS, 1, **seen),
            mask_head=MaskRCNNHeads(width, [width] * config.mask_layers, 1),
            mask_predictor=MaskRCNNPredictor(width, width, answers),
        )  # fmt: skip
        self.rcnn.transform = AsGiven()
        if not next(self.rcnn.parameters()).is_meta:  # what torchvision has drawn stays
            for module in self.rcnn.modules():
                object.__setattr__(module, "_is_hf_initialized", True)
        self.post_init()

    @property
    def pyramid(self) -> Pyramid:
        """The Swin and the pyramid on its maps."""
        return cast(Pyramid, self.rcnn.backbone)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """For what a checkpoint lacks: its class layers, where it is to tell other classes apart."""
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.reset_parameters()

    def forward(self, pixel_values: torch.Tensor, labels: list[dict[str, torch.Tensor]] | None = None, **_):
        """Losses of a batch (B, 3, R, R) in training mode, or answers in eval mode.

        labels: of each picture {"boxes": (N, 4) left, top, right, bottom in pixels, "class_labels": (N,), "masks":
        (N, R, R) in {0, 1}}.
        """
        if labels is None:
            return self._answers(self.rcnn(list(pixel_values)), pixel_values)
        things = [{"boxes": one["boxes"], "labels": one["class_labels"] + 1, "masks": one["masks"]} for one in labels]
        losses = self.rcnn(list(pixel_values), things)
        return RcnnOutput(loss=torch.stack([*losses.values()]).sum(), loss_dict=losses)

    def _answers(self, found: list[dict[str, torch.Tensor]], pixels: torch.Tensor) -> RcnnOutput:
        most = max([1, *(len(one["scores"]) for one in found)])  # not what a config says: that may be any number
        size, side = len(found), torch.tensor(pixels.shape[-2:]).flip(0).repeat(2)
        logits = pixels.new_full((size, most, len(self.config.id2label or ())), BELOW)
        boxes, masks = pixels.new_zeros(size, most, 4), pixels.new_full((size, most, *pixels.shape[-2:]), BELOW)
        for row, one in enumerate(found):
            count = len(one["scores"])
            logits[row, torch.arange(count), one["labels"] - 1] = one["scores"].to(logits).logit(1e-6)
            boxes[row, :count] = box_convert(one["boxes"].to(boxes) / side.to(boxes), "xyxy", "cxcywh")
            masks[row, :count] = one["masks"][:, 0].to(masks).logit(1e-6)
        return RcnnOutput(logits=logits, pred_boxes=boxes, pred_masks=masks)


def register() -> None:
    """Let transformers' Auto classes open its folders, in this process."""
    AutoConfig.register(KIND, RcnnConfig, exist_ok=True)
    AutoModelForInstanceSegmentation.register(RcnnConfig, SwinMaskRCNN, exist_ok=True)
    AutoImageProcessor.register(RcnnConfig, image_processor_classes={"torchvision": RcnnImageProcessor}, exist_ok=True)
