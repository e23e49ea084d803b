"""Calibration of next tokens: is a token that a model gives 80% right in 80% of such places?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15  # of equal width, as Guo et al. 2017


def ece(confidence: Any, right: Any, bins: int = BINS) -> float:
    """Expected calibration error: the mean over positions of how far confidence and accuracy of a bin are apart.

    `sum over bins of n_b / n * |accuracy_b - confidence_b|`. The confidence of a position is the probability of the most likely token; it is right
    if it is the token that follows. Bins are of equal width, `((b - 1) / bins, b / bins]`. On text that a model drew itself at temperature 1 it is
    calibrated but for chance, so a small sample gives a little above 0 there.

    Args:
        confidence: `[n]`, above 0 and at most 1.
        right: `[n]`, whether.
        bins: how many.

    Raises:
        ValueError: no positions, two lengths, or a confidence out of range.

    Source: Naeini et al. 2015; Guo et al. 2017, eq. 3.

    Example:
        >>> round(ece([0.9, 0.9], [True, False]), 2)
        0.4
    """
    gaps = bin_gaps(confidence, right, bins)
    return float(np.abs(gaps).sum() / len(np.asarray(confidence)))


def bin_gaps(confidence: Any, right: Any, bins: int = BINS) -> NDArray[np.float64]:
    """`[bins]`: of each bin the sum over its positions of right (0 or 1) minus confidence.

    Sums of parts add up, so ECE of many resamples of pairs is a product of counts and these. Arguments and errors as of `ece`.
    """
    sure, hits = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    if sure.shape != hits.shape or sure.ndim != 1 or not len(sure):
        raise ValueError(
            f"There are {sure.shape} confidences and {hits.shape} hits; give one of each for every position, and one position at least."
        )
    if not (np.all(sure > 0) and np.all(sure <= 1 + 1e-6)):
        raise ValueError(
            f"Confidences reach from {sure.min()} to {sure.max()}; they are probabilities, above 0 and at most 1."
        )
    places = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    return np.asarray(np.bincount(places, weights=hits - sure, minlength=bins), np.float64)
