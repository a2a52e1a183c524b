"""Gated PixelCNN (van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders") over symbols.

Its masked convolutions are unmasked ones over shifted maps (Salimans et al. 2017, §2.4), which are the same function:
the vertical stack sees all rows above a place, the horizontal one what stands left of it in its row.

Letters: see the package; C channels, k width of a kernel.
"""

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import nn


class Layer(nn.Module):
    """One gated layer of both stacks (fig. 2 of the paper), with a bias for each label (eq. 4)."""

    def __init__(self, channels: int, kernel_size: int, num_rows: int):
        super().__init__()
        self.reach = kernel_size // 2
        self.down = nn.Conv2d(channels, 2 * channels, (self.reach + 1, kernel_size))
        self.right = nn.Conv2d(channels, 2 * channels, (1, self.reach + 1))
        self.down_to_right = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        self.label_down, self.label_right = (nn.Embedding(num_rows, 2 * channels) for _ in range(2))

    def vertical(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the next layer's vertical stack reads, (B, C, h, w), and this one's horizontal, (B, 2C, h, w)."""
        before = self.down(F.pad(x, (self.reach, self.reach, self.reach, 0)))  # (B, 2C, h, w)
        return gated(before + self.label_down(labels)[..., None, None]), self.down_to_right(before)

    def horizontal(self, x: torch.Tensor, above: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        before = self.right(F.pad(x, (self.reach, 0, 0, 0))) + above  # (B, 2C, h, w)
        return x + self.out(gated(before + self.label_right(labels)[..., None, None]))


def gated(x: torch.Tensor) -> torch.Tensor:
    """tanh of one half of the channels times the sigmoid of the other: eq. 2."""
    a, b = x.chunk(2, dim=1)
    return a.tanh() * b.sigmoid()


class PixelCNN(nn.Module, PyTorchModelHubMixin):
    """p(symbol | those before it in raster order, label) for every place of a grid."""

    def __init__(self, num_symbols: int, num_labels: int, height: int, width: int, channels: int, num_layers: int,
                 kernel_size: int):  # fmt: skip
        super().__init__()
        self.num_symbols, self.num_labels, self.grid = num_symbols, num_labels, (height, width)
        self.embedding = nn.Embedding(num_symbols, channels)
        self.layers = nn.ModuleList(Layer(channels, kernel_size, num_labels + 1) for _ in range(num_layers))
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, num_symbols, 1)
        )

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits (B, N, K) of what GPT-2 reads, (B, N): the label's token, and then the symbols but the last one."""
        labels = input_ids[:, 0] - self.num_symbols  # (B,)
        symbols = F.pad(input_ids[:, 1:], (0, 1)).view(-1, *self.grid)  # (B, h, w)
        return self.horizontal(symbols, self.vertical(symbols, labels), labels).flatten(2).mT

    def vertical(self, symbols: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
        """What each layer tells of the rows above a place, (B, 2C, h, w); symbols (B, h, w): the first h rows."""
        x = F.pad(self._embedded(symbols), (0, 0, 1, 0))[:, :, :-1]  # a row down
        told = []
        for layer in self.layers:
            assert isinstance(layer, Layer)
            x, above = layer.vertical(x, labels)
            told.append(above)
        return told

    def horizontal(self, symbols: torch.Tensor, told: list[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """Logits (B, K, h, w) of symbols (B, h, w) and what `vertical` told of the same rows."""
        x = F.pad(self._embedded(symbols), (1, 0))[..., :-1]  # a column to the right
        for layer, above in zip(self.layers, told, strict=True):
            assert isinstance(layer, Layer)
            x = layer.horizontal(x, above, labels)
        return self.head(x)

    def _embedded(self, symbols: torch.Tensor) -> torch.Tensor:
        return self.embedding(symbols).permute(0, 3, 1, 2)  # (B, C, h, w)


class Rows:
    """A PixelCNN that is asked place by place: what it knows of the rows above is computed once a row."""

    def __init__(self, model: PixelCNN, labels: torch.Tensor):
        self.model, self.labels, self.row, self.told = model, labels, -1, []

    def __call__(self, symbols: torch.Tensor, place: int) -> torch.Tensor:
        """Logits (B, K) of a place, given the symbols (B, N) before it."""
        row, column = divmod(place, self.model.grid[1])
        symbols = symbols.view(-1, *self.model.grid)
        if row != self.row:
            told = self.model.vertical(symbols[:, : row + 1], self.labels)
            self.row, self.told = row, [above[:, :, -1:] for above in told]
        return self.model.horizontal(symbols[:, row : row + 1], self.told, self.labels)[:, :, 0, column]
