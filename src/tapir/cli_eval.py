"""The command line: `tapir eval BENCHMARK`; each group of benchmarks has a file of its own."""

from __future__ import annotations

import typer

from tapir.cli_eval_alpaca import alpaca_evals
from tapir.cli_eval_gym import gym_evals
from tapir.cli_eval_mtbench import mtbench_evals
from tapir.cli_eval_tasks import task_evals

evaluates = typer.Typer(rich_markup_mode=None)
evals = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure a student, or answers in a file.")
evaluates.add_typer(evals, name="eval")
for group in (alpaca_evals, mtbench_evals, gym_evals, task_evals):
    evals.add_typer(group)
