"""Tables on the terminal."""

from __future__ import annotations

import io

from tapir.cli.tables import new_console, new_table, print_line


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
