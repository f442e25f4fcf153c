"""The command line: `tapir audit`."""

from __future__ import annotations

import typer

audits = typer.Typer(rich_markup_mode=None)
