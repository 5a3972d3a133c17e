"""Fit seconds to a linear model."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import nnls

__all__ = ["fit_terms"]


def fit_terms(terms: Mapping[str, Sequence[float]], seconds: Sequence[float]) -> dict[str, float]:
    """Least squares of relative errors, no term negative.

    Relative, so that the short steps of deep boundaries count, and one that was held up hardly.

    Args:
        terms: by name, what each measurement has of it.
        seconds: measured.

    Returns:
        Factors of the terms.
    """
    target = np.maximum(np.asarray(seconds, dtype=np.float64), 1e-9)
    matrix = np.asarray(list(terms.values()), dtype=np.float64).T / target[:, None]
    size = np.maximum(matrix.max(axis=0), 1e-30)  # columns differ by powers of ten
    found, _ = nnls(matrix / size, np.ones(len(target)))
    return dict(zip(terms, (float(value) for value in found / size), strict=True))
