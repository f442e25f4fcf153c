"""The command line: `tapir review`."""

from __future__ import annotations

import typer

reviews = typer.Typer(rich_markup_mode=None)
