"""Pictures: from files and data sets to examples, what augmentation does, and learning."""

import csv
import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import transformers
from PIL import Image, PngImagePlugin

from afcore import numerics
from afcore.config import Config, parse_config
from afcore.data.builtin.digits import digit_rows
from afcore.data.pictures import Picture, read_pictures
from afcore.data.sources import load_rows
from afcore.data.table import Places, Table
from afcore.errors import ConfigError, DataError, ModelError
from afcore.predict import predict_file
from afcore.runs.identify import identify_run
from afcore.runs.publish import described
from afcore.runs.records import CheckpointRecord, record_of
from afcore.runs.state import load_checkpoint
from afcore.storage.objects import Storage
from afcore.tasks.image_classification import ImageClassification
from afcore.training.evaluate import evaluate
from tests.tasks.killed_training import check_killed_is_undisturbed
from tests.tasks.test_each_task import losses, train
from tests.tasks.test_fit_of_tasks import check_trainer

COLUMNS = {"image": "image", "label": "label"}
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30)}


def pictures(folder: Path, count: int, seed: int) -> Path:
    """A CSV that names files of one colour each, with noise."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        label = sorted(COLOURS)[number % 2]
        pixels = np.clip(COLOURS[label] + rng.normal(0, 40, (12, 10, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "label": label})
    path = folder / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def config(tiny_config: dict[str, Any], tiny_vit: Path, tmp_path: Path) -> Config:
    tree = tiny_config | {"task": "image-classification", "mode": "full"}
    tree["model"] = {"name": str(tiny_vit)}
    sizes = {"train": 48, "validation": 16, "test": 20}
    tree["data"] = {
        split: str(pictures(tmp_path / split, count, seed))
        for seed, (split, count) in enumerate(sizes.items())
    }
    tree["training"] |= {"epochs": 2, "stop": "never"}
    tree["freezing"] = {"policy": "static", "depth": 2}
    tree["cache"] = {"mode": "on", "dtype": "fp32"}
    return parse_config(tree, source="test")


def test_examples_are_what_the_processor_gives(config: Config, tiny_vit: Path) -> None:
    record = identify_run(config, Storage(config.store))
    assert record.num_states == 17  # of 16 patches and the class
    run = train(config.replace(**{"training.epochs": 1}))
    data = run.data()
    assert data.train.lengths.tolist() == [17] * 48
    ids = np.asarray([3, 0])
    given, targets = run.record.task.collate(data.train, ids, torch.device("cpu"))
    processor = transformers.AutoImageProcessor.from_pretrained(tiny_vit)
    folder = Path(config.data.train).parent
    opened = [Image.open(folder / f"{number}.png") for number in (3, 0)]
    expected = processor(images=opened, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(given["pixel_values"], expected, atol=1e-6, rtol=0)
    assert targets["labels"].tolist() == [1, 0]


def test_cached_is_recomputed_and_stopped_is_undisturbed(config: Config) -> None:
    cached = config.replace(mode="cached")
    read, computed = train(cached), train(config.replace(mode="freeze"))
    record = record_of(read, 2, CheckpointRecord)
    assert record is not None
    assert record.trained.activation_bytes_read == 48 * 17 * 32 * 4
    np.testing.assert_allclose(losses(read), losses(computed), rtol=1e-5, atol=1e-5)
    undisturbed = losses(read)  # before it is left behind
    assert losses(train(cached, stop_after=2)) == undisturbed


def test_killed_and_gone_on_is_undisturbed(config: Config, tmp_path: Path) -> None:
    check_killed_is_undisturbed(config.replace(mode="cached"), tmp_path)


def test_full_learns_and_a_prediction_is_that_of_the_test(config: Config, tmp_path: Path) -> None:
    run = train(config)
    split = load_checkpoint(run, 2)
    data = run.data()
    assert data.test is not None
    scores = evaluate(run.trainee(split, data.test)).scores()
    assert scores["accuracy"] > 0.9, "half is chance"
    folder = tmp_path / "published"
    described(run, split.model).save_pretrained(folder)
    transformers.AutoImageProcessor.from_pretrained(config.model.name).save_pretrained(folder)
    out = tmp_path / "out.csv"
    found = predict_file(str(folder), str(config.data.test), output=str(out), probabilities=True)
    assert found.score == pytest.approx(scores["accuracy"])
    pipeline = transformers.pipeline("image-classification", str(folder))
    rows = list(csv.DictReader(out.read_text().splitlines()))
    for row in rows[:4]:
        best = pipeline(str(Path(str(config.data.test)).parent / row["image"]))[0]
        assert best["label"] == row["prediction"]
        assert best["score"] == pytest.approx(float(row[f"probability_{best['label']}"]), abs=1e-4)


def test_the_trainer_trains_on_pictures(config: Config) -> None:
    check_trainer(config.replace(mode="hf_trainer", **{"training.epochs": 1}))


@pytest.mark.parametrize("kind", ["flip", "shift"])
def test_augmentation_is_trained_on_and_never_cached(config: Config, kind: str) -> None:
    changed = config.replace(**{"mode": "cached", "training.augmentation": kind})
    run = train(changed)
    assert run.record.uncacheable is not None
    assert "draws each picture anew in every epoch" in run.record.uncacheable
    record = record_of(run, 2, CheckpointRecord)
    assert record is not None
    assert record.trained.activation_bytes_read == 0
    plain = train(config.replace(mode="freeze"))
    undisturbed = losses(run)
    assert undisturbed != losses(plain)
    assert losses(train(changed, stop_after=2)) == undisturbed


def test_a_flip_is_a_mirror_image_and_a_shift_stays_within_an_eighth(config: Config) -> None:
    task = identify_run(config, Storage(config.store)).task
    pixels = torch.arange(16.0).expand(8, 3, 16, 16)
    torch.manual_seed(0)
    flipped = task.augmented({"pixel_values": pixels}, "flip")["pixel_values"]
    mirrored = {bool(one[0, 0, 0] == 15) for one in flipped}
    assert mirrored == {True, False}
    assert torch.equal(flipped.sort(-1).values, pixels)
    shifted = task.augmented({"pixel_values": pixels}, "shift")["pixel_values"]
    assert shifted.shape == pixels.shape
    middles = shifted[:, 0, 8, 8]
    assert ((middles - 8).abs() <= 3).all()  # two, and one for the mirror image
    assert len(set(middles.tolist())) > 1


def test_augmentation_of_texts_is_refused(tiny_config: dict[str, Any]) -> None:
    tree = tiny_config | {"training": {"augmentation": "flip"}}
    with pytest.raises(ConfigError, match="'flip' is not for task text-classification"):
        parse_config(tree, source="test")


def test_pictures_of_a_folder_and_of_parquet(config: Config, tmp_path: Path) -> None:
    """A folder a class, as ``datasets`` reads it; and a file that holds the pictures itself."""
    task_folder = tmp_path / "folder" / "train"
    contents = []
    for label in COLOURS:
        (task_folder / label).mkdir(parents=True)
        for number in range(6):
            noise = np.random.default_rng(number).integers(0, 40, (9, 9, 3))
            image = Image.fromarray((np.asarray(COLOURS[label]) // 2 + noise).astype(np.uint8))
            image.save(task_folder / label / f"{number}.png")
            file = io.BytesIO()
            image.save(file, "PNG")
            contents.append({"image": {"bytes": file.getvalue(), "path": None}, "label": label})
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(COLOURS))}
    )
    parquet = tmp_path / "pictures.parquet"
    datasets.Dataset.from_list(contents, features=features).to_parquet(parquet)
    storage = Storage(config.store)
    for source in (str(tmp_path / "folder"), str(parquet)):
        settings = {"data.train": source, "data.validation": 0.3, "data.test": None}
        record = identify_run(config.replace(**settings), storage)
        assert record.task.label_names == sorted(COLOURS)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gone.png,red", r"names the picture .*gone\.png' in line 2, which cannot be read"),
        ("rows.csv,red", r"rows\.csv' in line 2 is no picture that can be opened"),
        (",red", r"holds '' in line 2, which is no picture"),
        ("abfs://c/a.png,red", r"the picture 'abfs://c/a\.png' in line 2, .* \(ImportError\)"),
    ],
)
def test_mistakes(config: Config, line: str, message: str) -> None:
    path = Path(str(config.data.test))
    _, _, *rest = path.read_text().splitlines()
    path.write_text("\n".join(["image,label", line, *rest]) + "\n")
    with pytest.raises(DataError, match=message):
        identify_run(config, Storage(config.store))


def test_a_picture_that_pillow_refuses_otherwise(config: Config) -> None:
    """A comment of a few bytes that takes megabytes when it is unpacked."""
    folder = Path(str(config.data.test)).parent
    comments = PngImagePlugin.PngInfo()
    comments.add_text("comment", "x" * 2 * PngImagePlugin.MAX_TEXT_CHUNK, zip=True)
    Image.new("RGB", (4, 4)).save(folder / "0.png", pnginfo=comments)
    with pytest.raises(DataError, match=r"0\.png' in line 2 is no picture that can be opened \("):
        identify_run(config, Storage(config.store))


def test_the_only_file_of_a_pattern_names_pictures_beside_it(config: Config) -> None:
    folder = Path(str(config.data.test)).parent
    found = load_rows(f"{folder.parent}/tes*/*.csv", "test", ImageClassification.fields(COLUMNS))
    assert found.inputs["image"][0].where == str(folder / "0.png")


def test_what_is_no_file_of_a_picture() -> None:
    for value in ({"bytes": "iVBORw0KGgo="}, Image.new("CMYK", (2, 2))):
        table = Table(["image"], {"image": [value]}, Places("row", [0]))
        with pytest.raises(DataError, match=r"in row 0, counted from 0, which is no picture"):
            read_pictures("here", "image", "image", table)


def opened(picture: Image.Image, kind: str = "PNG", **options: Any) -> np.ndarray[Any, Any]:
    """Of its first colour, as a data set's picture is opened."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return np.asarray(Picture("digest", content=file.getvalue()).open())[..., 0]


