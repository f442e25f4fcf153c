"""A run with nobody to teach, judge or tag: the student's own losses select, a program measures, nothing leaks."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from support.alpaca import environment
from tapir.config.toml import parse
from tapir.data.run.rows import CorpusRow, DifficultyRow, DropRow, EstimateRow, MixtureRow
from tapir.data.run.store import RunStore
from tapir.domain.errors import DataError, RecipeError

PLANTED = "A farmer has 17 sheep and buys 25 more. How many sheep has the farmer now?"
ONLY = {
    "corpus": {"kind": "file", "path": "corpus.jsonl"},
    "teacher": {"kind": "none"},
    "judge": {"kind": "none"},
    "tagger": {"kind": "none"},
    "curriculum": {
        "difficulty": "ifd",
        "threshold": {"rule": "quantile", "value": 0.5},
        "target": {"taxonomy": "paper", "shares": "pool"},
        "expand": False,
        "refine": False,
        "rounds": 2,
        "size": 24,
    },
    "evaluation": {"kind": "exact", "match": "number", "held_out": 8},
}


def toml(folder: Path, **evaluation: object) -> Path:
    lines = []
    for section, content in (ONLY | {"evaluation": ONLY["evaluation"] | evaluation}).items():  # type: ignore[operator]
        lines += [f"[{section}]", *(f"{key} = {_value(value)}" for key, value in content.items())]
    path = folder / "nobody.toml"
    path.write_text("\n".join(['name = "nobody"', "chunk = 32", *lines, "[training]", "epochs = 1"]) + "\n")
    return path


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


def corpus(folder: Path, count: int = 60) -> None:
    rng = random.Random(5)
    rows = []
    for number in range(count):
        a, b = rng.randrange(100), rng.randrange(100)
        rows.append({"instruction": f"What is {a} + {b}? ({number})", "output": f"{a} + {b} is {a + b}."})
    rows.insert(20, {"instruction": PLANTED, "output": "The farmer has 42 sheep."})
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(folder: Path, recipe: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tapir.cli.main", "run", str(recipe), "--out", str(folder / "run")]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment(), check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    folder = tmp_path_factory.mktemp("nobody")
    corpus(folder)
    sets = folder / "benchmark.jsonl"
    sets.write_text(json.dumps({"question": PLANTED.upper(), "answer": "#### 42"}) + "\n")
    result = run(folder, toml(folder, protect=[str(sets)]))
    assert result.returncode == 0, result.stdout + result.stderr
    return RunStore(folder / "run")


def test_the_losses_of_the_student_part_the_corpus(finished: RunStore) -> None:
    estimates = {row.id: row for row in finished.read("round-0/estimates", EstimateRow)}
    parts = finished.read("round-1/difficulty", DifficultyRow)
    assert {row.id for row in parts} == estimates.keys() == {row.id for row in finished.read("corpus", CorpusRow)}
    assert all(row.gap == estimates[row.id].value for row in parts)
    hard = [row.gap for row in parts if row.part == "hard" and row.gap is not None]
    easy = [row.gap for row in parts if row.part == "easy" and row.gap is not None]
    assert min(hard) > max(easy)
    assert len(hard) == len(parts) // 2
    assert not (finished.folder / "round-0/judgements.parquet").exists()


def test_the_rounds_have_their_share_of_hard_examples_and_the_answers_of_the_corpus(finished: RunStore) -> None:
    answers = {row.id: row.response for row in finished.read("corpus", CorpusRow)}
    for number, share in ((1, 0.3), (2, 0.5)):
        rows = finished.read(f"round-{number}/mixture", MixtureRow)
        assert Counter(row.pool for row in rows) == {"hard": round(24 * share), "easy": 24 - round(24 * share)}
        assert all(row.response == answers[row.id] and row.task == "Others" for row in rows)


def test_a_planted_evaluation_item_is_removed_and_reported(finished: RunStore) -> None:
    dropped = [row for row in finished.read("drops", DropRow) if row.text == PLANTED]
    assert [row.reason for row in dropped] == ["in an evaluation set"]
    trained = {row.instruction for number in (1, 2) for row in finished.read(f"round-{number}/mixture", MixtureRow)}
    assert PLANTED not in trained
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "in an evaluation set" in page


def test_a_near_copy_of_an_evaluation_item_is_removed_where_the_recipe_looks_for_them(tmp_path: Path) -> None:
    from tapir.runs.build import build_roles
    from tapir.runs.corpus import forbidden

    corpus(tmp_path)
    sets = tmp_path / "benchmark.jsonl"
    near = PLANTED.replace("sheep", "goats", 1)
    sets.write_text(json.dumps({"turns": ["Say hello.", near]}) + "\n")
    tables = ONLY | {
        "corpus": {"kind": "file", "path": str(tmp_path / "corpus.jsonl")},
        "curriculum": {**ONLY["curriculum"], "novelty": {"rule": "near"}},  # type: ignore[dict-item]
        "evaluation": {**ONLY["evaluation"], "protect": [str(sets)]},  # type: ignore[dict-item]
    }
    recipe = parse(tables)
    banned = forbidden(recipe, build_roles(recipe))
    met = banned.find(PLANTED)
    assert met is not None
    assert met.near.startswith("rouge-l")


def test_an_evaluation_set_without_prompts_is_an_error_and_not_unprotected(tmp_path: Path) -> None:
    from tapir.data.corpus import texts

    for content, said in (("", "is empty"), ('{"answer": "42"}\n', "has no text in a column")):
        path = tmp_path / "set.jsonl"
        path.write_text(content)
        with pytest.raises(DataError, match=said):
            list(texts(path))


TURNS = (
    ("system", "Be brief."),
    ("user", "Why is the sky blue?"),
    ("assistant", "So."),
    ("user", "And how do we know?"),
)


@pytest.mark.parametrize(
    "row",
    [
        {"turns": [{"content": "Why is the sky blue?"}, {"content": "And how do we know?"}]},  # Arena-Hard
        {"messages": [{"role": role, "content": text} for role, text in TURNS]},
        {
            "conversations": [
                {"from": "human", "value": "Why is the sky blue?"},
                {"from": "human", "value": "And how do we know?"},
            ]
        },
        {"turns": ["Why is the sky blue?", "And how do we know?"]},  # MT-Bench
    ],
)
def test_turns_of_an_evaluation_set_are_read_however_they_are_written(row: object, tmp_path: Path) -> None:
    from tapir.data.corpus import texts

    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(row) + "\n")
    asked = ["Why is the sky blue?", "And how do we know?"]
    assert [text for _, text in texts(path)] == ["\n\n".join(asked), *asked]


def test_a_few_words_within_a_conversation_are_no_prompt_by_themselves(tmp_path: Path) -> None:
    from tapir.data.corpus import texts

    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"turns": ["What is a tapir?", "Go on."]}) + "\n" + json.dumps({"turns": ["Sing."]}))
    found = [text for _, text in texts(path)]
    assert found == ["What is a tapir?\n\nGo on.", "What is a tapir?", "Sing."]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"curriculum": {"difficulty": "mfd"}}, "difficulty = 'mfd' needs a judge"),
        ({"curriculum": {"compare": ["pass-rate"]}}, "compare with 'pass-rate' needs a judge"),
        ({"curriculum": {"expand": True}}, "expand = true needs a teacher"),
        ({"curriculum": {"refine": True}}, "refine = true needs a teacher"),
        ({"corpus": {"answers": "missing"}}, "answers = 'missing' needs a teacher"),
        ({"curriculum": {"target": {"taxonomy": "paper"}}}, "leaves no tasks to balance"),
        ({"evaluation": {"kind": "judged", "held_out": 8}}, "evaluation.kind = 'judged' needs a judge"),
    ],
)
def test_what_needs_somebody_is_refused(changes: dict[str, dict[str, object]], said: str) -> None:
    tables: dict[str, object] = dict(ONLY)
    for section, content in changes.items():
        before = {} if section == "evaluation" else ONLY[section]
        tables[section] = {**before, **content}  # type: ignore[dict-item]
        if content.get("difficulty") == "mfd":
            tables[section].pop("threshold")  # type: ignore[attr-defined]
    with pytest.raises(RecipeError) as caught:
        parse(tables)
    assert said in str(caught.value)
