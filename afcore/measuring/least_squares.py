"""Fit seconds to a linear model."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

__all__ = ["fit_seconds"]


def fit_seconds(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Least squares of relative errors, no term negative.

    Relative, so that the short steps of deep boundaries count, and one that was held up hardly.

    Args:
        rows: one for each measurement, one number for each term.
        seconds: measured.

    Returns:
        Factors of the terms.
    """
    target = np.maximum(np.asarray(seconds, dtype=np.float64), 1e-9)
    matrix = np.asarray(rows, dtype=np.float64) / target[:, None]
    size = np.maximum(matrix.max(axis=0), 1e-30)  # columns differ by powers of ten
    found, _ = nnls(matrix / size, np.ones(len(target)))
    return [float(value) for value in found / size]