@pytest.mark.parametrize(("dtype", "kind"), [("<u2", "PNG"), (">u2", "TIFF"), ("<i4", "TIFF")])
def test_a_gray_picture_of_16_bits_keeps_its_brightness(dtype: str, kind: str) -> None:
    values = np.asarray([[0, 255, 32768, 65535]], dtype=dtype)
    assert opened(Image.fromarray(values), kind).tolist() == [[0, 1, 128, 255]]


def test_a_picture_is_turned_as_its_exif_data_say(config: Config, tmp_path: Path) -> None:
    """From a file, and where rows in memory hold it."""
    exif = Image.Exif()
    exif[0x0112] = 8  # its right side is up
    pixels = np.asarray([[[10] * 3, [200] * 3]], dtype=np.uint8)
    lying = tmp_path / "lying.png"
    Image.fromarray(pixels).save(lying, exif=exif)
    assert opened(Image.open(lying), exif=exif).tolist() == [[200], [10]]
    table = Table(["image"], {"image": [Image.open(lying)]}, Places("row", [0]))
    (held,) = read_pictures("here", "image", "image", table)
    assert np.asarray(held.open())[..., 0].tolist() == [[200], [10]]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of such data
def test_damaged_exif_data_hinder_nobody() -> None:
    """Pillow reads the orientation, and could not write the other tag again."""
    exif = Image.Exif()
    exif[0x0112], exif[0x0131] = 6, "software"
    file = io.BytesIO()
    Image.new("RGB", (4, 2)).save(file, "JPEG", exif=exif)
    content = bytearray(file.getvalue())
    at = content.index(b"\x01\x31\x00\x02")
    for kind in range(256):  # of the values of that tag
        content[at + 3] = kind
        assert Picture("digest", content=bytes(content)).open().size == (2, 4)


