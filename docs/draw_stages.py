"""Draw ``docs/how_it_works.png`` from the stages that the code has.

Run as ``python docs/draw_stages.py``. Every name in the picture that the code also knows is taken
from the code (:func:`read_stages`), and written into the PNG, where a test compares it with the
code of the day. Coordinates are pixels of a picture 900 wide, y downwards, drawn at twice the size.
"""

import inspect
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

__all__ = ["PICTURE", "Stages", "draw", "read_stages"]

PICTURE = Path(__file__).parent / "how_it_works.png"

_WIDTH, _HEIGHT = 900, 592
_INK, _MUTED, _LINE = "#2b303b", "#667080", "#cfd4dc"
_TRAINED, _FROZEN, _READ, _TOKENS = "#f3b577", "#a8cbea", "#d3ead2", "#e2dbf3"
_GREEN, _PURPLE, _BOUNDARY = "#4f8f57", "#7a67ac", "#b3263a"

_BLOCKS = 6
_COLUMN = 94
_BOUNDARIES = ((0, 0, 0, 1, 1), (2, 2, 2, 3, 3), (4, 4, 4, 4, 5), (5, 5, 5, 5, 5))
"""An example: the boundary in each interval of four epochs."""


@dataclass(frozen=True)
class Stages:
    """What the picture takes from the code.

    Attributes:
        tasks: names of the Prefect tasks, in order.
        records: what an epoch commits, in order.
        sources: where an epoch can read from.
        shared: folders of the store that all runs share.
        run: folder of one run.
        epoch_folder: folder of an epoch in it.
        files: what else lies in it, with its meaning.
    """

    tasks: tuple[str, ...]
    records: tuple[str, ...]
    sources: tuple[str, ...]
    shared: tuple[str, ...]
    run: str
    epoch_folder: str
    files: tuple[tuple[str, str], ...]

    def to_json(self) -> str:
        """As kept in the picture."""
        return json.dumps(asdict(self), ensure_ascii=True)


def read_stages() -> Stages:
    """Take the stages from the code.

    Raises:
        ValueError: when the code no longer has the stages that the picture shows.
    """
    # Importing Prefect and torch takes seconds; nothing but this needs them.
    from afcore.config import parse_config
    from afcore.results import report
    from afcore.runs import epoch, records
    from afcore.runs import run as runs
    from afcore.storage.objects import Storage
    from pipelines.finetune import prepare, publish, train_epoch

    committed = _listed(epoch)
    kinds = (records.EpochStart, records.CheckpointRecord, report.EpochReport)
    files = [f"{records.RECORD_NAMES[kind]}.json" for kind in kinds]
    _expect(files, [name for name in committed if name.endswith(".json")], "an epoch commits")
    lies = _listed(runs)
    shared = [path for path in lies if re.fullmatch(r"\w+/<\w+>/", path)]
    folder = next(path for path in lies if path.startswith("runs/")).removesuffix("lease/")
    config = parse_config({"model": {"name": "m"}, "data": {"train": "t"}}, "draw_stages")
    run = runs.Run(
        Storage("memory://"),
        runs.RunRecord.model_construct(
            run_id=folder.split("/")[1], training_id="<training id>", config=config
        ),
    )
    started = f"<training id>/epochs/001/{files[0]}"
    _expect([started], [path for path in lies if path.endswith("started.json")], "a run holds")
    _expect([run.epoch_key(1, "started")], [f"{folder}{started}"], "a start is")
    _expect([run.parts_folder], [f"{folder}<training id>/parts"], "checkpoint parts are in")
    _expect([run.activations_folder], [shared[1].split("/")[0]], "activation sets are in")
    described = report.EpochReport.model_fields["read_from"].description or ""
    return Stages(
        tasks=tuple(task.name for task in (prepare, train_epoch, publish)),
        records=tuple(committed),
        sources=tuple(re.findall(r"`(.+?)`", described)),
        shared=tuple(shared),
        run=folder,
        epoch_folder=run.epoch_key(1, "").removeprefix(folder).removesuffix(".json"),
        files=tuple(
            (name, lies[path])
            for name, path in {
                "lease/": f"{folder}lease/",
                "run.json": "run.json",
                "parts/": "parts/",
                "result.json": "result.json",
            }.items()
        ),
    )


