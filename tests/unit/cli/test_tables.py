"""Tables on the terminal."""

from __future__ import annotations

import io

import pytest

from tapir.cli.tables import new_console, new_table, print_line, print_table


def test_labels_are_printed_as_they_are_and_never_read_as_markup_or_emoji() -> None:
    file = io.StringIO()
    console = new_console(file)
    table = new_table("of [b]x[/b]", ["task [/c]"], ["n"])
    labels = ["[red]Q&A", "Q [/x]", "/data/:key:/x"]
    for label in labels:
        table.add_row(label, "1")
    console.print(table)
    print_line(console, "[/y] :key:")
    assert all(text in file.getvalue() for text in (*labels, "of [b]x[/b]", "task [/c]", "[/y] :key:"))


@pytest.mark.parametrize("width", [80, 40])
def test_no_figure_is_cut_off_where_the_terminal_is_narrow(width: int) -> None:
    file = io.StringIO()
    rounds = [f"S_{number}" for number in range(9)]
    table = new_table("success", ["task"], ["n", *rounds, "change"])
    figures = [f"{54 + number}.{number} %" for number in range(9)]
    table.add_row("fraction_simplification", "1200", *figures, "+10.8")
    print_table(new_console(file, plain_width=width), table)
    assert "\u2026" not in file.getvalue()
    assert all(text.split()[0] in file.getvalue() for text in (*figures, *rounds, "1200", "+10.8", "change"))
    assert width < 80 or max(map(len, file.getvalue().splitlines())) <= width
