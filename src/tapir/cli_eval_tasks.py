"""The command line: `tapir eval` for what a program can check: IFEval, GSM8K, BBH."""

from __future__ import annotations

import typer

task_evals = typer.Typer(rich_markup_mode=None)