def draw(stages: Stages) -> Figure:
    """The picture."""
    figure = Figure(figsize=(_WIDTH / 100, _HEIGHT / 100), facecolor="#fcfcfb")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, _WIDTH), ylim=(_HEIGHT, 0))
    axes.set_axis_off()
    _draw_prepare(axes, stages)
    _draw_epochs(axes, stages)
    _draw_publish(axes, stages)
    _draw_store(axes, stages)
    _draw_run_folder(axes, stages)
    return figure


def _draw_prepare(axes: Axes, stages: Stages) -> None:
    _card(axes, 16, 12, 160, 262)
    _text(axes, 28, 34, stages.tasks[0], bold=True, mono=True)
    _text(axes, 28, 52, "a Prefect task", muted=True)
    _chip(axes, 30, 76, 132, 50, "white", _LINE)
    _text(axes, 96, 93, "“Return a copy", center=True)
    _text(axes, 96, 110, "of the array.”", center=True)
    _arrow(axes, (96, 129), (96, 156), _INK)
    _text(axes, 104, 143, "tokenize", muted=True)
    for column, token in enumerate((2709, 1037, 6100)):
        _chip(axes, 30 + 46 * column, 160, 40, 26, _TOKENS, _PURPLE)
        _text(axes, 50 + 46 * column, 173, str(token), center=True)
    _text(axes, 96, 206, "once per data,", center=True, muted=True)
    _text(axes, 96, 223, "tokenizer and length", center=True, muted=True)
    _arrow(axes, (178, 142), (198, 142), _INK)


def _draw_epochs(axes: Axes, stages: Stages) -> None:
    _card(axes, 200, 12, 500, 262)
    _text(axes, 212, 34, stages.tasks[1], bold=True, mono=True)
    _text(axes, 260, 34, "a Prefect task an epoch, tried again when it fails", muted=True)
    x = 212
    for label, color, width in (
        ("trained", _TRAINED, 88),
        ("frozen, still run", _FROZEN, 143),
        ("frozen, not run", _READ, 137),
    ):
        axes.add_patch(Rectangle((x, 47), 12, 12, facecolor=color, edgecolor=_LINE, linewidth=0.7))
        _text(axes, x + 17, 53, label)
        x += width
    axes.plot([x, x + 16], [53, 53], color=_BOUNDARY, linewidth=2.4, solid_capstyle="butt")
    _text(axes, x + 21, 53, "boundary")
    rows = ["embeddings", *(f"block {block}" for block in range(_BLOCKS)), "head"]
    for row, label in enumerate(rows):
        _text(axes, 284, _row_top(row) + 10, label, right=True, muted=True)
    for number in range(len(_BOUNDARIES)):
        _draw_epoch(axes, number, stages)
    _arrow(axes, (702, 142), (722, 142), _INK)


