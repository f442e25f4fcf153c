"""A win rate measured: the examinee answers, the judge compares with the baseline's answers, everything is kept.

Answers are kept chunk by chunk and verdicts in the ledger of calls, so the same command goes on where it was and pays
for nothing twice; a call that failed is made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tapir.assemble.judging import Desk, Question, Questions, desk, listed, questions, recorded_annotations
from tapir.at_work import connected, opened, recorded
from tapir.domain.judgement import Unscored
from tapir.errors import DataError, RecipeError
from tapir.evaluating import Examinee, claim
from tapir.evaluation.annotations import Annotation, by_model
from tapir.evaluation.length_control import Given
from tapir.evaluation.winrate_all import Rated, as_json, rated
from tapir.examinee import Source, source
from tapir.llm.preference import Choice, flipped, preference
from tapir.recipe import Recipe
from tapir.recipe_file import load
from tapir.roles import Comparison, Watch
from tapir.stages.answer import Answer
from tapir.store.files import write_json
from tapir.store.keep import Place
from tapir.store.lock import locked
from tapir.store.rows import AnswerRow
from tapir.store.run import RunStore
from tapir.watching import Diary

ANNOTATIONS = "annotations.json"
RATES = "winrate.json"
MISSING = "missing"
PROMPTS = ("prefer", "reply-prefer-short", "judge-repair")
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison gave: the annotations, and how many verdicts carry log-probabilities, of how many."""

    rows: Sequence[Annotation]
    weighted: tuple[int, int]
    cut: int


@dataclass(frozen=True, slots=True)
class Comparing:
    """A comparison to be made in a claimed folder.

    Attributes:
        model: how the examinee is called in the annotations.
        chunk: prompts that the student answers and saves together.
    """

    folder: Path
    who: Examinee
    model: str
    material: Questions
    desk: Desk
    chunk: int
    seed: int

    def run(self, watch: Watch) -> Compared:
        """Have every prompt answered and every pair judged, and write the annotations.

        Raises:
            DataError: recorded answers lack a prompt.
            RoleError: no endpoint works.
            Interrupted: the watch was asked to stop; the same command goes on.
        """
        with locked(self.folder):
            store = RunStore(self.folder)
            store.verify()
            alone, diary = Diary(watch, store, self.who.calls), Diary(watch, store, self.desk.calls)
            with recorded(store):
                with opened(self.who.resources, store, alone), connected(self.who.calls, store, alone):
                    place = Place(store, alone, 0, self.seed)
                    asked = [one.instruction for one in self.material.rows]
                    answers = Answer(self.who.student, self.chunk).run(place, self.who.checkpoint, asked)
                _complete(answers, self.material.rows, self.model)
                with connected(self.desk.calls, store, diary):
                    found = self._judged(answers, diary)
                write_json(
                    self.folder / ANNOTATIONS,
                    [self._record(one, answers, *found[one.index]) for one in self.material.rows],
                )
        choices = [choice for _, verdicts in found.values() for choice in verdicts]
        cut = sum(one.finish_reason == "length" for one in answers.values())
        return Compared(
            [found[one.index][0] for one in self.material.rows],
            (sum(one.weighted for one in choices), len(choices)),
            cut,
        )

    def _judged(
        self, answers: Mapping[str, AnswerRow], diary: Diary
    ) -> dict[int, tuple[Annotation, tuple[Choice, ...]]]:
        """Annotation and verdicts by place."""
        found: dict[int, tuple[Annotation, tuple[Choice, ...]]] = {}
        owed: dict[str, Question] = {}
        for one in self.material.rows:
            settled = self._without_a_judge(one, answers[one.instruction.id])
            if settled is None:
                owed[one.instruction.id] = one
            else:
                found[one.index] = (settled, ())
        diary.start(0, "compare", len(self.material.rows), len(found))

        def comparisons() -> Iterator[Comparison]:
            for name, one in owed.items():
                yield Comparison(one.instruction, one.baseline, answers[name].text or "", one.category)

        judge = self.desk.preference(reasoned=False)
        for name, verdict in judge.prefer(comparisons(), {}):
            one, length = owed[name], len(answers[name].text or "")
            if isinstance(verdict, Unscored):
                found[one.index] = (self._row(one, length, None, verdict.reason), ())
            else:
                found[one.index] = (self._decided(one, length, verdict), verdict)
            diary.advance()
        diary.finish()
        return found

    def _without_a_judge(self, one: Question, answer: AnswerRow) -> Annotation | None:
        """A prompt that needs no judge: no answer is a loss, the baseline's very words are a tie."""
        if answer.text is None:
            return self._row(one, 0, 0.0, f"student: {(answer.failure or '').partition(':')[0]}")
        if not answer.text.strip():
            return self._row(one, len(answer.text), 0.0, "student: empty answer")
        return self._row(one, len(answer.text), 0.5) if answer.text == one.baseline else None

    def _decided(self, one: Question, length: int, choices: Sequence[Choice]) -> Annotation:
        first = sum(
            (choice.better == "student") == (choice.order == "student-first")
            for choice in choices
            if choice.better != "tie"
        )
        verdicts = sum(choice.better != "tie" for choice in choices)
        row = self._row(one, length, preference(choices))
        return replace(row, flipped=flipped(choices), shown_first=(first, verdicts))

    def _row(self, one: Question, length: int, value: float | None, failure: str = "") -> Annotation:
        return Annotation(
            self.model,
            self.material.baseline,
            one.instruction.id,
            one.index,
            one.category,
            value,
            length,
            len(one.baseline),
            failure,
        )

    def _record(
        self, one: Question, answers: Mapping[str, AnswerRow], row: Annotation, choices: Sequence[Choice]
    ) -> dict[str, object]:
        """A row of annotations.json, in AlpacaEval's form with what we know besides."""
        return {
            "index": one.index,
            "dataset": one.category,
            "instruction": one.instruction.text,
            "output_1": one.baseline,
            "generator_1": row.baseline,
            "output_2": answers[one.instruction.id].text or "",
            "generator_2": row.model,
            "annotator": self.desk.models,
            "preference": None if row.preference is None else 1.0 + row.preference,
            "failure": row.failure,
            "flipped": row.flipped,
            "shown_first": list(row.shown_first),
            "verdicts": [
                {"order": choice.order, "better": choice.better, "student": choice.student, "weighted": choice.weighted}
                for choice in choices
            ],
        }


