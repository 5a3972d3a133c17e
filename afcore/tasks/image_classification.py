"""Image classification: one label of several for a picture."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from afcore.compute import to_device
from afcore.data.column_file import ColumnFile, column_of
from afcore.data.examples import Examples
from afcore.data.pictures import Picture, read_pictures
from afcore.data.sources import Field, Rows, read_labels
from afcore.errors import DataError
from afcore.tasks.one_label import OneLabelTask
from afcore.tasks.task import Targets

__all__ = ["ImageClassification"]

_AT_ONCE = 64
_PIXELS = "pixel_values"


class ImageClassification(OneLabelTask):
    """One label of several for a picture: a path relative to the file that names it, or its bytes.

    Pictures are turned upright as their EXIF data say, and brought to 8 bits, where they are gray
    ones of 16, and to the model's size. That is done once, and they are kept as bytes a pixel and
    colour; their numbers are scaled and normed as the model wants it when a batch is made.

    Attributes:
        scale: of a pixel's byte.
        mean: of each colour, [3], taken off after that.
        deviation: of each colour, [3], divided by.
    """

    name: Literal["image-classification"] = "image-classification"
    processor = "image_processor"
    auto_class = "AutoModelForImageClassification"
    pipeline_tag = "image-classification"
    pipeline_options: ClassVar[Mapping[str, Any]] = {}
    columns: ClassVar[Mapping[str, str]] = {"image": "image", "label": "label"}
    augmentations: ClassVar[tuple[str, ...]] = ("flip", "shift")

    scale: float
    mean: list[float]
    deviation: list[float]

    @classmethod
    def fields(cls, columns: Mapping[str, str | None]) -> list[Field]:
        """``image`` and ``label``."""
        image, label = columns["image"], columns["label"]
        assert image is not None
        assert label is not None
        return [
            Field("image", image, read_pictures),
            Field("label", label, read_labels, is_target=True),
        ]

    @staticmethod
    def of_processor(processor: Any) -> dict[str, Any]:
        """How it scales and norms."""
        norms, scales = (getattr(processor, name, True) for name in ("do_normalize", "do_rescale"))
        return {
            "scale": processor.rescale_factor if scales else 1.0,
            "mean": list(processor.image_mean) if norms else [0.0] * 3,
            "deviation": list(processor.image_std) if norms else [1.0] * 3,
        }

    def examples(self, processor: Any, rows: Rows, max_length: int) -> Examples:
        """``pixel_values``, [n, 3, height, width] uint8, as large as the model wants them."""
        pictures = rows.inputs["image"]
        pixels = ColumnFile(np.uint8, is_ragged=False)
        for start in range(0, len(pictures), _AT_ONCE):
            opened = [
                self._opened(rows, row)
                for row in range(start, min(start + _AT_ONCE, len(pictures)))
            ]
            sized = processor(
                images=opened, do_rescale=False, do_normalize=False, return_tensors="np"
            )
            pixels.add(np.clip(np.rint(sized[_PIXELS]), 0, 255).astype(np.uint8))
        targets = {}
        if "label" in rows.targets:
            targets["labels"] = column_of(self.encode_labels, rows.targets["label"])
        return Examples({_PIXELS: pixels.column()}, targets, fixed_length=1)

    @staticmethod
    def _opened(rows: Rows, row: int) -> Any:
        picture: Picture = rows.inputs["image"][row]
        try:
            return picture.open()
        except DataError as error:
            name = "the picture" if picture.where is None else f"the picture {picture.where!r}"
            raise DataError(
                f"data {rows.source!r}: {name} in {rows.place(row)} {error}, or remove the row."
            ) from error
        except Exception as error:  # whatever Pillow, or a file system, raises
            raise DataError(
                f"data {rows.source!r}: {picture.where or 'what stands'!r} in {rows.place(row)} is "
                f"no picture that can be opened ({type(error).__name__}). Remove the row, or mend "
                "the file."
            ) from error

    def collate(
        self, examples: Examples, ids: npt.NDArray[np.int64], device: torch.device
    ) -> tuple[dict[str, Tensor], Targets]:
        """(``pixel_values`` [b, 3, height, width] float32, scaled and normed; the labels)."""
        targets = {
            name: to_device(torch.from_numpy(column.values[ids]), device)
            for name, column in examples.targets.items()
        }
        pixels = to_device(torch.from_numpy(examples.inputs[_PIXELS].values[ids]), device)
        mean, deviation = (
            torch.tensor(values, device=device).view(-1, 1, 1)
            for values in (self.mean, self.deviation)
        )
        return {_PIXELS: (pixels * self.scale - mean) / deviation}, targets

    def augmented(self, inputs: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
        """``flip``: each with its mirror image or not; ``shift``: that, moved by up to an eighth.

        Where a picture was moved away from, its edge goes on.
        """
        pixels = inputs[_PIXELS]
        flipped = torch.rand(len(pixels)) < 0.5
        pixels = torch.where(
            flipped.to(pixels.device)[:, None, None, None], pixels.flip(-1), pixels
        )
        if kind == "shift":
            pixels = torch.stack([_moved(picture) for picture in pixels])
        return {_PIXELS: pixels}


def _moved(picture: Tensor) -> Tensor:
    """[3, height, width], moved by up to an eighth of its height either way."""
    most = picture.shape[-1] // 8
    down, right = torch.randint(0, 2 * most + 1, (2,)).tolist()
    padded = torch.nn.functional.pad(picture[None], (most,) * 4, mode="replicate")[0]
    height, width = picture.shape[-2:]
    return padded[:, down : down + height, right : right + width]
