"""Tables on the terminal."""

from __future__ import annotations

import io
import json

import pytest

from tapir.cli.tables import new_console, new_table, print_json, print_line, print_result, print_table


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


def test_a_terminal_obeys_no_control_sequence_of_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b]52;c;aGk=\x07b\x9b31m\u202ec\r\td\n"
    shown = r"a\x1b]52;c;aGk=\x07b\x9b31m\u202ec\r" + "\td\n"
    print_result({}, [hostile], as_json=False)
    assert capsys.readouterr().out == shown + "\n"
    print_json({"a": hostile})
    written = capsys.readouterr().out
    assert json.loads(written) == {"a": hostile}
    file = io.StringIO()
    table = new_table(hostile, [hostile], [])
    table.add_row(hostile)
    print_table(new_console(file), table)
    print_line(new_console(file), hostile)
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\r"} & {*file.getvalue(), *written}
    assert r"\x1b]52" in file.getvalue()
