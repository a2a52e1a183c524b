"""Scores against numbers worked by hand and against slow loops that follow the definitions letter by letter."""

import numpy as np
import pytest
import torch

from training import metrics


def test_top_k_by_hand():
    logits = np.array([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0], [1.0, 3.0, 2.0, 0.0], [5.0, 0.0, 1.0, 2.0]])
    labels = np.array([0, 2, 0, 1])  # ranks of the truth: 1, 2, 3, 4
    assert [metrics.top_k_accuracy(logits, labels, k) for k in (1, 2, 3, 4, 9)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_top_k_gives_a_constant_answer_no_more_than_a_guess():
    assert metrics.top_k_accuracy(np.zeros((4, 4)), np.arange(4), 1) == 0.25
    assert metrics.top_k_accuracy(np.zeros((4, 4)), np.arange(4), 2) == 0.5


def test_top_k_equals_sklearn_like_sorting():
    rng = np.random.default_rng(0)
    logits, labels = rng.integers(0, 5, (200, 7)).astype(float), rng.integers(0, 7, 200)  # many ties
    for k in (1, 3):
        slow = np.mean(
            [y in sorted(range(7), key=lambda c: (-row[c], c))[:k] for row, y in zip(logits, labels, strict=True)]
        )
        assert metrics.top_k_accuracy(logits, labels, k) == pytest.approx(slow)


@pytest.mark.parametrize(
    ("logits", "labels", "k", "says"),
    [
        (np.array([[np.nan, 0.0]]), np.array([0]), 1, "not finite"),
        (np.zeros((2, 3)), np.array([0, 3]), 1, r"labels\[1\] is 3"),
        (np.zeros((2, 3)), np.array([0, -100]), 1, "-100"),
        (np.zeros((2, 3)), np.array([0.0, 1.0]), 1, "integers"),
        (np.zeros((0, 3)), np.array([], int), 1, "N > 0"),
        (np.zeros((2, 3)), np.array([0, 1, 2]), 1, "N > 0"),
        (np.zeros((2, 3)), np.array([0, 1]), 0, "k > 0"),
    ],
)
def test_top_k_refuses(logits, labels, k, says):
    with pytest.raises(ValueError, match=says):
        metrics.top_k_accuracy(logits, labels, k)


def test_recall_by_hand():
    similarity = np.array([[0.9, 0.8, 0.1, 0.0], [0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4]])
    asked, offered = np.array([7, 5, 9]), np.array([7, 9, 5, 5])  # best right ones at ranks 1, 3, 3
    assert [metrics.recall_at_k(similarity, asked, offered, k) for k in (1, 2, 3, 99)] == [1 / 3, 1 / 3, 1, 1]
    # The other way: 7 finds row 0 tied with row 1 and first; 9 has 0.8, 0.8, 0.2; 5 and 5 have row 1 first.
    assert metrics.recall_at_k(similarity.T, offered, asked, 1) == 0.75
    assert metrics.recall_at_k(similarity.T, offered, asked, 3) == 1


def test_recall_gives_a_constant_answer_no_more_than_chance_and_equals_top_k():
    assert metrics.recall_at_k(np.zeros((50, 50)), np.arange(50), np.arange(50), 5) == 0.1
    rng = np.random.default_rng(0)
    similarity, asked = rng.integers(0, 9, (80, 12)).astype(float), rng.integers(0, 12, 80)  # many ties
    for k in (1, 4):
        expected = metrics.top_k_accuracy(similarity, asked, k)
        assert metrics.recall_at_k(similarity, asked, np.arange(12), k) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("similarity", "asked", "offered", "k", "says"),
    [
        (np.zeros((2, 3)), [0, 1], [0, 1], 1, "similarity"),
        (np.zeros((0, 3)), [], [0, 1, 2], 1, "N query_ids > 0"),
        (np.zeros((2, 2)), [0, 1], [0, 1], 0, "k > 0"),
        (np.full((2, 2), np.nan), [0, 1], [0, 1], 1, "not finite"),
        (np.zeros((2, 2)), [0, 3], [0, 1], 1, "query 1 has no right candidate"),
        (np.zeros((1, 1)), [0.5], [0], 1, "integers"),
    ],
)
def test_recall_refuses(similarity, asked, offered, k, says):
    with pytest.raises(ValueError, match=says):
        metrics.recall_at_k(similarity, np.array(asked), np.array(offered), k)