def test_prepared_pictures_are_not_taken_for_those_opened_otherwise(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(config.store)
    before = identify_run(config, storage)
    monkeypatch.setitem(numerics.NUMERICS, "pictures", 99)
    after = identify_run(config, storage)
    assert after.data != before.data
    assert after.run_id != before.run_id


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((30, 30), 7, dtype=np.uint8), "has more than 800 pixels. Make it smaller, or rem"),
        (np.full((4, 4), 70000, dtype=np.int32), "numbers that are no brightness of 16 bits. Save"),
        (np.full((4, 4), 0.5, dtype=np.float32), "numbers that are no brightness of 16 bits. Save"),
    ],
)
def test_pictures_that_are_not_opened(
    config: Config, values: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    folder = Path(str(config.data.test)).parent
    Image.fromarray(values).save(folder / "0.png", "TIFF")
    with pytest.raises(DataError, match=rf"the picture '.*0\.png' in line 2 .*{message}"):
        identify_run(config, Storage(config.store))


def test_a_model_of_texts_has_no_image_processor(config: Config, tiny_bert: Path) -> None:
    with pytest.raises(ModelError, match="no image processor"):
        identify_run(config.replace(**{"model.name": str(tiny_bert)}), Storage(config.store))


def test_digits() -> None:
    train_rows, test_rows = digit_rows("train"), digit_rows("test")
    assert (len(train_rows), len(test_rows)) == (1348, 449)
    assert {row["label"] for row in test_rows} == {str(digit) for digit in range(10)}
    assert train_rows[0]["image"].size == (8, 8)
    with pytest.raises(DataError, match="train and test"):
        digit_rows("dev")
