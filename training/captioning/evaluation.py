"""What captions of pictures and scenes are worth, by a captioner in training or a saved one."""

import functools
import random
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from hub_models import captioning as contract
from hub_models.pictures import frame
from training import hybrid, metrics
from training.captioning.layouts import layout_scores
from training.captioning.nouns import nouns_of, share_right
from training.data.captions import MOST_SAID, Captions, core, scene_caption, spoken
from training.data.facts import facts_of
from training.data.scenes import Scenes
from training.data.sources import Source, open_source
from training.data.split import known_concepts
from training.data.views import Views
from training.task import Results

SCENES_MEASURED = 500  # of each set, by `evaluate_checkpoint`
FEW_SCENES = 20  # of each set, where the data are a sample
BEAMS = 3  # of captions that are searched for
HOG_PX = 64  # side of the pictures that the nearest neighbour is looked for among


def evaluate_checkpoint(
    name: str, dataset_name: str, *, columns: dict | None = None, scenes: int = SCENES_MEASURED
) -> Results:
    """What greedy captions of a saved captioner are worth, per evaluation set of things that training pictures show.

    Of emoji (of an unseen style training concepts only): exact_name_accuracy, cider_d, bleu4; and of `scenes` painted
    scenes of each set, some of validation concepts (whose names no training picture has: look at kinds_right):
    objects_right, relations_right, and the two by class. Of other data: cider_d and bleu4, `nouns` (see
    `training.captioning.nouns`), and all three of captions by BEAMS beams. The baseline says the plain caption of the
    nearest training picture, in HOG and colour, or in features of the model's own backbone of timm.
    """
    served, facts, columns = contract.load(name), facts_of(dataset_name), columns or {}
    train = open_source(dataset_name, split="train", **columns)
    known, features_of, by = Captions(train), hog_features, "HOG + colour"
    if hybrid.is_hybrid(contract.encoder_of(served.model)):
        features_of, by = functools.partial(backbone_features, served), "backbone"
    features = features_of(train, range(len(train)))
    results, shown = Results(f"{by} nearest neighbour"), []
    for split in facts.known_sets:
        source = open_source(dataset_name, split=split, **columns)
        rows, said = known_concepts(source, split), Captions(source)
        measured, captions = picture_scores(served, source, rows)
        nearest = metrics.nearest_distances(features_of(source, rows), features)[0]
        guesses, truths = [known.plain(i) for i in nearest], [said.all(i) for i in rows]
        guessed = worded(guesses, truths)
        if said.made:
            truth = [said.plain(i) for i in rows]
            guessed["exact_name_accuracy"] = exact_name_accuracy(guesses, truth)
            results.per_class[split] = by_style(captions, truth, [source.column("style")[i] for i in rows])
        else:
            by_beams, searched = picture_scores(served, source, rows, BEAMS)
            nouns = nouns_of(text for i in range(len(known)) for text in known.all(i))
            measured["nouns"], guessed["nouns"] = (share_right(told, truths, nouns) for told in (captions, guesses))
            by_beams["nouns"] = share_right(searched, truths, nouns)
            measured |= {f"beams/{key}": value for key, value in by_beams.items()}
        results.note(split, measured | {"pictures": len(rows)}, guessed)
        results.hashes.append(source.data_hash)
        if facts.show_pictures:
            some = evenly(len(rows), 8)
            shown += [(source.picture(rows[n]), captions[n], said.plain(rows[n])) for n in some]
    kinds = {core(spoken(known.names[i])): train.label(i) + 1 for i in range(len(train))} if facts.painted_sets else {}
    for which in facts.painted_sets:
        painted = Scenes(which, dataset_name=dataset_name, resolution_px=served.resolution_px, max_objects=MOST_SAID,
                         length=min(scenes, FEW_SCENES) if facts.sample else scenes)  # fmt: skip
        measured, captions = scene_scores(served, painted, kinds)
        results.note(f"scenes/{which}", measured | {"pictures": len(painted)})
        results.hashes.append(painted.data_hash)
        examples = [(painted.scene(n), captions[n]) for n in evenly(len(painted), 8)]
        shown += [(scene.image, caption, scene_caption(scene.objects)) for scene, caption in examples]
    if shown:
        results.figures["captions"] = captions_sheet(shown)
    return results


def by_style(captions: Sequence[str], truth: Sequence[str], styles: Sequence[str]) -> dict[str, float]:
    """`exact_name_accuracy` of the pictures of each style."""
    rows = {style: [n for n, other in enumerate(styles) if other == style] for style in sorted(set(styles))}
    return {
        style: exact_name_accuracy([captions[n] for n in own], [truth[n] for n in own]) for style, own in rows.items()
    }


