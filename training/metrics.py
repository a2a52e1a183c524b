"""Scores as functions of arrays: no files, no models, no state.

Letters: N, M pictures; K classes; D features; H, W pixels.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from PIL import Image

BLOCK_BYTES = 64 * 2**20  # how much of a distance matrix is held at once


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """Share of pictures in [0, 1] whose true class is among the k highest logits.

    logits (N, K), labels (N,) integers in [0, K). Of equal logits the lower class comes first, as in argmax, so a
    model that answers the same for every class earns no more than a constant guess. k above K counts as K.
    Raises ValueError for an empty set, shapes that do not fit, labels out of range, and logits that are not finite
    (no number is greater than NaN, so a broken model would otherwise score 1).
    """
    logits, labels = np.asarray(logits), _class_ids(labels, "labels")
    if logits.ndim != 2 or len(logits) != len(labels) or len(labels) == 0 or k < 1:
        raise ValueError(f"need logits (N, K), labels (N,), N > 0 and k > 0; got {logits.shape}, {labels.shape}, k={k}")
    _in_range(labels, logits.shape[1], "labels")
    if not np.isfinite(logits).all():
        rows = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        raise ValueError(f"logits of {len(rows)} pictures are not finite, the first is number {rows[0]}")
    truth = np.take_along_axis(logits, labels[:, None], axis=1)  # (N, 1)
    earlier = np.arange(logits.shape[1])[None, :] < labels[:, None]  # (N, K)
    rank = (logits > truth).sum(axis=1) + ((logits == truth) & earlier).sum(axis=1)  # (N,)
    return float((rank < k).mean())


def recall_at_k(similarity: np.ndarray, query_ids: np.ndarray, candidate_ids: np.ndarray, k: int = 1) -> float:
    """Share of queries in [0, 1] with a right candidate among the k most similar ones.

    similarity (N, M) of N queries to M candidates; query_ids (N,), candidate_ids (M,) integers: a candidate is right
    where they are equal, and several may be. Of equal similarities the lower index comes first, so a model that finds
    everything alike earns no more than chance. k above M counts as M.
    Raises ValueError for shapes that do not fit, no queries, a query without a right candidate, and values that are not
    finite.
    """
    similarity = np.asarray(similarity)
    query, candidate = _class_ids(query_ids, "query_ids"), _class_ids(candidate_ids, "candidate_ids")
    if similarity.shape != (len(query), len(candidate)) or not len(query) or k < 1:
        raise ValueError(
            f"need similarity (N, M), N query_ids > 0, M candidate_ids and k > 0; got {similarity.shape}, "
            f"{len(query)}, {len(candidate)}, k={k}"
        )
    if not np.isfinite(similarity).all():
        raise ValueError("similarity holds values that are not finite")
    right = query[:, None] == candidate[None]  # (N, M)
    if not right.any(1).all():
        raise ValueError(f"query {np.flatnonzero(~right.any(1))[0]} has no right candidate")
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]  # (N, k)
    return float(np.take_along_axis(right, order, axis=1).any(1).mean())


def confusion_matrix(pred: np.ndarray, true: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts (K, K) int64: row = truth, column = prediction.

    pred, true (N,) integers in [0, num_classes). Raises ValueError where they are not.
    """
    pred, true = _class_ids(pred, "pred"), _class_ids(true, "true")
    if pred.shape != true.shape:
        raise ValueError(f"pred {pred.shape} and true {true.shape} must be of one length")
    _in_range(pred, num_classes, "pred")
    _in_range(true, num_classes, "true")
    counts = np.bincount(true * num_classes + pred, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)  # (K, K)


def per_class_accuracy(conf: np.ndarray) -> np.ndarray:
    """Share of each true class that was predicted as it, (K,) float64 in [0, 1]; NaN for a class with no pictures.

    conf (K, K): a confusion matrix with the truth in rows.
    """
    conf = np.asarray(conf, dtype=np.float64)
    total = conf.sum(axis=1)  # (K,)
    return np.divide(np.diag(conf), total, out=np.full(len(conf), np.nan), where=total > 0)