def test_confusion_matrix_has_the_truth_in_rows():
    conf = metrics.confusion_matrix(pred=np.array([0, 1, 1, 2, 0]), true=np.array([0, 0, 1, 1, 0]), num_classes=4)
    assert conf.dtype == np.int64
    assert conf.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    per_class = metrics.per_class_accuracy(conf)
    assert per_class[:2].tolist() == [pytest.approx(2 / 3), 0.5]
    assert np.isnan(per_class[2:]).all()  # no pictures, no accuracy: not 0
    with pytest.raises(ValueError, match=r"pred\[1\] is 4"):
        metrics.confusion_matrix(np.array([0, 4]), np.array([0, 1]), 4)  # else it would land in the next row


def test_kid_by_hand():
    # D = 1, kernel (xy + 1)^3. k(0,1) = 1 within a; k(2,-1) = -1 within b; across: 1, 1, 27, 0.
    a, b = np.array([[0.0], [1.0]]), np.array([[2.0], [-1.0]])
    value, low, high = metrics.kernel_inception_distance(a, b)
    assert value == pytest.approx(1 - 1 - 2 * (1 + 1 + 27 + 0) / 4)
    # Drawn again, either set has both rows or one of them twice, which is then compared with nothing: left out.
    assert low == pytest.approx(value) == high


def test_kid_equals_the_definition_in_loops():
    rng = np.random.default_rng(1)
    a, b, d = rng.normal(size=(9, 5)), rng.normal(0.3, 1.2, size=(7, 5)), 5

    def kernel(x, y):
        return (sum(x[i] * y[i] for i in range(d)) / d + 1) ** 3

    def slow(a, b):
        """Rows that are one and the same, as a draw has them, aren't compared."""
        within = [np.mean([kernel(x, y) for x in s for y in s if x is not y]) for s in (a, b)]
        return sum(within) - 2 * np.mean([kernel(x, y) for x in a for y in b])

    whole, low, high = metrics.kernel_inception_distance(a, b, draws=3, seed=4)
    assert whole == pytest.approx(slow(list(a), list(b)), rel=1e-9)
    again = np.random.default_rng(4)
    counts = [again.multinomial(n, np.full(n, 1 / n), 3) for n in (9, 7)]
    rows = [
        [[row for row, k in zip(list(s), times, strict=True) for _ in range(k)] for times in drawn]
        for s, drawn in zip((a, b), counts, strict=True)
    ]
    drawn = [slow(*sets) for sets in zip(*rows, strict=True)]
    assert (low, high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), rel=1e-9)


def test_kid_is_unbiased_and_sees_a_shift():
    rng = np.random.default_rng(2)
    # Unbiased: the mean over 300 tiny independent draws from one distribution lies within 4 standard errors of 0.
    draws = [
        metrics.kernel_inception_distance(rng.normal(size=(6, 8)), rng.normal(size=(6, 8)), draws=2)[0]
        for _ in range(300)
    ]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / np.sqrt(300)
    # A V-statistic (diagonal kept) would be biased by about 2·(k(x,x) − k(x,y))/6: outside of that interval.
    assert 4 * np.std(draws) / np.sqrt(300) < 2 * 6.0 / 6
    a, b = rng.normal(size=(400, 8)), rng.normal(size=(300, 8))
    same, near, far = (metrics.kernel_inception_distance(a, b + shift) for shift in (0, 0.3, 1.0))
    assert same[0] < near[0] < far[0] and all(low < value < high for value, low, high in (same, near, far))
    assert near[1] > same[2] and far[1] > 0, "intervals tell these apart"


