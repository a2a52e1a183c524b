"""What the page computes, for people and for programs: answers, maps of where a model looked, what a patch can see."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import gradio as gr
import numpy as np
from PIL import Image

from apps.classifier import paint, words
from apps.kit import homes, launch, parts, pictures, values
from apps.kit.parts import status
from apps.kit.session import Recent, StopFlags, until
from hub_models import classifier, components, explain, windows
from hub_models.classifier import Classifier
from hub_models.store import CheckpointError

TOP_K = 5
TOP_ANSWER = "top answer"
ROLLOUT, OCCLUSION, SALIENCY, GRAD_CAM = "rollout", "occlusion", "saliency", "grad-cam"
AT_ONCE = {ROLLOUT: "Attention rollout", GRAD_CAM: "Grad-CAM", SALIENCY: "Gradient saliency"}  # maps of one look
METHODS = [*AT_ONCE, OCCLUSION]
PATCHES_A_SIDE = 8  # the grey patch covers an eighth of a side and moves by half of itself: 15 × 15 places
BATCH = 25  # places a step: 9 steps, and Stop acts between two
DEADLINE_SECONDS = 300  # a map that takes longer is stopped, and says so
BRIGHTEST = 99  # percentile of a saliency map that is shown as most: single pixels would leave the rest pale
FINE_ENOUGH = 8  # cells a side that the layer of tokens has, at first, if one has so many
RECENT_BYTES = 100_000_000


def load_models(names: Sequence[str]) -> dict[str, Classifier | CheckpointError]:
    """Each named model, or the error in its place."""
    return launch.load_each(classifier.load, names)


def answer(model: Classifier, image: Image.Image, note: str = "") -> tuple[dict[str, float], str]:
    """The top labels with their probabilities, and the facts below them as HTML, under what is to be said first."""
    start = time.perf_counter()
    [top] = model.predict([image], TOP_K)
    return dict(top), homes.note(note) + parts.model_facts(model, time.perf_counter() - start)


# ---- where it looked -------------------------------------------------------------------------------------------------


def asked_for(model: Classifier, image: Image.Image, label) -> tuple[str, float]:
    """The label that a map is for, and the model's probability of it. Raises InputError for one that it hasn't."""
    chances, options = model.logits([image]).softmax(-1)[0], [TOP_ANSWER, *model.label_names]  # (K,)
    index = options.index(values.choice(label, "Label", options)) - 1
    index = int(chances.argmax()) if index < 0 else index
    return model.label_names[index], float(chances[index])


def explained(model: Classifier, image: Image.Image, label, method: str) -> tuple[Image.Image, str]:
    """The picture under a map of AT_ONCE, and what it shows. Raises InputError where this model has none."""
    label, whole = asked_for(model, image, label)
    if method == ROLLOUT:
        if not model.has_attention:
            said = "it needs a plain ViT, whose patches all look at each other. Ask for grad-cam or saliency"
            raise values.InputError(f"{model.name} has no attention rollout: {said}.")
        map_, said = model.attention_rollout(image), "the redder, the more of it flows into the answer."
        return paint.heat(image, map_), f"{model.name}: {said}"
    if method == SALIENCY:
        map_ = model.saliency(image, label)
        most, said = np.percentile(map_, BRIGHTEST), "the redder, the more a little change of the pixel changes it."
    else:
        try:
            map_ = model.grad_cam(image, label)
        except ValueError as error:
            raise values.InputError(f"{model.name} has no Grad-CAM: {error}. Ask for saliency.") from None
        most, (rows, columns) = map_.max(), map_.shape
        said = f"of {rows} × {columns} places, the redder ones speak for it more."
        said = said if most > 0 else "no place of its last layer speaks for it."
    return paint.heat(image, map_ / max(most, 1e-12)), f"{model.name}, “{label}” at {whole:.0%}: {said}"


def occlusion(
    model: Classifier, image: Image.Image, label: str, stop: threading.Event
) -> Iterator[tuple[Image.Image, str]]:
    """The occlusion map of `label` as it fills, until `stop` is set, as pairs of overlay and status HTML."""
    label, whole = asked_for(model, image, label)
    patch_px = max(2, model.resolution_px // PATCHES_A_SIDE)
    stride_px = patch_px // 2
    centres = slice(stride_px // 2, None, stride_px)  # where a spread map is flat: between them it is drawn smooth
    steps = model.occlusion_steps(image, label, patch_px=patch_px, stride_px=stride_px, batch_size=BATCH)
    for step in until(steps, stop, DEADLINE_SECONDS):
        spread = classifier.spread(step.drop, size_px=model.resolution_px, patch_px=patch_px, stride_px=stride_px)
        text = f"{model.name}, “{label}” at {whole:.0%}: {step.done} of {step.total} places covered"
        if step.done == step.total:
            text = (
                f"{model.name} says “{label}” at {whole:.0%}. Covering one {patch_px} × {patch_px} px place "
                f"moves that to between {whole - step.drop.max():.0%} and {whole - step.drop.min():.0%}."
            )
        overlay = paint.occlusion_overlay(image, spread[centres, centres])
        yield overlay, status(text, step.done / step.total)
    if step.done < step.total:
        cause = "Stopped" if stop.is_set() else f"Out of time ({DEADLINE_SECONDS} s)"
        yield overlay, status(f"{cause} after {step.done} of {step.total} places: {model.name}, “{label}”.")


# ---- fields and places -----------------------------------------------------------------------------------------------


def blocks_of(model: Classifier) -> list[windows.Block]:
    """Its blocks, none for a model that has neither Swin's windows nor a plain ViT's patches."""
    try:
        return model.blocks()
    except ValueError:
        return []


def own_fields(model: Classifier, label: str = TOP_ANSWER, method: str | None = None) -> dict[str, dict]:
    """What the fields that depend on the model show; label and method stay as they are where it has them."""
    labels = [TOP_ANSWER, *model.label_names]
    methods = [(said, name) for name, said in AT_ONCE.items() if name != ROLLOUT or model.has_attention]
    names = [name for _, name in methods]
    blocks, layers = blocks_of(model), model.layers
    fine = max((k for k, side in enumerate(layers, 1) if side >= FINE_ENOUGH), default=len(layers))
    return {
        "label": {"choices": labels, "value": label if label in labels else TOP_ANSWER},
        "method": {"choices": methods, "value": method if method in names else names[0]},
        "block": {"choices": words.chips(blocks), "value": min(2, len(blocks)), "visible": bool(blocks)},
        "layer": {"maximum": max(len(layers), 1), "value": max(fine, 1), "visible": len(layers) > 1},
    }


def cell_at(grid: tuple[int, int], row, column) -> tuple[int, int]:
    """The cell at so many percent of the picture's height and width. Raises InputError outside of it."""
    shares = values.percent(row, "Row"), values.percent(column, "Column")
    return tuple(min(int(share / 100 * side), side - 1) for share, side in zip(shares, grid, strict=True))


