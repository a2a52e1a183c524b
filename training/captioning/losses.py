"""What a captioner is trained for: the next word, where things are, and attention to them.

Letters: B samples, R side in pixels, L tokens, V pieces of the vocabulary, S states of the encoder, h × w patches,
D width of the tower.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from hub_models import captioning as contract
from hub_models.captioning.parts import grid_of
from training import hybrid
from training.captioning.config import CaptioningConfig
from training.captioning.packed import Packed, packed_logits
from training.optim import slower


class Trainee(torch.nn.Module):
    """The captioner's model, and how many forward passes it was trained for: before so many, its tower is frozen.

    points: whether it also returns what its words attend to. places: whether it has a linear layer (D → 2) beside it,
    that has to tell where in the picture a state comes from. A tower that learned to name things forgets that on the
    way to its last states, and captions said left or right by chance (docs/LOG.md). The layer isn't exported.
    maps: whether what it gets of pictures are maps of the tower's first stages, which then stay as they are.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        frozen_passes: int,
        *,
        places: bool = False,
        points: bool = False,
        maps: bool = False,
    ):
        super().__init__()
        self.captioner, self.frozen_passes, self.points, self.maps = model, frozen_passes, points, maps
        self.passes: torch.Tensor  # in the checkpoint, so that a resume is exact
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.places = torch.nn.Linear(contract.encoder_of(model).config.hidden_size, 2) if places else None

    def train(self, mode: bool = True):
        super().train(mode)
        hybrid.keep_statistics(contract.encoder_of(self.captioner))
        return self

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor | Packed | Callable[[torch.Tensor], Packed]) -> dict:
        """Scores "logits" (B, L, V) of the token after each of ids (B, L), for pictures (B, 3, R, R), or their maps.

        Perhaps "places", the `place_loss`, and "attention", (B, heads, L, S) of each decoder layer. Where ids are a
        function, it draws them given the states (B, S, C), and they are "drawn". Of packed ones logits are (n, V): of
        the places that count."""
        frozen = bool(self.passes < self.frozen_passes)
        if self.training:
            self.passes += 1
        if self.maps:
            raw = hybrid.tower_from_maps(contract.encoder_of(self.captioner), pixels, frozen=frozen)[0]
        else:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
                raw = contract.encode(self.captioner, pixels)
        # Nothing, but of every parameter: several processes wait for a gradient of each. One of 0, without weight
        # decay, leaves the tower as it is under either optimiser.
        raw = raw + 0.0 * sum(p.sum() for p in contract.encoder_of(self.captioner).parameters())
        states, found = contract.attended(self.captioner, raw), {}
        if not isinstance(ids, torch.Tensor | Packed):
            ids = found["drawn"] = ids(states.detach())
        if isinstance(ids, Packed):
            return found | {"logits": packed_logits(contract.decoder_of(self.captioner), states, ids)}
        out = contract.decode(self.captioner, states, ids, use_cache=False, output_attentions=self.points)
        found["logits"] = out.logits
        if self.points:
            found["attention"] = out.cross_attentions
        if self.places is not None:
            found["places"] = place_loss(self.places(raw))
        return found

    def state_dict(self, *args, **kwargs) -> dict:
        """Each tensor once: input and output embeddings are one, and safetensors refuses to write that twice."""
        once = {name for name, _ in [*self.named_parameters(), *self.named_buffers()]}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in once}

    def load_state_dict(self, state_dict, strict: bool = True, assign: bool = False):
        """As of any module; what is tied to something else is not missing."""
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        if lacking := [*(set(found.missing_keys) & set(self.state_dict())), *found.unexpected_keys]:
            raise RuntimeError(f"the checkpoint belongs to another model: {sorted(lacking)[0]} is missing or unknown")
        return found


def tower_groups(model: Trainee, cfg: CaptioningConfig) -> list[dict]:
    """The optimiser's groups; the tower learns slower, and without weight decay (see `Trainee.forward`)."""
    part = hybrid.trained_part(contract.encoder_of(model.captioner))
    return slower(model, part, cfg, lr_scale=cfg.tower_lr_scale, weight_decay=0.0)