def test_the_interval_of_kid_holds_what_many_rows_say():
    rng = np.random.default_rng(3)
    truth, *_ = metrics.kernel_inception_distance(rng.normal(size=(3000, 4)), rng.normal(0.7, 1, (3000, 4)), draws=1)
    held = 0
    for _ in range(80):
        a, b = rng.normal(size=(60, 4)), rng.normal(0.7, 1, size=(50, 4))
        _, low, high = metrics.kernel_inception_distance(a, b, draws=200)
        held += low <= truth <= high
    assert held >= 68, "85 % at least, of 95 % that are meant"


def test_kid_is_a_function_of_its_seed_and_symmetric():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(40, 4)).astype(np.float32), rng.normal(1, 1, size=(40, 4)).astype(np.float32)
    first = metrics.kernel_inception_distance(a, b, seed=5)
    assert metrics.kernel_inception_distance(a, b, seed=5) == first
    assert metrics.kernel_inception_distance(a, b, seed=6)[1:] != first[1:]
    assert metrics.kernel_inception_distance(b, a)[0] == pytest.approx(first[0])


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (np.zeros((4, 3)), np.zeros((4, 2)), "one feature model"),
        (np.zeros((1, 3)), np.zeros((4, 3)), "two rows or more"),
        (np.full((4, 3), np.nan), np.zeros((4, 3)), "features_a are not finite"),
        (np.zeros(4), np.zeros((4, 3)), "features_a must be"),
    ],
)
def test_kid_refuses(a, b, says):
    with pytest.raises(ValueError, match=says):
        metrics.kernel_inception_distance(a, b)


def test_nearest_distances_equal_the_loop_over_all_pairs(monkeypatch):
    rng = np.random.default_rng(4)
    queries, references = rng.normal(100, 1, (23, 6)), rng.normal(100, 1, (17, 6))
    queries[5] = references[11]  # a copy, far from the origin: cancellation would show
    all_pairs = np.array([[np.sqrt(((q - r) ** 2).sum()) for r in references] for q in queries])
    monkeypatch.setattr(metrics, "BLOCK_BYTES", 8 * 17 * 4)  # blocks of 4 queries, the last one short
    index, distance = metrics.nearest_distances(queries, references)
    assert index.tolist() == all_pairs.argmin(axis=1).tolist()
    np.testing.assert_allclose(distance, all_pairs.min(axis=1), rtol=1e-12)
    assert (index[5], distance[5]) == (11, 0.0)
    assert [len(x) for x in metrics.nearest_distances(queries[:0], references)] == [0, 0]
    with pytest.raises(ValueError, match="M > 0"):
        metrics.nearest_distances(queries, references[:0])


def test_hog_colour_features_tell_shape_and_colour_apart():
    blank = np.full((64, 64, 3), 255, np.uint8)
    red_square, blue_square, red_bars, shifted = (blank.copy() for _ in range(4))
    red_square[16:48, 16:48] = (220, 30, 30)
    blue_square[16:48, 16:48] = (30, 30, 220)
    red_bars[::8, :] = (220, 30, 30)
    shifted[17:49, 16:48] = (220, 30, 30)
    images = np.stack([red_square, blue_square, red_bars, shifted, blank])
    features = metrics.hog_colour_features(images)
    assert features.dtype == np.float32
    assert features.shape == (5, 7 * 7 * 4 * 9 + 48 + 64)
    assert np.isfinite(features).all()  # the blank picture has no gradient at all
    assert (np.linalg.norm(features, axis=1) <= np.sqrt(3) + 1e-5).all()
    distance = np.linalg.norm(features - features[0], axis=1)
    assert distance[0] == 0
    assert distance[3] < min(distance[1], distance[2], distance[4])  # one pixel lower is nearer than any of these
    np.testing.assert_array_equal(metrics.hog_colour_features(images[1:2]), features[1:2])  # a picture by itself