def _complete(answers: Mapping[str, AnswerRow], rows: Sequence[Question], model: str) -> None:
    """Recorded answers must answer every prompt: what is not in the file is no failure of the student."""
    missing = [one for one in rows if (answers[one.instruction.id].failure or "").startswith(f"{MISSING}:")]
    if missing:
        first = "; ".join(f"{one.index} ({one.instruction.text[:50]!r})" for one in missing[:_NAMED])
        raise DataError(
            f"{model} has no answer to {len(missing):,} of {len(rows):,} prompts; the first, by place: {first}",
            remedy="Give a file with an answer to every prompt, or name the prompts that count with --prompts.",
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """How rates are made from annotations.

    Attributes:
        given: files for the length-controlled rate.
        annotations: files with recorded annotations.
        seed: of the intervals.
        without_unjudged: prompts that were not judged are left out, by count.
    """

    given: Given
    annotations: tuple[Path, ...]
    seed: int
    without_unjudged: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line named: source, recipe ("" where a run brings its own), changes, and round."""

    source: str
    recipe: str
    changes: tuple[str, ...]
    number: int | None


def prepared(asked: Asked, baseline: Path, prompts: Path | None, folder: Path) -> Comparing:
    """Everything read and checked, and the folder claimed; nobody is called yet.

    Raises:
        TapirError: something cannot be used.
    """
    examined, recipe = examinee_and_judge(asked)
    material = questions(baseline, prompts)
    judge = desk(recipe, PROMPTS)
    judge.ready()
    claim(folder, {"benchmark": "win rate", **examined.facts, "against": material.digest, **judge.facts})
    return Comparing(folder, examined.who, examined.name, material, judge, recipe.chunk, recipe.seed)


def examinee_and_judge(asked: Asked) -> tuple[Source, Recipe]:
    """Whose answers are judged, and the recipe whose judge it is: that of --recipe, else the run's own.

    Raises:
        RecipeError: no recipe is given and the source is no run.
    """
    is_run = (Path(asked.source).expanduser() / "recipe.json").is_file()
    if not asked.recipe and not is_run:
        raise RecipeError(
            f"{asked.source} is no run, so it brings no judge",
            remedy="Name a recipe whose judge and endpoints judge with --recipe.",
        )
    if is_run and asked.recipe:
        return source(asked.source, asked.recipe, (), asked.number), load(asked.recipe, asked.changes)
    found = source(asked.source, asked.recipe, asked.changes, asked.number)
    return found, found.recipe


def measured(one: Comparing, wanted: Wanted, watch: Watch) -> tuple[list[Rated], Compared]:
    """Compare, then make the rates, together with those of the recorded models.

    Raises:
        DataError: prompts were not judged, or the recorded annotations do not fit.
    """
    compared = one.run(watch)
    order = {row.instruction.id: row.index for row in one.material.rows}
    others = recorded_annotations(wanted.annotations, order) if wanted.annotations else []
    if any(row.model == one.model for row in others):
        raise DataError(
            f"the recorded annotations hold {one.model} too", remedy="Give annotations of other models with it."
        )
    models = by_model([*compared.rows, *others], range(len(one.material.rows)))
    return _kept(
        rated(models, wanted.given, seed=wanted.seed, without_unjudged=wanted.without_unjudged), one.folder
    ), compared


def recorded_rates(wanted: Wanted, prompts: Path | None, folder: Path | None) -> list[Rated]:
    """The rates of every model in recorded annotations; nobody is called.

    Raises:
        DataError: a file cannot be used, or prompts were not judged.
        RecipeError: there is no file.
    """
    if not wanted.annotations:
        raise RecipeError("there is nothing to measure", remedy="Name a SOURCE, or annotations with --annotations.")
    order = None if prompts is None else {row.instruction.id: row.index for row in listed(prompts)}
    models = by_model(recorded_annotations(wanted.annotations, order), None if order is None else range(len(order)))
    found = rated(models, wanted.given, seed=wanted.seed, without_unjudged=wanted.without_unjudged)
    return _kept(found, folder) if folder else found


def _kept(found: list[Rated], folder: Path) -> list[Rated]:
    write_json(folder / RATES, [as_json(one) for one in found])
    return found
