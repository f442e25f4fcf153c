"""The command line in this process, with errors as a person sees them."""

from __future__ import annotations

from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from tapir.cli.main import app
from tapir.domain.errors import TapirError


@dataclass(frozen=True, slots=True)
class Output:
    returncode: int
    stdout: str
    stderr: str


def tapir(*arguments: object, cwd: Path | None = None) -> Output:
    """Run a command of `tapir` in a folder."""
    with chdir(cwd or Path.cwd()):
        result = CliRunner().invoke(
            app, [*map(str, arguments)], env={"NO_COLOR": "1", "COLUMNS": "120"}, prog_name="tapir"
        )
    if isinstance(result.exception, TapirError):
        error = result.exception
        return Output(error.exit_code, result.stdout, f"error: {error}\n  {error.remedy}\n")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Output(result.exit_code, result.stdout, result.stderr)