def test_hog_colour_histogram_by_hand():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 8:] = (255, 128, 64)  # bin (3, 2, 1) = 16·3 + 4·2 + 1
    histogram = metrics.hog_colour_features(image[None])[0, -64:]
    assert np.flatnonzero(histogram).tolist() == [0, 57]
    np.testing.assert_allclose(histogram[[0, 57]], np.sqrt(0.5))
    tiles = metrics.hog_colour_features(image[None])[0, -64 - 48 : -64].reshape(4, 4, 3) * 255 * np.sqrt(48)
    np.testing.assert_allclose(tiles[:, :2], 0)
    np.testing.assert_allclose(tiles[:, 2:] - [255, 128, 64], 0, atol=1e-3)


@pytest.mark.parametrize(
    "images", [np.zeros((2, 32, 32, 3)), np.zeros((2, 32, 32, 4), np.uint8), np.zeros((2, 8, 8, 3), np.uint8)]
)
def test_hog_refuses_what_is_no_picture(images):
    with pytest.raises(ValueError, match="uint8"):
        metrics.hog_colour_features(images)


def test_nearest_neighbour_accuracy_by_hand():
    train_x, train_y = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]), np.array([0, 1, 2])
    x, y = np.array([[1.0, 0.0], [9.0, 1.0], [8.0, 0.0], [1.0, 8.0]]), np.array([0, 1, 2, 2])
    assert metrics.nearest_neighbour_accuracy(train_x, train_y, x, y) == 0.75
    with pytest.raises(ValueError, match="3/2"):
        metrics.nearest_neighbour_accuracy(train_x, train_y[:2], x, y)


def test_psnr_by_hand():
    reference = np.zeros((3, 4, 5, 3), np.uint8)
    pictures = reference.copy()
    pictures[0] += 51  # a fifth of the range everywhere: 20 log10(5)
    pictures[1, 0, 0, 0] = 255  # one value of sixty is off by all of it: 10 log10(60)
    np.testing.assert_allclose(metrics.psnr(pictures, reference), [20 * np.log10(5), 10 * np.log10(60), np.inf])
    np.testing.assert_allclose(metrics.psnr(reference, pictures), metrics.psnr(pictures, reference))


def test_ssim_of_flat_pictures_by_hand():
    """Without contrast only the luminance term is left: (2 a b + C1) / (a² + b² + C1)."""
    a, b, c1 = 100.0, 150.0, (0.01 * 255) ** 2
    pictures, reference = np.full((2, 16, 16, 3), 100, np.uint8), np.full((2, 16, 16, 3), 150, np.uint8)
    reference[1] = 100
    wanted = [(2 * a * b + c1) / (a**2 + b**2 + c1), 1.0]
    np.testing.assert_allclose(metrics.ssim(pictures, reference), wanted, rtol=1e-6)


