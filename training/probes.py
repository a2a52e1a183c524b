"""What features are worth to those who don't train them further: functions of arrays.

Letters: N known pictures, M asked for, D features, K classes.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

NEIGHBOURS, TEMPERATURE = 20, 0.07
PROBE_C = 0.1  # inverse strength of the probe's regulariser, on features of deviation 1


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows (N, D) of length 1, float32; of zeros, zeros."""
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def nearest_classes(
    known: np.ndarray, labels: np.ndarray, asked: np.ndarray, *, k: int = NEIGHBOURS, temperature: float = TEMPERATURE
) -> np.ndarray:
    """The class of each row of `asked` (M, D) by a vote of its k nearest rows of `known` (N, D), int64 (M,).

    A neighbour's vote is exp(cosine / temperature): Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric
    Instance Discrimination", §3.4; k = 20 as in Caron et al. 2021. Of as many votes the lower class wins.
    """
    known, asked = unit_rows(known), unit_rows(asked)
    k, classes, found = min(k, len(known)), int(labels.max()) + 1, []
    for at in range(0, len(asked), 1024):
        cosine = asked[at : at + 1024] @ known.T  # (m, N)
        near = np.argpartition(-cosine, k - 1, axis=1)[:, :k]  # (m, k)
        vote = np.exp((np.take_along_axis(cosine, near, 1).astype(np.float64) - 1) / temperature)
        votes = np.zeros((len(cosine), classes))
        np.add.at(votes, (np.arange(len(cosine))[:, None], labels[near]), vote)
        found.append(votes.argmax(1))
    return np.concatenate(found)


def linear_classes(known: np.ndarray, labels: np.ndarray, asked: np.ndarray, *, c: float = PROBE_C) -> np.ndarray:
    """The class of each row of `asked` (M, D) by logistic regression on `known` (N, D), int64 (M,).

    Each feature is brought to mean 0 and deviation 1 among the known ones. Of a single class, that one.
    """
    if len(np.unique(labels)) < 2:
        return np.full(len(asked), labels[0])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300))
    return probe.fit(known.astype(np.float64), labels).predict(asked.astype(np.float64))


def effective_rank(rows: np.ndarray) -> float:
    """How many directions rows (N, D) take up, from 1 to D: exp of the entropy of their singular values' shares.

    Roy and Vetterli 2007; Garrido et al. 2023 (RankMe) of features, whose collapse it tells without labels. Rows are
    centred first; where all are alike, 1.
    """
    values = np.linalg.svd(rows.astype(np.float64) - rows.mean(0), compute_uv=False)
    if values.sum() <= 1e-12:
        return 1.0
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))
