from afcore.results.markdown import markdown_table


def test_a_cell_stays_one_whatever_is_in_it() -> None:
    """Names of labels are the user's."""
    rows = [["a|b", "1 %"], ["two\nlines", "2 %"], ["", "-"]]
    assert markdown_table(["label", "share"], rows).splitlines() == [
        "| label | share |",
        "|---|---|",
        r"| a\|b | 1 % |",
        "| two lines | 2 % |",
        "|  | - |",
    ]