def evenly(length: int, count: int) -> list[int]:
    """At most `count` of range(length), evenly spread."""
    count = min(count, length)
    return [n * length // count for n in range(count)]


def exact_name_accuracy(captions: Sequence[str], names: Sequence[str]) -> float:
    """Share of captions that say just the name, in [0, 1]: case, accents, punctuation, article, style words aside."""
    return float(np.mean([core(said) == core(name) for said, name in zip(captions, names, strict=True)]))


def best(served: contract.Captioner, pictures: Iterable[Image.Image], num_beams: int = 1) -> list[str]:
    """The best caption of each picture, word by word or of beams; as many at once as the model sees at once."""
    found: list[str] = []
    waiting: list[Image.Image] = []
    for picture in pictures:
        waiting.append(picture)
        if len(waiting) == contract.BATCH:
            found += [captions[0].text for captions in served.caption_all(waiting, num_beams=num_beams)]
            waiting = []
    return found + [captions[0].text for captions in served.caption_all(waiting, num_beams=num_beams)]


def worded(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """CIDEr-D and BLEU-4 of captions."""
    return {
        "cider_d": float(metrics.cider_d(captions, references).mean()),
        "bleu4": metrics.bleu4(captions, references),
    }


def picture_scores(served: contract.Captioner, source: Source, rows: Sequence[int] | np.ndarray, num_beams: int = 1):
    """Scores of captions of single pictures, with `exact_name_accuracy` where they have names, and the captions."""
    said = Captions(source)
    captions = best(served, (source.picture(i) for i in rows), num_beams)
    scores = {}
    if said.made:
        scores["exact_name_accuracy"] = exact_name_accuracy(captions, [said.plain(i) for i in rows])
    return scores | worded(captions, [said.all(i) for i in rows]), captions


def scene_scores(served: contract.Captioner, scenes: Scenes, kinds: dict[str, int]):
    """Scores of greedy captions of scenes, and the captions; kinds: see `layout_scores`."""
    painted = [scenes.scene(i) for i in range(len(scenes))]
    captions = best(served, (scene.image for scene in painted))
    objects = [scene.objects for scene in painted]
    rng = random.Random(0)
    references = [[scene_caption(told), *(scene_caption(told, rng) for _ in range(4))] for told in objects]
    return layout_scores(captions, objects, kinds) | worded(captions, references), captions


def hog_features(source: Source, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """HOG and colour of pictures whole in a white square: (N, D)."""
    return metrics.hog_colour_features(np.stack([np.asarray(frame(source.picture(i), HOG_PX)) for i in indices]))


@torch.no_grad()
def backbone_features(served: contract.Captioner, source: Source, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """The last map of a backbone of timm, mean over its places, of length 1: (N, C)."""
    tower, rows = contract.encoder_of(served.model), []
    views = Views(source, tower, served.pixel_values, 1)
    for at in range(0, len(indices), contract.BATCH):
        maps = torch.stack([views.maps(i, 0).float() for i in indices[at : at + contract.BATCH]])
        rows.append(hybrid.late_map(hybrid.backbone_of(tower), maps).mean((2, 3)))
    return F.normalize(torch.cat(rows)).numpy()


def sheet_of(served: contract.Captioner, source: Source, scenes: Scenes | None) -> Image.Image:
    """Captions of a few pictures and scenes as they are now."""
    said = Captions(source)
    rows = [(source.picture(i), said.plain(i)) for i in evenly(len(source), 8)]
    if scenes is not None:
        rows += [(s.image, scene_caption(s.objects)) for s in map(scenes.scene, evenly(len(scenes), 8))]
    captions = best(served, (picture for picture, _ in rows))
    return captions_sheet([(picture, said, true) for (picture, true), said in zip(rows, captions, strict=True)])


def captions_sheet(rows: Sequence[tuple[Image.Image, str, str]]) -> Image.Image:
    """Pictures in two columns, each with what was said of it, and below in grey what is true."""
    tile, width, columns = 72, 560, 2
    sheet = Image.new("RGB", (width * columns, tile * -(-len(rows) // columns)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, (picture, said, true) in enumerate(rows):
        x, y = number % columns * width, number // columns * tile
        sheet.paste(frame(picture, tile - 8), (x + 4, y + 4))
        colour = (20, 140, 60) if core(said) == core(true) else "black"
        pen.text((x + tile + 4, y + 14), said[:72], colour, font)
        pen.text((x + tile + 4, y + 38), true[:72], (130, 130, 130), font)
    return sheet.quantize(128)
