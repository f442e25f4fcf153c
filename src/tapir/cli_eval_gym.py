"""The command line: `tapir eval` for the gym, and two checkpoints side by side."""

from __future__ import annotations

import typer

gym_evals = typer.Typer(rich_markup_mode=None)
