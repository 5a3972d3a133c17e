"""The built-in data set ``digits``: which digit did somebody write?

1,797 scans of handwritten digits of 8 x 8 pixels, which scikit-learn brings along (UCI, Optical
Recognition of Handwritten Digits). Every fourth one is to be tested on.
"""

from typing import Any

import numpy as np
from PIL import Image

from afcore.errors import DataError

__all__ = ["digit_rows"]


def digit_rows(split: str) -> list[dict[str, Any]]:
    """Rows ``{"image": of 8 x 8 grays, "label": "0" to "9"}``, in the order of the source.

    Args:
        split: ``train`` or ``test``.

    Raises:
        DataError: for another split.
    """
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    if split not in ("train", "test"):
        raise DataError(f"the data set 'digits' has the splits train and test, not {split!r}")
    digits = load_digits()
    pixels = np.clip(digits.images * 16, 0, 255).astype(np.uint8)  # 0 to 16 there
    pairs = zip(pixels, digits.target, strict=True)
    tested = split == "test"
    return [
        {"image": Image.fromarray(image), "label": str(label)}
        for number, (image, label) in enumerate(pairs)
        if (number % 4 == 3) == tested
    ]