def _draw_epoch(axes: Axes, number: int, stages: Stages) -> None:
    """One column: a cell for each interval and part, the boundary over them."""
    left, intervals = _epoch_left(number), _BOUNDARIES[number]
    read = intervals[0]
    width = _COLUMN / len(intervals)
    _text(axes, left + 47, 75, f"{stages.tasks[1]} {number + 1}", center=True)
    for place, boundary in enumerate(intervals):
        for row in range(_BLOCKS + 2):
            if row <= read and read:
                continue
            color = _FROZEN if row <= boundary and boundary else _TRAINED
            corner = (left + place * width, _row_top(row))
            axes.add_patch(Rectangle(corner, width, 20, facecolor=color, edgecolor="none"))
    if read:
        top = _row_top(read)
        height = _row_top(0) + 20 - top
        axes.add_patch(
            Rectangle(
                (left, top), _COLUMN, height, facecolor=_READ, edgecolor=_GREEN, linewidth=0.8
            )
        )
        middle = top + height / 2
        source = stages.sources[1].replace("k", str(read))
        _text(axes, left + 47, middle - 8, "reads", center=True)
        _text(axes, left + 47, middle + 9, source, center=True, small=True, mono=True)
        _arrow(axes, (left + 20, 322), (left + 20, 268), _GREEN)
    else:
        _arrow(axes, (left + 20, 302), (left + 20, 268), _PURPLE)
        _text(axes, left + 14, 289, stages.sources[0], right=True, small=True, mono=True)
    if number + 1 < len(_BOUNDARIES):
        _arrow(axes, (left + 80, 268), (left + 80, 322), _GREEN)
    edges = [left + place * width for place in range(len(intervals) + 1)]
    heights = [_row_top(boundary) - 1 if boundary else _row_top(-1) - 1 for boundary in intervals]
    axes.stairs(heights, edges, baseline=None, color=_BOUNDARY, linewidth=2.4, zorder=5)
    if number + 1 < len(_BOUNDARIES):
        # The decision at the epoch's end.
        after = _row_top(_BOUNDARIES[number + 1][0]) - 1
        axes.plot([edges[-1]] * 2, [heights[-1], after], color=_BOUNDARY, linewidth=2.4, zorder=5)


def _draw_publish(axes: Axes, stages: Stages) -> None:
    _card(axes, 724, 12, 160, 262)
    _text(axes, 736, 34, stages.tasks[2], bold=True, mono=True)
    _text(axes, 736, 52, "a Prefect task", muted=True)
    steps = (("best epoch", "by validation"), ("tested", "once"), ("model, figures", "and report"))
    for number, lines in enumerate(steps):
        top = 76 + 66 * number
        _chip(axes, 738, top, 132, 44, "white", _LINE)
        for line, text in enumerate(lines):
            _text(axes, 804, top + 14 + 17 * line, text, center=True)
        if number:
            _arrow(axes, (804, top - 20), (804, top - 3), _INK)
    _arrow(axes, (804, 276), (804, 302), _INK)


def _draw_store(axes: Axes, stages: Stages) -> None:
    _card(axes, 16, 304, 314, 96, edge=_PURPLE)
    _text(axes, 28, 324, stages.shared[0], bold=True, mono=True)
    _text(axes, 28, 350, "tokens and labels of each split;")
    _text(axes, 28, 368, "shared by all runs on the same data")
    _arrow(axes, (96, 276), (96, 302), _PURPLE)
    _card(axes, 340, 304, 360, 96, edge=_GREEN)
    for number in range(1, len(_BOUNDARIES)):
        left = _epoch_left(number) - 40
        _chip(axes, left, 324, 70, 22, _READ, _GREEN)
        _text(axes, left + 35, 335, f"set @{_BOUNDARIES[number][0]}", center=True)
    _text(axes, 352, 364, stages.shared[1], bold=True, mono=True)
    _text(axes, 352, 384, "hidden states at the boundary; shared by all runs")
    _card(axes, 724, 304, 160, 96)
    _text(axes, 736, 324, "MLflow", bold=True)
    _text(axes, 736, 350, "every step, decision")
    _text(axes, 736, 368, "and epoch; figures;")
    _text(axes, 736, 386, "the model")


