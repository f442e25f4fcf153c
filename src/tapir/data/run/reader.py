"""Reader of a run directory: recipe, manifest, and the tables of every round, finished or not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tapir.data.files import MADE_AGAIN, read_json
from tapir.data.run import rows
from tapir.data.run.store import EVENTS, RunStore, resume_command
from tapir.data.run.tables import RowT
from tapir.domain.completion import Spending
from tapir.domain.difficulty import Difficulty, difficulty
from tapir.domain.errors import DataError
from tapir.domain.evaluation import EvalResult, Evaluation
from tapir.domain.instruction import transcript
from tapir.domain.judgement import Judgement, Order, Unscored

_COMPARED = "compared-"
_NOT_A_RUN = "Name the folder of a run, e.g. runs/gym."


def _table(name: str, row: type[RowT]) -> Callable[[RunReader], Iterator[RowT]]:
    return lambda self: self.read(name, row)


def _round_table(name: str, row: type[RowT]) -> Callable[[RunReader, int], Iterator[RowT]]:
    return lambda self, number: self.read(f"round-{number}/{name}", row)


@dataclass(frozen=True, slots=True)
class RunReader:
    """The content of a run. A table is read each time it is asked for; one that is not finished has no rows."""

    store: RunStore

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.store.folder

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The resolved recipe, as the version that ran it wrote it, with the models that its servers had."""
        recipe = dict(read_json(self.folder / "recipe.json", _NOT_A_RUN))
        for name, model in self.manifest.get("models", {}).items():
            recipe["endpoints"][name]["model"] = model
        return recipe

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Versions, id and digests of the run."""
        return dict(read_json(self.folder / "manifest.json", _NOT_A_RUN))

    @property
    def finished(self) -> bool:
        """Whether the last round of the recipe has been evaluated."""
        path = self.folder / "recipe.json"
        plan = read_json(path, _NOT_A_RUN).get("curriculum") if path.exists() else None
        if not plan:  # an evaluation
            return False
        last = 1 if plan.get("variant") == "single-round" else plan["rounds"]
        return (self.store.round(last) / "metrics.json").exists()

    def rounds(self, table: str = "") -> list[int]:
        """Return the rounds that have begun, or those with this finished table, in order; 0 is before round 1."""
        names = (path.name.removeprefix("round-") for path in self.folder.glob("round-*"))
        numbers = sorted(int(name) for name in names if name.isdecimal())
        return [number for number in numbers if not table or self.store.has(f"round-{number}/{table}")]

    def trained_rounds(self) -> list[int]:
        """Return the rounds that left a student; 0 is S_0 where there was a warm-up."""
        folders = ((number, self.store.round(number)) for number in self.rounds())
        return [number for number, at in folders if (at / "checkpoint").is_dir() and (at / "training.json").is_file()]

    def choose(self, rounds: Sequence[int], number: int | None, what: str) -> list[int]:
        """Return the requested one of the rounds that have something, or all of them; without any it is an error."""
        if not rounds and self.manifest and self.finished:  # reading it raises where the folder is not a run
            kind = self.recipe["curriculum"]["difficulty"]["kind"]
            why = f"{self.folder} has no {what}: this run measures difficulty by {kind} and is finished without any"
            raise DataError(why, remedy="`tapir report` shows what it has; a run with difficulty mfd keeps judgements.")
        if not rounds:
            raise DataError(f"{self.folder} has no {what} yet", remedy=f"Go on with `{resume_command(self.folder)}`.")
        if number is not None and number not in rounds:
            raise DataError(
                f"round {number} of {self.folder} has no {what}; rounds with one: {', '.join(map(str, rounds))}",
                remedy="Name one of these rounds"
                + ("." if self.finished else f"; `{resume_command(self.folder)}` goes on with the run."),
            )
        return list(rounds) if number is None else [number]

    def read(self, name: str, row: type[RowT]) -> Iterator[RowT]:
        """Yield the rows of a table; none where it is not finished."""
        if self.store.has(name):
            yield from self.store.each(name, row)

    # Methods that yield the rows of a table, described in rows.py; tables of a round take its number.
    corpus = _table("corpus", rows.CorpusRow)
    drops = _table("drops", rows.DropRow)
    near_duplicates = _table("neighbours", rows.NeighbourRow)
    responses = _table("round-0/responses", rows.ResponseRow)
    tags = _table("round-0/tags", rows.TagRow)
    estimates = _round_table("estimates", rows.EstimateRow)
    answers = _round_table("answers", rows.AnswerRow)
    difficulty = _round_table("difficulty", rows.DifficultyRow)
    expansions = _round_table("expansions", rows.ExpansionRow)
    refinements = _round_table("refinements", rows.RefinementRow)
    mixture = _round_table("mixture", rows.MixtureRow)
    contrasts = _round_table("contrasts", rows.ContrastRow)
    evaluation = _round_table("evaluation", rows.EvaluationRow)

    def comparisons(self, number: int = 0) -> dict[str, str]:
        """Return the names of the tables of estimators that were measured for comparison, by estimator."""
        stems = sorted(path.stem for path in self.store.round(number).glob(f"{_COMPARED}*.parquet"))
        tables = {stem.removeprefix(_COMPARED): f"round-{number}/{stem}" for stem in stems}
        return {kind: table for kind, table in tables.items() if self.store.has(table)}

    def judgements(self, number: int, table: str = "judgements") -> Iterator[rows.JudgementRow]:
        """Yield the judge's scores of a round; other tables of the kind are `canary` and `preferences`."""
        return self.read(f"round-{number}/{table}", rows.JudgementRow)

    def kept_expansions(self, before: int | None = None) -> Iterator[rows.ExpansionRow]:
        """Yield the expansions that were kept, of the rounds before one or of all."""
        for number in self.rounds("expansions"):
            if before is None or number < before:
                yield from (row for row in self.expansions(number) if row.reason is None)

    def references(self, before: int | None = None) -> Iterator[tuple[str, str, str]]:
        """Yield id, instruction and y (before refining) of all that was known before a round, or at the end."""
        written = {row.id: row.text for row in self.responses()}
        for row in self.corpus():
            reference = written.get(row.id, row.response)
            if reference is not None:  # what the teacher failed to answer
                yield row.id, transcript(row.text, row.context), reference
        yield from ((row.id, row.text, row.response) for row in self.kept_expansions(before))

    def tasks(self, before: int | None = None) -> dict[str, str]:
        """Return t(x) by id where there is one, of all that was known before a round, or at the end."""
        tagged = {row.id: row.task for row in self.tags() if row.task is not None}
        return tagged | {row.id: row.task for row in self.kept_expansions(before) if row.task is not None}

    def left_out(self, number: int) -> dict[str, str]:
        """Return what training left out of a round's mixture, by id, with the reason."""
        content = self.json(f"round-{number}/training.json") or {}
        return {**dict.fromkeys(content.get("too_long", ()), "too long"), **content.get("unfit", {})}

    def learnt(self, number: int) -> Iterator[rows.MixtureRow]:
        """Yield the rows of a mixture that training did not leave out."""
        left = self.left_out(number)
        return (row for row in self.mixture(number) if row.id not in left)

    def draws(self, number: int) -> list[rows.DrawRow]:
        """Return what a composed round needed from the hard pool, by task."""
        return self.store.read(f"round-{number}/draws", rows.DrawRow)

    def metrics(self) -> list[Evaluation]:
        """Return the results of every benchmark, round by round."""
        rows = (row for number in self.rounds() for row in self.json(f"round-{number}/metrics.json") or ())
        return [
            Evaluation(
                row["benchmark"],
                row["round"],
                EvalResult(**row["overall"]),
                {task: EvalResult(**result) for task, result in row["tasks"].items()},
            )
            for row in rows
        ]

    def spending(self) -> list[Spending]:
        """Return what calls to models took; empty where none was called."""
        return [Spending(**content) for content in self.json("spending.json") or ()]

    def json(self, name: str, remedy: str = MADE_AGAIN) -> Any:
        """Return the content of a JSON file of the run; None where it is not made yet."""
        path = self.folder / name
        return read_json(path, remedy) if path.exists() else None

    def events(self) -> Iterator[Mapping[str, Any]]:
        """Yield the lines of the event log that are whole."""
        path = self.folder / EVENTS
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        for line in text.split("\n"):
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


def difficulties(judgements: Iterable[rows.JudgementRow]) -> dict[str, Difficulty | Unscored]:
    """Return MFD by id, or why there is none."""
    by_id: dict[str, list[Judgement]] = {}
    missing: dict[str, Unscored] = {}
    for row in judgements:
        if row.student is None or row.reference is None:
            missing[row.id] = Unscored(row.unscored or "", row.raw or "")
            continue
        judgement = Judgement(row.student, row.reference, cast("Order", row.order), "", row.judge)
        by_id.setdefault(row.id, []).append(judgement)
    scored: dict[str, Difficulty | Unscored] = {
        name: difficulty(scores) for name, scores in by_id.items() if name not in missing
    }
    return scored | missing
