"""The command line: `tapir eval`."""

from __future__ import annotations

import typer

evaluates = typer.Typer(rich_markup_mode=None)
