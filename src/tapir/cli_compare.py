"""The command line: `tapir compare`."""

from __future__ import annotations

import typer

compares = typer.Typer(rich_markup_mode=None)
