"""The parts of ``bench/frontier.py``: accuracy against seconds, beside training less."""