def test_ssim_is_wang_et_al_2004_written_out():
    rng = np.random.default_rng(6)
    x = rng.integers(0, 256, (1, 24, 30, 3), dtype=np.uint8)
    y = np.clip(x + rng.normal(0, 40, x.shape), 0, 255).astype(np.uint8)
    line = np.exp(-np.square(np.arange(-5, 6)) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2  # 11 × 11, σ = 1.5, sum 1
    c1, c2, values = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for channel in range(3):
        for top in range(24 - 10):  # all places where the window lies in the picture
            for left in range(30 - 10):
                p, q = (v[0, top : top + 11, left : left + 11, channel].astype(float) for v in (x, y))
                mean_p, mean_q = (window * p).sum(), (window * q).sum()
                var_p, var_q = (window * p * p).sum() - mean_p**2, (window * q * q).sum() - mean_q**2
                cov = (window * p * q).sum() - mean_p * mean_q
                luminance = (2 * mean_p * mean_q + c1) / (mean_p**2 + mean_q**2 + c1)
                values.append(luminance * (2 * cov + c2) / (var_p + var_q + c2))
    assert metrics.ssim(y, x)[0] == pytest.approx(np.mean(values), abs=1e-6)
    assert 0.1 < np.mean(values) < 0.95


@pytest.mark.parametrize("score", [metrics.psnr, metrics.ssim])
def test_picture_scores_refuse(score):
    good = np.zeros((2, 16, 16, 3), np.uint8)
    for bad in (good.astype(np.float32), good[..., :1], good[0], good[:0]):
        with pytest.raises(ValueError, match="uint8"):
            score(bad, bad)
    with pytest.raises(ValueError, match="one shape"):
        score(good, good[:1])


def test_patch_pca_is_torch_linalg():
    rng = np.random.default_rng(7)
    pictures = np.clip(rng.normal(120, 60, (70, 8, 12, 3)).cumsum(axis=2) / 3, 0, 255).astype(np.uint8)  # two blocks
    mean, basis = metrics.fit_patch_pca(pictures, 4, 5)
    # patches cut out one by one, and a singular value decomposition of them all
    rows = torch.tensor(
        np.array([p[y : y + 4, x : x + 4].ravel() for p in pictures for y in (0, 4) for x in (0, 4, 8)]),
        dtype=torch.float64,
    )
    centre = rows.mean(0)
    _, _, directions = torch.linalg.svd(rows - centre, full_matrices=False)  # (D, D), rows are directions
    np.testing.assert_allclose(mean, centre, atol=1e-3)
    np.testing.assert_allclose(np.abs(directions[:5].numpy() @ basis), np.eye(5), atol=2e-3)
    projected = (rows - centre) @ directions[:5].T @ directions[:5] + centre
    made = metrics.patch_pca_reconstruction(pictures, 4, mean, basis)
    patch = projected[7].reshape(4, 4, 3).round().clamp(0, 255).numpy()  # the second picture's second patch, top row
    assert np.abs(made[1, 0:4, 4:8].astype(float) - patch).max() <= 1
    assert made.shape == pictures.shape and made.dtype == np.uint8


def test_patch_pca_with_all_components_gives_the_picture_back():
    pictures = np.random.default_rng(8).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    mean, basis = metrics.fit_patch_pca(pictures, 2, 12)
    np.testing.assert_array_equal(metrics.patch_pca_reconstruction(pictures, 2, mean, basis), pictures)
    errors = [
        np.square(metrics.patch_pca_reconstruction(pictures, 2, mean, basis[:, :k]).astype(float) - pictures).mean()
        for k in (1, 4, 8, 12)
    ]
    assert errors == sorted(errors, reverse=True)
    with pytest.raises(ValueError, match="1 to 12 components"):
        metrics.fit_patch_pca(pictures, 2, 13)
    with pytest.raises(ValueError, match="patches of 3 px"):
        metrics.fit_patch_pca(pictures, 3, 2)


def test_in_batches_asks_for_all_pictures_in_order_and_for_no_more_at_once():
    pictures = np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8)  # (7, 4, 4, 3)
    asked = []

    def mean(part):
        asked.append(len(part))
        return np.array([[np.asarray(picture).mean()] for picture in part])

    assert metrics.in_batches(mean, pictures, 3)[:, 0].tolist() == list(range(7)) and asked == [3, 3, 1]


def test_rms_rows_are_as_far_apart_as_their_pixels_in_the_mean():
    black, white, half = (np.full((1, 8, 8, 3), value, np.uint8) for value in (0, 255, 51))
    rows = metrics.rms_rows(np.concatenate([black, white, half]))
    assert np.allclose(np.linalg.norm(rows[0] - rows[1:], axis=1), [1.0, 0.2])