def auroc(higher: np.ndarray, lower: np.ndarray) -> float:
    """The probability that a number of `higher` (N,) is above one of `lower` (M,); of equal ones, half. 0.5 is chance.

    The area under the ROC curve: the Mann-Whitney statistic over N·M.
    """
    ranks = np.sort(np.asarray(lower, np.float64))
    below, upto = (np.searchsorted(ranks, np.asarray(higher, np.float64), side) for side in ("left", "right"))
    return float((below + upto).mean() / (2 * len(ranks)))


def kernel_inception_distance(
    features_a: np.ndarray, features_b: np.ndarray, *, draws: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """The unbiased squared MMD between two sets of features, and the ends of its 95 % interval by bootstrap.

    features_a (N, D), features_b (M, D). Kernel (x·y / D + 1)^3. Each of `draws` takes N and M rows with replacement;
    a row that is drawn twice isn't compared with itself, which would pass for likeness. Expected 0 for equal
    distributions whatever the sizes, so it may come out below 0. Numbers of different feature spaces do not compare.
    Raises ValueError for sets of one row, of different D or not finite.
    Bińkowski et al. 2018, "Demystifying MMD GANs", arXiv 1801.01401, §4; the estimator is Gretton et al. 2012, eq. 3.
    """
    a, b = _matrix(features_a, "features_a"), _matrix(features_b, "features_b")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of {a.shape[1]} and of {b.shape[1]} numbers do not compare: use one feature model")
    if min(len(a), len(b)) < 2:
        raise ValueError(f"need two rows or more in either set; got {len(a)} and {len(b)}")
    k_aa, k_bb, k_ab = ((p @ q.T / a.shape[1] + 1.0) ** 3 for p, q in ((a, a), (b, b), (a, b)))

    def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The estimate (S,) of rows that are counted u (S, N) and v (S, M) times."""
        value = -2 * ((u @ k_ab) * v).sum(1) / (len(a) * len(b))
        for times, kernel in ((u, k_aa), (v, k_bb)):
            squares = times**2
            pairs = times.sum(1) ** 2 - squares.sum(1)
            value += (((times @ kernel) * times).sum(1) - squares @ np.diag(kernel)) / pairs
        return value

    rng = np.random.default_rng(seed)
    counts = [rng.multinomial(n, np.full(n, 1 / n), draws).astype(np.float64) for n in (len(a), len(b))]
    with np.errstate(invalid="ignore"):  # of two rows a draw may have one alone: NaN, and left out
        low, high = np.nanpercentile(distance(*counts), [2.5, 97.5])
    return float(distance(np.ones((1, len(a))), np.ones((1, len(b))))[0]), float(low), float(high)


def nearest_distances(queries: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each query the row of its nearest reference, (N,) int64, and the Euclidean distance to it, (N,) float64.

    queries (N, D), references (M, D). An exact copy has distance 0.0. Works in blocks: memory does not grow with N·M.
    """
    q, r = _matrix(queries, "queries"), _matrix(references, "references")
    if len(r) == 0 or q.shape[1] != r.shape[1]:
        raise ValueError(f"need references (M, D), M > 0, of the queries' D; got {q.shape} and {r.shape}")
    index = np.empty(len(q), dtype=np.int64)
    r_squares = np.einsum("md,md->m", r, r)  # (M,)
    step = max(1, BLOCK_BYTES // (8 * len(r)))
    for start in range(0, len(q), step):
        block = q[start : start + step]
        index[start : start + step] = np.argmin(r_squares - 2.0 * (block @ r.T), axis=1)  # |q|² is the same for all
    # The difference itself, not the expanded square: cancellation would leave a copy at about 1e-7.
    distance = np.concatenate(
        [np.linalg.norm(q[s : s + 1024] - r[index[s : s + 1024]], axis=1) for s in range(0, len(q), 1024)] or [[]]
    )
    return index, distance


def hog_colour_features(images: np.ndarray) -> np.ndarray:
    """Shape and colour without learning, (N, D) float32: the features of the baseline that a model has to beat.

    images (N, H, W, 3) uint8, sides of 16 px or more. Three parts, each of norm 1 at most, so that none outweighs the
    others: histograms of oriented gradients (9 orientations, cells of 1/8 of the side, blocks of 2×2 cells; Dalal &
    Triggs 2005), the mean colour of 4×4 tiles, and the square root of a 4×4×4 colour histogram (so that distances are
    Hellinger's). Sides that differ give another D: bring all pictures to one size. Needs scikit-image (extra `train`).
    """
    from skimage.feature import hog  # here: apps and tests of the other scores go without it

    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or min(images.shape[1:3]) < 16:
        raise ValueError(f"need uint8 (N, H, W, 3) of 16 px or more a side, got {images.dtype} {images.shape}")
    height, width = images.shape[1:3]
    rows = []
    for image in images:
        shape = hog(image, 9, (height // 8, width // 8), (2, 2), block_norm="L2-Hys", channel_axis=-1)
        shape = shape / max(np.linalg.norm(shape), 1e-12)
        tiles = np.stack([t.mean(axis=(0, 1)) for r in np.array_split(image, 4) for t in np.array_split(r, 4, axis=1)])
        tiles = tiles.ravel() / (255 * np.sqrt(tiles.size))  # 16 tiles × RGB
        bins = (image >> 6).reshape(-1, 3).astype(np.int64) @ [16, 4, 1]  # (H*W,)
        histogram = np.sqrt(np.bincount(bins, minlength=64) / bins.size)
        rows.append(np.concatenate([shape, tiles, histogram]).astype(np.float32))
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


def nearest_neighbour_accuracy(train_x: np.ndarray, train_y: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """Share in [0, 1] of the rows of x whose nearest row of train_x (Euclidean) has their label.

    train_x (M, D), train_y (M,), x (N, D), y (N,).
    """
    train_y, y = _class_ids(train_y, "train_y"), _class_ids(y, "y")
    if len(train_x) != len(train_y) or len(x) != len(y) or len(y) == 0:
        raise ValueError(f"rows and labels differ or are none: {len(train_x)}/{len(train_y)}, {len(x)}/{len(y)}")
    return float((train_y[nearest_distances(x, train_x)[0]] == y).mean())


def psnr(pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each picture in dB, (N,) float64; infinite where it equals its reference.

    pictures, references (N, H, W, 3) uint8: 10 log10(255² / mean squared error).
    """
    pictures, references = _pictures(pictures, references)
    error = np.array([np.square(a.astype(np.float64) - b).mean() for a, b in zip(pictures, references, strict=True)])
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255.0**2 / error)  # (N,)


def ssim(pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Structural similarity of each picture to its reference, (N,) float64, 1 = equal; mean over pixels and channels.

    pictures, references (N, H, W, 3) uint8, sides of 11 px or more. Gaussian window of σ = 1.5, K = (0.01, 0.03):
    Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", §III-B, by
    scikit-image (extra `train`).
    """
    from skimage.metrics import structural_similarity  # here: apps and tests of the other scores go without it

    pictures, references = _pictures(pictures, references)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = zip(pictures, references, strict=True)
    return np.array([structural_similarity(a, b, channel_axis=-1, data_range=255, **settings) for a, b in pairs])


def fit_patch_pca(pictures: np.ndarray, patch_px: int, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and the first principal components (D, components) of all patches of pictures, float32.

    pictures (N, H, W, 3) uint8, sides multiples of patch_px; D = 3 patch_px². Orthonormal columns, largest variance
    first. Raises ValueError for more components than D. Works in blocks.
    """
    if not 1 <= components <= 3 * patch_px**2:
        raise ValueError(f"patches of {patch_px} px have 1 to {3 * patch_px**2} components, asked for {components}")
    total, products, count = np.zeros(()), np.zeros(()), 0
    for start in range(0, len(pictures), 64):
        rows = _patches(pictures[start : start + 64], patch_px) - 127.5  # near 0: float32 products are exact enough
        total, count = total + rows.sum(axis=0, dtype=np.float64), count + len(rows)
        products = products + (rows.T @ rows).astype(np.float64)  # (D, D)
    mean = total / count
    _, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))  # ascending
    return (mean + 127.5).astype(np.float32), vectors[:, ::-1][:, :components].astype(np.float32)


def patch_pca_reconstruction(pictures: np.ndarray, patch_px: int, mean: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Pictures (N, H, W, 3) uint8 with each patch projected on the components of `fit_patch_pca`; rounded to bytes."""
    out = np.empty_like(pictures)
    for start in range(0, len(pictures), 64):
        block = pictures[start : start + 64]
        rows = _patches(block, patch_px) - mean  # (P, D)
        rows = (rows @ basis) @ basis.T + mean
        n, height, width, _ = block.shape
        grid = rows.reshape(n, height // patch_px, width // patch_px, patch_px, patch_px, 3)
        whole = grid.transpose(0, 1, 3, 2, 4, 5).reshape(block.shape)
        out[start : start + 64] = np.clip(np.rint(whole), 0, 255).astype(np.uint8)
    return out


def _patches(pictures: np.ndarray, patch_px: int) -> np.ndarray:
    """The patches of pictures (N, H, W, 3) as rows, float32 (N·H/p·W/p, 3 p²)."""
    n, height, width, _ = pictures.shape
    if height % patch_px or width % patch_px:
        raise ValueError(f"pictures of {width} × {height} px don't divide into patches of {patch_px} px")
    grid = pictures.reshape(n, height // patch_px, patch_px, width // patch_px, patch_px, 3)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(-1, 3 * patch_px**2).astype(np.float32)


def _pictures(pictures: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as they are; ValueError where they are not uint8 (N, H, W, 3) of one shape, N > 0."""
    pictures, references = np.asarray(pictures), np.asarray(references)
    for array in (pictures, references):
        if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8 or not len(array):
            raise ValueError(f"need uint8 (N, H, W, 3), N > 0, got {array.dtype} {array.shape}")
    if pictures.shape != references.shape:
        raise ValueError(f"pictures {pictures.shape} and references {references.shape} must be of one shape")
    return pictures, references


def _matrix(values: np.ndarray, name: str) -> np.ndarray:
    """values as float64 (rows, D); ValueError where they are not a finite matrix."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"{name} must be (rows, features), got {matrix.shape}")
    if not np.isfinite(matrix).all():
        rows = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        raise ValueError(f"{len(rows)} rows of {name} are not finite, the first is number {rows[0]}")
    return matrix


def _class_ids(values: np.ndarray, name: str) -> np.ndarray:
    """values as int64 (N,); ValueError where they are not whole numbers in one row."""
    ids = np.asarray(values)
    if ids.ndim != 1 or not (np.issubdtype(ids.dtype, np.integer) or ids.size == 0):
        raise ValueError(f"{name} must be integers (N,), got {ids.dtype} {ids.shape}")
    return ids.astype(np.int64)


def _in_range(ids: np.ndarray, num_classes: int, name: str) -> None:
    """ValueError naming the first id that is no class."""
    wrong = np.flatnonzero((ids < 0) | (ids >= num_classes))
    if len(wrong):
        raise ValueError(
            f"{name}[{wrong[0]}] is {ids[wrong[0]]}: not one of {num_classes} classes (0 … {num_classes - 1})"
        )


def rms_rows(pictures: np.ndarray) -> np.ndarray:
    """Pictures uint8 (N, R, R, 3) as rows (N, D) whose Euclidean distance is the RMS over values in [0, 1]."""
    flat = pictures.reshape(len(pictures), -1).astype(np.float32) / 255
    return flat / np.sqrt(flat.shape[1])


def in_batches(call: Callable, pictures: Iterable, batch_size: int = 128) -> np.ndarray:
    """Rows (N, …) of call(list of PIL pictures), asked for at most batch_size at a time.

    pictures: PIL, or uint8 (R, R, 3) each.
    """
    made, pictures = [], iter(pictures)
    while part := list(itertools.islice(pictures, batch_size)):
        made.append(np.asarray(call([Image.fromarray(p) if isinstance(p, np.ndarray) else p for p in part])))
    return np.concatenate(made)


# --- Segmentation: all from one confusion matrix and one table of confidence, which add up over pictures --------------


def iou(conf: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, (K,) float64; NaN for a class that is in neither truth nor prediction.

    conf (K, K): a confusion matrix of pixels, truth in rows, summed over all pictures of a set.
    """
    conf = np.asarray(conf, dtype=np.float64)
    union = conf.sum(0) + conf.sum(1) - np.diag(conf)  # (K,)
    return np.divide(np.diag(conf), union, out=np.full(len(conf), np.nan), where=union > 0)


def mean_iou(conf: np.ndarray) -> float:
    """The mean of `iou` over the classes that truth or prediction has. Raises ValueError for an empty matrix."""
    values = iou(conf)
    if np.isnan(values).all():
        raise ValueError("the confusion matrix is empty: no pixel has an answer")
    return float(np.nanmean(values))


def foreground_iou(conf: np.ndarray, background: int = 0) -> float:
    """Intersection over union of "any class but the background"; 1 where neither truth nor prediction has any."""
    conf = np.asarray(conf, dtype=np.float64)
    inside = np.arange(len(conf)) != background
    union = conf.sum() - conf[background, background]
    return float(conf[np.ix_(inside, inside)].sum() / union) if union else 1.0


CONFIDENCE_BINS = 100  # of `confidence_table`; `expected_calibration_error` joins them into fewer


def confidence_table(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(3, CONFIDENCE_BINS) float64: number of answers, sum of their confidence, number of right ones, by confidence.

    confidence (N,) in [0, 1], right (N,) bool. Bin i holds [i, i + 1) / CONFIDENCE_BINS, the last one also 1. Tables
    add up.
    """
    confidence = np.asarray(confidence, np.float64).ravel()
    place = np.clip((confidence * CONFIDENCE_BINS + 1e-9).astype(np.int64), 0, CONFIDENCE_BINS - 1)
    weights = (None, confidence, np.asarray(right, np.float64).ravel())
    return np.stack([np.bincount(place, w, CONFIDENCE_BINS).astype(np.float64) for w in weights])


def expected_calibration_error(table: np.ndarray, bins: int = 20) -> float:
    """Mean distance of confidence and share of right answers over bins, weighted by their size, in [0, 1].

    table: of `confidence_table`. Guo et al. 2017, eq. 3, with bins of equal width. Raises ValueError for an empty
    table.
    """
    count, confidence, right = np.asarray(table).reshape(3, bins, -1).sum(-1)  # (bins,) each
    if not count.sum():
        raise ValueError("no answers to measure the calibration of")
    return float(np.abs(confidence - right).sum() / count.sum())


def risk_coverage(table: np.ndarray) -> dict[str, list[float]]:
    """What is kept, and how much of that is wrong, where answers below a confidence are left out.

    {"threshold", "coverage", "risk"}: CONFIDENCE_BINS numbers each, from threshold 0 (everything kept) up. Risk is that
    of the least threshold above which nothing remains, for those beyond. El-Yaniv & Wiener 2010, §2. table: of
    `confidence_table`.
    """
    count, _, right = np.asarray(table, np.float64)
    kept = count[::-1].cumsum()[::-1]  # (bins,) answers with a confidence from the bin's lower edge on
    wrong = (count - right)[::-1].cumsum()[::-1]
    if not kept[0]:
        raise ValueError("no answers to draw a risk-coverage curve of")
    last = np.flatnonzero(kept)[-1]
    risk = np.divide(wrong, kept, out=np.full(len(kept), wrong[last] / kept[last]), where=kept > 0)
    threshold = np.arange(len(count)) / len(count)
    return {
        "threshold": [round(float(v), 4) for v in threshold],
        "coverage": [round(float(v), 5) for v in kept / kept[0]],
        "risk": [round(float(v), 5) for v in risk],
    }


def fit_temperature(logits: np.ndarray, labels: np.ndarray, low: float = 0.1, high: float = 10.0) -> float:
    """The temperature in [low, high] at which softmax(logits / temperature) gives the labels the highest likelihood.

    logits (N, K), labels (N,). The loss is convex in 1 / temperature: golden sections. Guo et al. 2017, §4.2.
    Raises ValueError for shapes that don't fit and values that are not finite.
    """
    logits, labels = np.asarray(logits, np.float64), _class_ids(labels, "labels")
    if logits.ndim != 2 or len(logits) != len(labels) or not len(labels) or not np.isfinite(logits).all():
        raise ValueError(f"need finite logits (N, K) and labels (N,), N > 0; got {logits.shape} and {labels.shape}")
    _in_range(labels, logits.shape[1], "labels")
    truth = np.take_along_axis(logits, labels[:, None], 1)  # (N, 1)
    margin = logits - truth  # (N, K): the loss is log sum exp of it

    def loss(inverse: float) -> float:
        scaled = margin * inverse
        top = scaled.max(1, keepdims=True)
        return float((top[:, 0] + np.log(np.exp(scaled - top).sum(1))).mean())

    ratio = (5**0.5 - 1) / 2
    a, b = 1 / high, 1 / low
    c, d = b - ratio * (b - a), a + ratio * (b - a)
    at_c, at_d = loss(c), loss(d)
    while b - a > 1e-4 * b:
        if at_c < at_d:
            b, d, at_d = d, c, at_c
            c = b - ratio * (b - a)
            at_c = loss(c)
        else:
            a, c, at_c = c, d, at_d
            d = a + ratio * (b - a)
            at_d = loss(d)
    return 2 / (a + b)


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]], sigma: float = 6.0) -> np.ndarray:
    """CIDEr-D of each candidate among its references, (N,) float64 in [0, 10]: see `CiderD`.

    Raises ValueError where a candidate has no references.
    """
    if not candidates or len(candidates) != len(references) or not all(references):
        raise ValueError(f"need references for each of N > 0 candidates; got {len(candidates)}, {len(references)}")
    score = CiderD(references, sigma)
    return np.array([score(text, number) for number, text in enumerate(candidates)])


class CiderD:
    """CIDEr-D of captions of pictures whose references are known, with how rare each n-gram is among these pictures.

    Cosine of the tf-idf weights of n-grams, clipped to the reference's and damped by the difference in length, mean
    over n = 1 to 4 and the references, times 10: Vedantam et al. 2015, eq. 3 and §4, as its authors' code has it. Words
    are lower case without punctuation, not stemmed. An n-gram that the references of every picture have counts nothing,
    so of a single picture every caption scores 0. What is needed of references is made when it is first asked for, and
    kept.
    """

    def __init__(self, references: Sequence[Sequence[str]], sigma: float = 6.0):
        self.references, self.sigma = references, sigma
        self._pictures = Counter(gram for texts in references for gram in set().union(*map(_ngrams, texts)))
        self._rarity = math.log(len(references))
        self._known: dict[int, list] = {}  # of each picture, its references as `_weighed`

    def __call__(self, candidate: str, number: int) -> float:
        """The score of a caption of picture `number`, in [0, 10]."""
        if number not in self._known:
            self._known[number] = [self._weighed(text) for text in self.references[number]]
        mine, my_norms, my_length = self._weighed(candidate)
        total = 0.0
        for theirs, norms, length in self._known[number]:
            damping = math.exp(-((my_length - length) ** 2) / (2 * self.sigma**2))
            for a, b, one, other in zip(mine, theirs, my_norms, norms, strict=True):
                if one and other:
                    shared = sum(min(value, b[gram]) * b[gram] for gram, value in a.items() if gram in b)
                    total += damping * shared / math.sqrt(one * other)
        return 10 * total / (4 * len(self._known[number]))

    def _weighed(self, text: str) -> tuple[list[dict], list[float], int]:
        """The tf-idf weights of a text's n-grams for n = 1 to 4, their squared norms, and its length in words."""
        found: list[dict] = [{}, {}, {}, {}]
        counts = _ngrams(text)
        for gram, count in counts.items():
            found[len(gram) - 1][gram] = count * (self._rarity - math.log(max(1, self._pictures[gram])))
        norms = [sum(value * value for value in weights.values()) for weights in found]
        return found, norms, sum(count for gram, count in counts.items() if len(gram) == 1)


def _ngrams(text: str, longest: int = 4) -> Counter:
    """How often each run of one to four words is in a text."""
    words = re.findall(r"\w+", text.lower())
    return Counter(tuple(words[i : i + n]) for n in range(1, longest + 1) for i in range(len(words) - n + 1))


def bleu4(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU-4 of a corpus, 0 to 100, each candidate with one reference or more; in lower case, tokens "13a".

    Papineni et al. 2002, by sacrebleu (Post 2018; extra `train`).
    """
    from sacrebleu.metrics import BLEU  # here: apps and tests of the other scores go without it

    if not candidates or len(candidates) != len(references) or not all(references):
        raise ValueError(f"need references for each of N > 0 candidates; got {len(candidates)}, {len(references)}")
    most = max(map(len, references))
    columns: list = [[texts[k] if k < len(texts) else None for texts in references] for k in range(most)]
    return BLEU(lowercase=True).corpus_score(list(candidates), columns).score
