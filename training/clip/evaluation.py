"""What a dual encoder is worth, in training or saved: retrieval both ways, and labels that it was never told.

Letters: N pictures, M texts, D width of the common space, K labels.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from hub_models import clip as contract
from training import metrics
from training.data.captions import Captions
from training.data.facts import facts_of
from training.data.sources import DataError, Source, open_source
from training.data.split import known_concepts
from training.task import Results, by_label

FEW, MANY = 500, 1000  # pictures among which one is looked for: of things with one name each, of photographs


def evaluate_checkpoint(
    name: str, dataset_name: str, *, columns: dict | None = None, limit: int | None = None
) -> Results:
    """Retrieval and zero-shot accuracy of a saved dual encoder, per evaluation set.

    recall@1, 5, 10 both ways among at most `limit` pictures (FEW, or MANY of photographs) of distinct concepts and
    their plain captions ("a red apple"), and zero_shot_accuracy over the labels on all pictures; of an unseen style
    training concepts only. The baseline is an oracle that knows the names of all training pictures: a caption is as
    near as the nearest training picture of that name, in HOG and colour features. It says nothing about validation,
    whose concepts have no training pictures.
    """
    served, facts, columns = contract.load(name), facts_of(dataset_name), columns or {}
    limit = limit or (FEW if facts.by_concept else MANY)
    train = open_source(dataset_name, split="train", **columns)
    known = {"names": Captions(train).names, "features": hog_features(train, range(len(train)))}
    results = Results("HOG + colour oracle")
    for split in reversed(facts.evaluation_sets):
        source = open_source(dataset_name, split=split, **columns)
        said, rows = Captions(source), known_concepts(source, split)
        image = served.embed_images([source.picture(i) for i in rows])  # (N, D)
        picked = distinct(source, said, rows, limit)  # places in rows
        names, texts = [said.names[rows[i]] for i in picked], [said.plain(rows[i]) for i in picked]
        similarity = (image[picked] @ served.embed_texts(texts).T).numpy()
        measured, guessed = both_ways(similarity, np.arange(len(picked))) | {"pictures": len(picked)}, {}
        if split != "validation":
            guess = oracle_similarity(hog_features(source, rows[picked]), names, known["features"], known["names"])
            guessed = both_ways(guess, np.arange(len(picked)))
        if source.label_names:
            logits, labels = zero_shot_logits(served, image, source.label_names), source.labels[rows]
            measured["zero_shot_accuracy"] = metrics.top_k_accuracy(logits, labels)
            confusion = metrics.confusion_matrix(logits.argmax(1), labels, len(source.label_names))
            results.per_class[split] = by_label(source.label_names, metrics.per_class_accuracy(confusion))
        results.note(split, measured, guessed)
        results.hashes.append(source.data_hash)
        if facts.show_pictures and not results.figures:
            pictures = [contract.frame(source.picture(rows[i]), 64) for i in picked]
            results.figures["retrieval"] = retrieval_sheet(pictures, texts, similarity.T)
    return results


def recalls(served: contract.CLIP, source: Source, indices: Sequence[int] | None = None) -> dict[str, float]:
    """recall@1, 5 and 10 both ways among these pictures of a source and the plain captions of all their names."""
    indices = range(len(source)) if indices is None else indices
    said = Captions(source)
    texts = {said.names[i]: said.plain(i) for i in indices}  # one caption a name
    number = {name: k for k, name in enumerate(texts)}
    image = served.embed_images([source.picture(i) for i in indices])  # (N, D)
    similarity = (image @ served.embed_texts(list(texts.values())).T).numpy()  # (N, M)
    return both_ways(similarity, np.array([number[said.names[i]] for i in indices]))


def both_ways(similarity: np.ndarray, caption_of: np.ndarray) -> dict[str, float]:
    """Recalls of a similarity (N, M) between pictures and captions; caption_of (N,): the right one of each."""
    captions = np.arange(similarity.shape[1])
    return {
        f"{way}/recall@{k}": metrics.recall_at_k(table, asked, offered, k)
        for way, table, asked, offered in (
            ("image_to_text", similarity, caption_of, captions),
            ("text_to_image", similarity.T, captions, caption_of),
        )
        for k in (1, 5, 10)
    }


def fit_rank_temperature(served: contract.CLIP, source: Source, lines: int = 10, most: int = 500) -> float:
    """The temperature at which `rank` is calibrated: of pictures among their own caption and others' of the source.

    At most `most` pictures, each with `lines` captions, drawn the same way every time; 1 where all have one name.
    """
    said, rng = Captions(source), np.random.default_rng(0)
    rows = rng.permutation(len(source))[:most]
    texts = list(dict.fromkeys(said.plain(i) for i in range(len(source))))
    if len(texts) < 2:
        return 1.0
    right = np.array([texts.index(said.plain(i)) for i in rows])
    offered = np.stack(
        [
            [k, *rng.choice(np.delete(np.arange(len(texts)), k), min(lines, len(texts)) - 1, replace=False)]
            for k in right
        ]
    )  # (N, lines), the right one first
    training = served.model.training
    served.model.eval()
    image = served.embed_images([source.picture(i) for i in rows])
    similarity = (image @ served.embed_texts(texts).T).numpy()  # (N, M)
    served.model.train(training)
    logits = served.logit_scale * np.take_along_axis(similarity, offered, 1)
    return round(metrics.fit_temperature(logits, np.zeros(len(rows), np.int64)), 4)


def distinct(source: Source, said: Captions, rows: np.ndarray, limit: int) -> np.ndarray:
    """Places in rows of at most `limit` pictures, no two of one concept or name: the same ones every time."""
    try:
        concepts = source.column("concept")
    except DataError:
        concepts = said.names
    picked, taken = [], set()
    for place in np.random.default_rng(0).permutation(len(rows)):
        about = {("concept", concepts[rows[place]]), ("name", said.names[rows[place]])}
        if not about & taken:
            picked.append(place)
            taken |= about
    return np.array(picked[:limit])


def zero_shot_logits(served: contract.CLIP, image: torch.Tensor, label_names: Sequence[str]) -> np.ndarray:
    """Similarity (N, K) of unit rows (N, D) to K labels, each the mean of three texts (Radford 2021, §3.1.4)."""
    forms = [
        served.embed_texts([form.format(label) for label in label_names]) for form in ("{}", "a {}", "an emoji of a {}")
    ]
    return (image @ F.normalize(torch.stack(forms).mean(0), dim=-1).T).numpy()


def hog_features(source: Source, indices: Sequence[int]) -> np.ndarray:
    """HOG and colour of pictures whole in a white square of 64 px: (N, D)."""
    return metrics.hog_colour_features(np.stack([np.asarray(contract.frame(source.picture(i), 64)) for i in indices]))


def oracle_similarity(features, names: Sequence[str], known_features, known_names: Sequence[str]) -> np.ndarray:
    """Minus the squared distance (N, N) of each picture to the nearest known picture of each name; last without one.

    features (N, D) of pictures with distinct names; known_features (T, D).
    """
    squares = (features**2).sum(1)[:, None] + (known_features**2).sum(1) - 2 * features @ known_features.T  # (N, T)
    rows = defaultdict(list)
    for row, name in enumerate(known_names):
        rows[name].append(row)
    columns = [squares[:, rows[name]].min(1) if rows[name] else np.full(len(features), 1e9) for name in names]
    return -np.stack(columns, axis=1)


def retrieval_sheet(pictures: Sequence[Image.Image], texts: Sequence[str], similarity: np.ndarray) -> Image.Image:
    """The nearest pictures of some texts, a row each, the right one framed; similarity (texts, pictures)."""
    shown, best, tile, left = range(min(12, len(texts))), min(8, len(pictures)), 72, 230
    sheet = Image.new("RGB", (left + best * tile, tile * len(shown)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row in shown:
        pen.text((8, row * tile + tile // 2), texts[row][:32], "black", font, anchor="lm")
        for column, i in enumerate(np.argsort(-similarity[row], kind="stable")[:best]):
            x, y = left + column * tile, row * tile
            sheet.paste(pictures[i], (x + 4, y + 4))
            if i == row:
                pen.rectangle((x + 1, y + 1, x + tile - 2, y + tile - 2), outline=(20, 140, 60), width=3)
    return sheet