def only(grid: tuple[int, int], cell: tuple[int, int]) -> np.ndarray:
    """Where a cell is, (h, w) bool."""
    mask = np.zeros(grid, bool)
    mask[cell] = True
    return mask


class Desk:
    """The models that are loaded, those that show their attention, the flags of those who draw a map, and tokens."""

    def __init__(self, models: Mapping[str, Classifier]):
        self.models, self.flags = values.Models(models), StopFlags()
        self.with_attention = values.Models((name, model) for name, model in models.items() if model.has_attention)
        self.recent = Recent(RECENT_BYTES, lambda maps: sum(each.nbytes for each in maps))

    def covered(self, path: str | None, name, label, stop: threading.Event) -> Iterator[tuple[Image.Image, str]]:
        """`occlusion` of the picture in the file by the model of this name."""
        image = pictures.read_picture(path)
        yield from occlusion(self.models.chosen(name), image, label, stop)

    def at_once(self, path: str | None, name, label, method) -> tuple[Image.Image, str]:
        """`explained` for the picture in the file by the model of this name."""
        model, image = self.models.chosen(name), pictures.read_picture(path)
        return explained(model, image, label, values.choice(method, "Method", AT_ONCE))

    def reach(self, path: str | None, name, block, row, column) -> tuple[Image.Image, str]:
        """The picture with what a patch has seen after so many blocks and the windows of the last, and a sentence.

        row, column: of the patch, in percent. Raises InputError where the model has no such patches.
        """
        model, image = self.models.chosen(name), pictures.read_picture(path)
        if not (blocks := blocks_of(model)):
            said = f"{name} ({words.family(model)}) has neither Swin's windows nor a plain ViT's patches"
            raise values.InputError(f"{said}: choose a model that has.")
        passed = blocks[: values.number(block, "Block", 0, len(blocks), integer=True)]
        patches = model.patches
        cell = cell_at(patches, row, column)
        seen = windows.region(passed, patches, *cell)
        groups = passed[-1].groups if passed else np.arange(seen.size).reshape(patches)
        stands_for = windows.standing_for(groups.shape, patches, *cell)
        return paint.reach(image, groups, seen, stands_for), words.reach(model, passed, *cell, seen)

    def alike(self, path: str | None, name, layer, row, column, second: str | None):
        """Tokens of a layer as colours and by their likeness to one of them: two pictures for each, and a sentence.

        row, column: of that one in the first picture, in percent. The basis of the colours is that of the first. The
        second's pictures are None where there is none. Raises InputError where the model doesn't give its tokens.
        """
        model, seen = self.models.chosen(name), [each for each in (path, second) if each] or [path]
        layer = values.number(layer, "Layer", 1, max(len(model.layers), 1), integer=True)
        images = [pictures.read_picture(each) for each in seen]
        maps = [self.tokens(each, model, image)[layer - 1] for each, image in zip(seen, images, strict=True)]
        first, grid = maps[0], maps[0].shape[:2]
        cell = cell_at(grid, row, column)
        pca = components.fitted(first.reshape(-1, first.shape[-1]))
        cosines = [explain.likeness(first[cell], tokens) for tokens in maps]
        low = min(float(each.min()) for each in cosines)
        shown = []
        for image, tokens, cosine, chosen in zip(images, maps, cosines, (only(grid, cell), None), strict=False):
            amount = (cosine - low) / max(1 - low, 1e-6)
            shown += [paint.colours(components.colours(tokens, pca), chosen), paint.framed_heat(image, amount, chosen)]
        return [*shown, None, None][:4], words.alike(model, layer, first, *cell, low)

    def tokens(self, path: str, model: Classifier, image: Image.Image) -> list[np.ndarray]:
        """The model's `token_maps` of a picture, from the recent ones if there; paths name their content."""
        key = (model.name, model.weights_sha256, path)
        try:
            return self.recent.get(key) or self.recent.keep(key, model.token_maps(image))
        except ValueError as error:
            raise values.InputError(f"{model.name} has no tokens to compare: {error}.") from None

    # For programs

    def classifier_predict(self, picture):
        """What each loaded model takes a picture for: its five most probable labels, and the facts below as HTML.

        The facts begin with a sentence where the model has not seen such pictures.

        Parameters:
            picture: a picture file
        """
        image = pictures.read_picture(picture)
        found = homes.of(image, self.models)
        notes = {name: homes.sentence(found, name, self.models) for name in self.models}
        return [part for name, model in self.models.items() for part in answer(model, image, notes[name])]

    def classifier_rollout(self, picture, model):
        """The picture under a ViT's attention rollout: white for least, through amber, to dark red for most.

        Parameters:
            picture: a picture file
            model: the name of a loaded ViT
        """
        image, vit = pictures.read_picture(picture), self.with_attention.chosen(model)
        overlay, said = explained(vit, image, TOP_ANSWER, ROLLOUT)
        return overlay, status(said)

    def classifier_occlusion(self, picture, model, label, request: gr.Request):
        """The picture under the map of what covering a place does to a label: red lowers it, blue raises it.

        It comes again after every step as it fills; the last one is whole.

        Parameters:
            picture: a picture file
            model: the name of a loaded model
            label: one of the model's labels, or "top answer"
        """
        with self.flags.armed(request.session_hash) as stop:
            yield from self.covered(picture, model, label, stop)

    def classifier_explain(self, picture, label, method, model, request: gr.Request):
        """The picture under a map of what a label is decided by, and a sentence on what it shows.

        White for least, through amber, to dark red for most; of occlusion red where covering a place lowers the label,
        blue where it raises it.

        Parameters:
            picture: a picture file
            label: one of the model's labels, or "top answer"; rollout is of the answer as a whole
            method: "rollout" (a plain ViT's alone), "occlusion", "saliency" or "grad-cam"
            model: the name of a loaded model
        """
        if values.choice(method, "Method", METHODS) != OCCLUSION:
            overlay, said = self.at_once(picture, model, label, method)
            return overlay, status(said)
        with self.flags.armed(request.session_hash) as stop:
            *_, last = self.covered(picture, model, label, stop)
        return last
