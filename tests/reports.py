"""A report with every kind of row, for tests of what is made from reports."""

from afcore.freezing.policy import PER_BLOCK, IntervalStatistics
from afcore.results.report import (
    DataReport,
    DecisionReport,
    EpochReport,
    RunReport,
    TotalsReport,
)


def make_report(mode: str = "cached", seed: int = 0, seconds: float = 10.0) -> RunReport:
    epochs = [
        EpochReport(
            epoch=epoch,
            num_steps=10,
            boundary_start=epoch - 1,
            boundary_end=epoch,
            read_from="tokens" if epoch == 1 else f"activations@{epoch - 1}",
            train_seconds=seconds,
            prefix_seconds=seconds / 4,
            suffix_seconds=seconds / 2,
            read_seconds=seconds / 4,
            checkpoint_seconds=0.1,
            materialize_seconds=1.0,
            evaluate_seconds=0.5,
            train_loss=1.0 / epoch,
            validation={"accuracy": 0.5 + epoch / 10, "f1_macro": 0.5, "loss": 1.0},
            activation_bytes_written=1000,
            activation_bytes_read=2000,
            store_bytes_read=1000,
            cost_usd=0.01,
            resumed=False,
            attempt=1,
            finished=1000.0 + 10 * epoch,
        )
        for epoch in (1, 2)
    ]
    decisions = [
        DecisionReport(
            step=10 * number,
            epoch=1,
            eta=tuple(None if block < number - 1 else 0.1 * (block + 1) for block in range(4)),
            threshold=float("inf") if number == 1 else 0.2,
            boundary_before=number - 1,
            boundary_after=number,
        )
        for number in (1, 2)
    ]
    return RunReport(
        schema=1,
        run_id=f"{mode}{seed}",
        mode=mode,
        seed=seed,
        status="finished",
        model="m",
        num_blocks=4,
        data=DataReport(train_examples=90, validation_examples=10, test_examples=20),
        epochs=epochs,
        decisions=decisions,
        intervals=[
            IntervalStatistics(
                step=20,
                epoch=2,
                num_steps=10,
                total_steps=20,
                num_epochs=2,
                validation_losses=(1.0, 1.0),
                learning_rate=1e-4,
                train_loss=1.0,
                train_loss_error=0.1,
                **{name: (1.0,) * 4 for name in PER_BLOCK},
            )
        ],
        totals=TotalsReport(
            train_seconds=2 * seconds,
            materialize_seconds=2.0,
            evaluate_seconds=1.0,
            checkpoint_seconds=0.2,
            wall_seconds=2 * seconds + 5,
            worker_seconds=2 * seconds + 5,
            lost_seconds=0.0,
            activation_bytes_written=2000,
            cost_usd=0.02,
            best_epoch=2,
            validation={"accuracy": 0.7},
            test={"accuracy": 0.65} if seed == 0 else None,
        ),
        mlflow_run_id="abc",
        notes=["a note"],
    )
