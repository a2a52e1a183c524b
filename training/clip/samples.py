"""What a dual encoder learns from: pictures with others of the same name, or views of photographs.

Letters: V views of a sample, P side before augmentation, A uniform numbers per picture.
"""

from collections import defaultdict

import numpy as np
import torch

from training.clip.augmentation import CHANCES
from training.clip.config import CLIPConfig
from training.data.captions import Captions
from training.data.sources import Source


class CaptionedPictures:
    """Training samples {"pixels": (V, P, P, 4) uint8, "chances": (V, A), "name": (), "caption": text} of a source.

    Pictures of one name share a number. See `training.order.Samples`.
    """

    def __init__(self, source: Source, cfg: CLIPConfig):
        self.source, self.data_hash, self.cfg, self.captions = source, source.data_hash, cfg, Captions(source)
        source.preload(cfg.resolution + cfg.resolution // 4)
        styles = source.column("style") if cfg.leave_out_style else [None] * len(source)
        self.kept = [i for i, style in enumerate(styles) if style is None or style != cfg.leave_out_style]
        self.names = sorted({self.captions.names[i] for i in self.kept})
        number = {name: k for k, name in enumerate(self.names)}
        self.number = [number.get(name, -1) for name in self.captions.names]
        self.alike = defaultdict(list)  # the pictures of each name
        for i in self.kept:
            self.alike[self.number[i]].append(i)

    def __len__(self) -> int:
        return len(self.kept)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        first = self.kept[index]
        others = [i for i in self.alike[self.number[first]] if i != first] or [first]
        picks = torch.randint(len(others), (self.cfg.views - 1,), generator=draw).tolist()
        shown = [first, *(others[pick] for pick in picks)]
        return {
            "pixels": torch.stack([self._pixels(i) for i in shown]),
            "chances": torch.rand(self.cfg.views, CHANCES, generator=draw),
            "name": self.number[first],
            "caption": self.captions.draw(first, int(torch.randint(2**62, (), generator=draw))),
        }

    def _pixels(self, index: int) -> torch.Tensor:
        if self.source.array is not None:
            return torch.from_numpy(self.source.array[index])
        return torch.from_numpy(np.array(self.source.picture(index)))