def _draw_run_folder(axes: Axes, stages: Stages) -> None:
    _card(axes, 16, 416, 868, 162)
    _text(axes, 28, 436, stages.run, bold=True, mono=True)
    _text(axes, 152, 436, stages.epoch_folder, mono=True)
    _text(
        axes,
        382,
        436,
        "what an epoch commits; started again, it skips what is there",
        muted=True,
    )
    actions = ("train, evaluate", "build", "add up")
    captions = (
        ("order of examples,", "before training"),
        ("weights, decisions,", "how to go on"),
        ("at the new boundary,", "when it pays"),
        ("what it took:", "the epoch is done"),
    )
    for number, (record, lines) in enumerate(zip(stages.records, captions, strict=True)):
        left = 32 + 232 * number
        is_set = not record.endswith(".json")
        _chip(axes, left, 452, 128, 26, _READ if is_set else "white", _GREEN if is_set else _INK)
        _text(axes, left + 64, 465, record.strip("()"), center=True, mono=True)
        for line, text in enumerate(lines):
            _text(axes, left + 64, 491 + 16 * line, text, center=True, muted=True)
        if number:
            _arrow(axes, (left - 100, 465), (left - 4, 465), _INK)
            _text(axes, left - 54, 455, actions[number - 1], center=True)
    axes.plot([28, 872], [526, 526], color=_LINE, linewidth=0.8)
    for number, (name, meaning) in enumerate(stages.files):
        _text(axes, 32 + 232 * number, 543, name, mono=True)
        _text(axes, 32 + 232 * number, 561, meaning, muted=True)


def _listed(module: ModuleType) -> dict[str, str]:
    """The indented list in a module's docstring: names and their meanings."""
    doc = inspect.getdoc(module) or ""
    lines = [line.strip() for line in doc.splitlines() if line.startswith("    ")]
    pairs = [re.split(r"\s{2,}", line, maxsplit=1) for line in lines]
    found = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
    if not found:
        raise ValueError(f"{module.__name__} no longer lists what it writes in its docstring")
    return found


def _expect(found: list[str], expected: list[str], what: str) -> None:
    if found != expected:
        raise ValueError(f"{what} {found} in the code, {expected} in the picture")


def _epoch_left(number: int) -> float:
    return 292 + 102 * number


def _row_top(row: int) -> float:
    """Row 0 is the embeddings, row 1 block 0; the head is on top."""
    return 86 + 22 * (_BLOCKS + 1 - row)


def _card(axes: Axes, x: float, y: float, width: float, height: float, edge: str = _LINE) -> None:
    axes.add_patch(_rounded(x, y, width, height, 8, "white", edge, 1.1))


def _chip(
    axes: Axes, x: float, y: float, width: float, height: float, fill: str, edge: str
) -> None:
    axes.add_patch(_rounded(x, y, width, height, 5, fill, edge, 0.9))


def _rounded(
    x: float,
    y: float,
    width: float,
    height: float,
    radius: float,
    fill: str,
    edge: str,
    line: float,
) -> FancyBboxPatch:
    style = f"round,pad=0,rounding_size={radius}"
    return FancyBboxPatch(
        (x, y), width, height, boxstyle=style, facecolor=fill, edgecolor=edge, linewidth=line
    )


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    style = {"arrowstyle": "-|>,head_width=0.22,head_length=0.42", "color": color, "linewidth": 1.3}
    axes.annotate("", end, start, arrowprops={**style, "shrinkA": 0, "shrinkB": 0}, zorder=6)


def _text(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    *,
    bold: bool = False,
    mono: bool = False,
    muted: bool = False,
    small: bool = False,
    center: bool = False,
    right: bool = False,
) -> None:
    axes.text(
        x,
        y,
        text,
        fontsize=7.5 if small else 10 if bold else 8.6,
        fontweight="bold" if bold else "normal",
        fontfamily="DejaVu Sans Mono" if mono else "DejaVu Sans",
        color=_MUTED if muted else _INK,
        ha="center" if center else "right" if right else "left",
        va="center",
        zorder=7,
    )


def main() -> None:
    """Write the picture."""
    stages = read_stages()
    draw(stages).savefig(PICTURE, dpi=200, metadata={"Description": stages.to_json()})
    print(f"{PICTURE.name}: {PICTURE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
