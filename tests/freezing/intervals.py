"""Statistics written out by hand."""

from afcore.freezing.policy import IntervalStatistics


def interval(
    norms: list[float],
    num_steps: int = 1,
    step: int = 1,
    coherences: list[float] | None = None,
    epoch: int = 1,
    loss: float = 1.0,
    validation_losses: tuple[float, ...] = (),
) -> IntervalStatistics:
    """Of a training of 100 steps and 4 epochs; the loss has a standard error of 0.1."""
    given = tuple(norms)
    ones = (1.0,) * len(given)
    squared_sums = ones if coherences is None else tuple(coherences)
    return IntervalStatistics(
        gradient_norms=given,
        first_half_norms=given,
        second_half_norms=given,
        squared_sums=squared_sums,
        sums_of_squares=ones,
        num_steps=num_steps,
        step=step,
        total_steps=100,
        learning_rate=1.0,
        epoch=epoch,
        num_epochs=4,
        train_loss=loss,
        train_loss_error=0.1,
        validation_losses=validation_losses,
        chance_loss=1.4,
    )
