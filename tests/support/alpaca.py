"""A small corpus in the layout of Alpaca, and a run of a shipped recipe on it against the fake server."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

from support import encoders
from support.server import Server

KEY = "sk-planted-7d1f2e3c4b5a69788796a5b4c3d2e1f0"
MODELS = ("gpt-4.1", "gpt-4.1-mini", "gpt-3.5-turbo", "Qwen/Qwen2.5-14B-Instruct-AWQ")
_SUBJECTS = ("rivers", "bread", "chess", "glaciers", "trains", "honey", "planets", "bridges", "tea", "maps")
_FORMS = (
    "Write a short story about {}.",
    "Solve this equation for a shop that sells {}: {} x + 3 = 21.",
    "Explain the history of {} in one paragraph.",
    "Write a Python function that counts {} in a list of words.",
    "Give three reasons why people like {}, step by step, as a puzzle of logic.",
    "Translate into French: I have seen many {} this year.",
)
_WORDS = (  # noqa: SIM905
    "amber anchor apple arrow autumn barrel basin beacon beetle birch blanket border bottle bramble bronze cabin camel"
    " candle canyon carpet castle cedar cellar cherry cinder clover cobalt comet copper coral cotton cradle crystal"
    " dagger daisy desert drum eagle ember engine falcon feather fern fiddle flint forest fountain garden ginger"
).split()


def rows(count: int) -> list[dict[str, str]]:
    """Instructions of six tasks, all different, some with an input."""
    found = []
    rng = random.Random(3)
    for number in range(count):
        form, subject = _FORMS[number % len(_FORMS)], _SUBJECTS[number // len(_FORMS) % len(_SUBJECTS)]
        given = " ".join(rng.sample(_WORDS, 12)) if number % 6 else "No input"
        answer = f"Here is what can be said about {subject}: " + " ".join(rng.sample(_WORDS, 10)) + "."
        found.append({"instruction": form.format(subject, number + 2), "input": given, "output": answer})
    return found


def corpus(folder: Path, count: int = 60) -> Path:
    """The rows as a file, with one that is no instruction, one that is repeated and one without an answer."""
    path = folder / "corpus.json"
    good = rows(count)
    bad: list[object] = [{"instruction": 7}, dict(good[1]), {"instruction": "Say nothing.", "input": "", "output": ""}]
    path.write_text(json.dumps([*good, *bad]), encoding="utf-8")
    return path


def command(recipe: str, folder: Path, corpus: Path, student: Path, server: Server, *more: str) -> list[str]:
    """`tapir run RECIPE`, made small, with every endpoint at the fake server."""
    endpoints = {"alpaca-api": ("teacher", "judge"), "paper": ("chatgpt",), "smollm2": ("teacher",)}.get(
        recipe, ("local",)
    )
    encoder = folder.with_name("encoder")
    if recipe == "smollm2" and not encoder.exists():
        encoders.modernbert(encoder, head=False)
    tagger = (f"tagger.model={encoder}", "tagger.max_length=64")
    changes = (
        *(f"endpoints.{name}.base_url={server.url}" for name in endpoints),
        f"corpus.path={corpus}",
        f"student.model={student}",
        "student.max_new_tokens=12",
        "student.batch_size=16",
        "chunk=16",
        "tagger.labelled=40",
        "curriculum.size=24",
        "curriculum.threshold.value=5",
        "curriculum.rounds=2",
        "training.batch_size=8",
        "training.epochs=1",
        "evaluation.held_out=8",
        "judge.null_answers=4",
        *(tagger if recipe == "smollm2" else ()),
        *more,
    )
    sets = [part for change in changes for part in ("--set", change)]
    return [sys.executable, "-m", "tapir.cli.main", "run", recipe, "--out", str(folder), *sets]


def environment() -> dict[str, str]:
    """With the planted key, and one thread."""
    return {**os.environ, "OPENAI_API_KEY": KEY, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "120"}


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run it, or go on with it, to its end."""
    return subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
