"""training/coverage against numbers worked by hand."""

import numpy as np
import pytest

from training.coverage import precision_and_recall

REAL = np.array([[0.0], [1.0], [2.0], [3.0]])
DRAWN = np.array([[0.5], [4.5], [10.0], [10.5]])


def test_worked_by_hand():
    # k = 1. Real balls all reach 1: 0.5 lies in one, 4.5 is 1.5 from the last. Drawn balls reach 4, 4, 0.5, 0.5: the
    # first two hold 0 … 4.5 and 0.5 … 8.5, so every real row. k = 2: the ball of 3 reaches 2, and 4.5 lies in it.
    assert precision_and_recall(DRAWN, REAL, k=1) == (1 / 4, 1.0)
    assert precision_and_recall(DRAWN, REAL, k=2) == (2 / 4, 1.0)
    # The other way round: what was precision is recall.
    assert precision_and_recall(REAL, DRAWN, k=2) == (1.0, 2 / 4)


def test_what_is_on_the_rim_is_in():
    assert precision_and_recall(np.array([[4.0], [99.0]]), REAL, k=1)[0] == 1 / 2


def test_collapse_and_nonsense_are_numbers():
    draw = np.random.default_rng(0)
    real = draw.normal(size=(200, 5))
    collapsed = real[:1] + 1e-6 * draw.normal(size=(100, 5))
    assert precision_and_recall(collapsed, real) == (1.0, 1 / 200)
    assert precision_and_recall(real + 100, real) == (0.0, 0.0)
    assert precision_and_recall(real, real) == (1.0, 1.0)
    assert min(precision_and_recall(draw.normal(size=(200, 5)), real)) > 0.6


@pytest.mark.parametrize("wrong", [REAL[:3], np.zeros((5, 2)), np.full((5, 1), np.nan), np.zeros(5)])
def test_what_it_refuses(wrong):
    with pytest.raises(ValueError, match="rows of one D|not finite"):
        precision_and_recall(wrong, REAL, k=3)