def training_loss(model: torch.nn.Module, batch: dict, served: contract.Captioner, cfg: CaptioningConfig):
    """Cross-entropy of each token given the picture and the tokens before it, with label smoothing; and without.

    Teacher forcing (Williams & Zipser 1989). Padding counts nothing, and words that say where count cfg.relation_weight
    times; with a cfg.place_weight `place_loss` comes on top, with a cfg.pointing_weight `pointing_loss`. Also each
    part, and the cross-entropy of the words that say where.
    """
    pixels = batch["pixels"]
    ids, real = (part.to(pixels.device) for part in served.sequences(batch["caption"]))  # (B, L)
    out = model(pixels, ids[:, :-1])
    logits = out["logits"]
    with torch.autocast(pixels.device.type, enabled=False):
        logits, wanted = logits.float().flatten(0, 1), ids[:, 1:].masked_fill(~real[:, 1:], -100).flatten()
        counted = wanted != -100
        where = torch.isin(wanted, torch.tensor(where_ids(served.tokenizer), device=wanted.device))
        each = F.cross_entropy(logits, wanted, ignore_index=-100, label_smoothing=cfg.label_smoothing, reduction="none")
        loss = (each * torch.where(where, cfg.relation_weight, 1.0)).sum() / counted.sum()
        with torch.no_grad():
            plain = F.cross_entropy(logits, wanted, ignore_index=-100, reduction="none")
            told = {
                "cross_entropy": plain.sum() / counted.sum(),
                "token_accuracy": (logits.argmax(-1) == wanted).sum() / counted.sum(),
                "where": plain[where].sum() / where.sum().clamp(min=1),
            }
        if cfg.place_weight:
            loss, told["places"] = loss + cfg.place_weight * out["places"], out["places"].detach()
        if cfg.pointing_weight:
            points = pointing_loss(out["attention"], named_at(served, ids, batch["names"]), batch["cells"])
            loss, told["points"] = loss + cfg.pointing_weight * points, points.detach()
    return loss, told


def where_ids(tokenizer) -> list[int]:
    """The tokens by which one relation differs from another, as far as the vocabulary has them as one."""
    ids = tokenizer.convert_tokens_to_ids(["left", "right", "above", "below", "front", "behind"])
    return [token for token in ids if token is not None and token != tokenizer.unk_token_id]


def _grid(states: int) -> tuple[int, int]:
    """Rows and columns of the patches among the states, which are a square: see `model.require_places`."""
    grid = grid_of(states)
    assert grid is not None
    return grid


def place_loss(told: torch.Tensor) -> torch.Tensor:
    """Mean squared error of column and row (B, S, 2) told of each of h · w patches, where -1 and 1 are the edges.

    0.67 for who always says the middle. Class tokens before the patches have no place.
    """
    rows, columns = _grid(told.shape[1])
    y, x = ((torch.arange(count, device=told.device) + 0.5) / count * 2 - 1 for count in (rows, columns))
    true = torch.stack([x.repeat(rows), y.repeat_interleave(columns)], -1)  # (h · w, 2)
    return 2 * F.mse_loss(told[:, -rows * columns :].float(), true.expand(len(told), -1, -1))


def pointing_loss(
    attention: Sequence[torch.Tensor], spans: Sequence[tuple[int, int, slice]], cells: torch.Tensor
) -> torch.Tensor:
    """-log of the attention that the words for a thing pay to the patches where it is, mean over words and layers.

    After the supervised attention of Liu et al. 2017 (Attention correctness in neural image captioning), who ask a
    single attention for a distribution over the region; here how it is shared out within the thing is left open, and so
    is the other half of the heads. attention: (B, heads, L, S) of each layer. spans: caption, thing and its tokens.
    cells: see `CaptionedPictures`; a thing is in the patches that it covers at least a quarter as much as the one it
    covers most.
    """
    if not spans:
        return attention[0].new_zeros(())
    rows, columns = _grid(attention[0].shape[-1])
    covered = F.adaptive_avg_pool2d(cells, (rows, columns)).flatten(2)  # (B, things, h · w)
    inside = (covered > 0) & (covered >= covered.amax(-1, keepdim=True) / 4)
    steps = [(picture, thing, at) for picture, thing, place in spans for at in range(place.start, place.stop)]
    picture, thing, at = torch.tensor(steps, device=cells.device).T
    losses = []
    for layer in attention:
        asked = layer[:, : -(-layer.shape[1] // 2), :, -rows * columns :]  # (B, half of the heads, L, h · w)
        mass = (asked[picture, :, at].float().mean(1) * inside[picture, thing]).sum(-1)  # (words,)
        losses.append(-mass.clamp(min=1e-4).log().mean())
    return torch.stack(losses).mean()


def named_at(served: contract.Captioner, ids: torch.Tensor, names: Sequence[str]) -> list[tuple[int, int, slice]]:
    """Where captions, ids (B, L) with their start, speak of things: caption, thing (a line of its names), tokens.

    These are its name and what follows up to the next one: of what is said where, the thing named last is meant.
    """
    found = []
    for number, (row, lines) in enumerate(zip(ids.tolist(), names, strict=True)):
        starts = {}
        for thing, name in enumerate(lines.split("\n")):
            sought = served.sequences([name])[0][0, 1:-1].tolist()
            places = (at for at in range(len(row) - len(sought)) if sought and row[at : at + len(sought)] == sought)
            if (start := next(places, None)) is not None:
                starts[start] = thing
        end = row.index(served.end_id) if served.end_id in row else len(row) - 1
        stops = [*sorted(starts), end][1:]
        found += [
            (number, starts[start], slice(start, stop)) for start, stop in zip(sorted(starts), stops, strict=True)
        ]
    return found
