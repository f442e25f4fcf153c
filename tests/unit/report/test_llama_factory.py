"""Exported conversations of three turns: what `datasets` reads, and LLaMA-Factory's token ids and loss masks."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from support import thinking_student as thinking
from support.paths import ROOT
from support.runs import build_run
from support.templates import TEMPLATES
from support.thinking_student import FAMILIES, Family
from tapir.config.corpus import Turns
from tapir.data.corpus import pairs
from tapir.data.readers import read_file
from tapir.data.run.rows import MixtureRow
from tapir.domain.completion import after_thought
from tapir.domain.instruction import Pair
from tapir.domain.round import Checkpoint
from tapir.domain.training import Example
from tapir.models.local.loading import ModelSettings, load_tokenizer
from tapir.report.export.dataset import export_mixture
from tapir.training.dataset import Encoded, tokenize

PYTHON = os.environ.get("TAPIR_LLAMA_FACTORY", "")
LAYOUTS = ("messages", "alpaca", "sharegpt")
THEIRS = {"chatml": None, "switch": "qwen3"}  # a template that is parsed from the tokenizer's, and one of their own
OURS = {"chatml": Family(TEMPLATES["chatml"], "<|im_end|>"), "switch": FAMILIES["switch"]}
MODES = ("off", "on", "keep")
TALKS = 8
Rows = list[list[list[int]]]


def file(folder: Path) -> Path:
    """Conversations of three turns with system prompts, whose answers have thoughts, line breaks and odd characters."""
    rows = []
    for number in range(TALKS):
        turns = [{"from": "system", "value": f"You count to {number},\nit's {{all}} you do."}] if number % 2 else []
        for exchange in range(3):
            turns.append({"from": "human", "value": f"Add {exchange} to {number}0.\n\n    (Größe: 漢字 👩‍🔬)"})
            answer = f"That is {number}{exchange},\n    as <b>everybody</b> knows.\n\nIs it not?"
            thought = f"{number} is {'odd' if number % 2 else 'even'}." if (number + exchange) % 3 else ""
            turns.append({"from": "gpt", "value": after_thought(thought, answer)})
        rows.append({"conversations": turns})
    path = folder / "talks.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def mixture(folder: Path, turns: Turns, *, keep: bool) -> list[MixtureRow]:
    """The answers that `turns` chooses, as a round mixes them."""
    rows = [pair for pair in pairs(read_file(file(folder), turns=turns), "talks.json") if isinstance(pair, Pair)]
    return [
        MixtureRow(
            pair.instruction.id,
            pair.instruction.text,
            pair.response.text,
            *("Math", "hard", "corpus", False),
            pair.instruction.context,
            pair.response.thought if keep else "",
        )
        for pair in rows
    ]


def export(folder: Path, rows: Iterable[MixtureRow]) -> None:
    """Export a run whose only round was trained on these rows."""
    store = build_run(folder / "run", done=1)
    store.write("round-1/mixture", MixtureRow, rows)
    export_mixture(store, folder / "out")


def learnt_by_us(rows: Sequence[MixtureRow], model: Path, *, thinks: bool) -> Rows:
    tokenizer = load_tokenizer(Checkpoint(str(model), 0), ModelSettings(thinks=thinks))
    examples = [Example(row.id, row.instruction, row.response, row.context, thought=row.thought) for row in rows]
    found = []
    for encoded in tokenize(examples, tokenizer):
        assert isinstance(encoded, Encoded)
        ids, start = list(encoded.input_ids), encoded.answer_start
        found.append([ids, [-100] * start + ids[start:]])
    return found


@pytest.mark.parametrize("turns", ["last", "first", "all"])
def test_datasets_reads_what_was_exported_with_the_thoughts_that_were_learnt(turns: Turns, tmp_path: Path) -> None:
    from datasets import config, load_dataset

    rows = mixture(tmp_path, turns, keep=True)
    assert len(rows) == TALKS * (3 if turns == "all" else 1)
    assert {bool(row.thought) for row in rows} == {True, False}
    export(tmp_path, rows)
    wanted = [after_thought(row.thought, row.response) for row in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
        read = {
            name: load_dataset("json", data_files=str(tmp_path / "out" / name), split="train")
            for name in ("messages.jsonl", "sharegpt.json", "alpaca.json")
        }
    assert [talk[-1]["content"] for talk in read["messages.jsonl"]["messages"]] == wanted
    assert [talk[-1]["value"] for talk in read["sharegpt.json"]["conversations"]] == wanted
    assert list(read["alpaca.json"]["output"]) == wanted
    assert [[(turn["role"], turn["content"]) for turn in talk[:-1]] for talk in read["messages.jsonl"]["messages"]] == [
        [*((turn.role, turn.content) for turn in row.context), ("user", row.instruction)] for row in rows
    ]
    again = [
        pair.response for pair in pairs(read_file(tmp_path / "out" / "sharegpt.json"), "x") if isinstance(pair, Pair)
    ]
    assert [(one.text, one.thought) for one in again] == [(row.response, row.thought) for row in rows]


@pytest.mark.slow
def test_token_ids_and_masks_are_those_of_llama_factory(tmp_path: Path) -> None:
    if not PYTHON:
        pytest.skip("needs TAPIR_LLAMA_FACTORY: a Python that has LLaMA-Factory")
    for family in THEIRS:
        thinking.save_tokenizer(tmp_path / family, OURS[family])
    jobs: list[list[Any]] = []
    expected: dict[int, tuple[Any, Rows]] = {}
    for turns, mode in product(("last", "first", "all"), MODES):
        folder = tmp_path / turns / mode
        folder.mkdir(parents=True)
        rows = mixture(folder, turns, keep=mode == "keep")  # type: ignore[arg-type]
        export(folder, rows)
        for family, template in THEIRS.items():
            settings: dict[str, Any] = {"mask_history": True, "enable_thinking": None, "template": template}
            settings |= {"model_name_or_path": str(tmp_path / family)}
            wanted = learnt_by_us(rows, tmp_path / family, thinks=mode != "off")
            for layout in LAYOUTS:
                expected[len(jobs)] = (turns, mode, family, layout), wanted
                jobs.append([str(folder / "out"), f"tapir_{layout}", settings])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    program = str(ROOT / "tests" / "support" / "llama_factory.py")
    done = subprocess.run(
        [PYTHON, "-I", program, json.dumps(jobs)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    found: list[Rows] = [json.loads(line) for line in done.stdout.splitlines()]
    differing = [what for place, (what, wanted) in expected.items() if found[place] != wanted]
    assert not differing
