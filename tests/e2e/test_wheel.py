"""The wheel holds all it needs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.paths import ROOT
from support.runs import build_run


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(tmp_path: Path) -> None:
    root = ROOT
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(root)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("tapir_distill-*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    binaries = tmp_path / "venv" / "bin"
    subprocess.run([binaries / "pip", "install", "--quiet", str(wheel)], check=True, capture_output=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def tapir(*arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [binaries / "tapir", *arguments], cwd=elsewhere, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        return done.stderr if status else done.stdout

    assert "plan" in tapir("--help")
    plan = tapir("plan", "gym")
    assert "expand" in plan
    assert "pip install 'tapir-distill[gym]'" in plan
    assert 'name = "gym"' in tapir("recipe", "show", "gym")
    for command in ("eval", "audit", "review", "study"):
        assert f"tapir {command}" in tapir(command, "--help")
    run = str(build_run(tmp_path / "run").folder)
    assert f"{run}: finished" in tapir("status", run)
    assert "pip install 'tapir-distill[report]'" in tapir("report", run, status=1)  # everything but the charts
    assert "the-judge" in tapir("audit", run)
    assert "distinct examples" in tapir("export", run, "--what", "dataset", "--out", str(tmp_path / "data"))
    source = root / "src"
    paths = [path for path in (source / "tapir").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    files = {path.relative_to(source).as_posix() for path in paths}
    parts = (
        *("gym/nano/model.safetensors", "recipes/taxonomies/paper.toml", "recipes/alpaca-api.toml", "py.typed"),
        *("report/template.html.j2", "report/macros.html.j2", "models/prompts/judge-pairwise.txt"),
        *("gym/skills.toml", "gym/phrases.toml", "models/api/ledger-2.sql", "models/prompts/slots.toml"),
        *("models/prompts/refine/styles.toml", "report/review/page.html", "recipes/studies/gym.toml"),
    )
    assert {f"tapir/{part}" for part in parts} <= files <= set(zipfile.ZipFile(wheel).namelist())
    assert not list(elsewhere.iterdir())


def test_the_weights_are_small_enough_for_a_package() -> None:
    from importlib import resources

    weights = resources.files("tapir.gym") / "nano" / "model.safetensors"
    assert len(weights.read_bytes()) <= 12_000_000
