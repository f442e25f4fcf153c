"""Steps of the loop that only a recipe with models behind servers takes."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from support import fakes
from support.recipes import api
from support.scripted import Watcher, completion
from tapir.algorithm import Curriculum
from tapir.config.recipe import Recipe
from tapir.config.toml import parse
from tapir.data.duplicates import DuplicateIndex
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import JudgementRow, MixtureRow, RefinementRow, ResponseRow
from tapir.data.run.store import RunStore
from tapir.domain.completion import Completion, Failure
from tapir.domain.difficulty import Split
from tapir.domain.evaluation import Prompt
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.domain.judgement import Judgement, Unscored, Verdict
from tapir.domain.mixture import Draw, Mixture
from tapir.domain.roles import Comparison, RefineRequest, Reply
from tapir.domain.round import RoundPlan
from tapir.domain.task import TaskDistribution
from tapir.report.rounds import read_rounds
from tapir.stages.base import StageContext
from tapir.stages.expand import record_draws
from tapir.stages.judge import NULL_ANSWER
from tapir.stages.mix import compose


@dataclass
class Teacher(fakes.Teacher):
    """Fails on what ends in 3 and says nothing to what ends in 4."""

    def answer(self, instructions: Iterable[Instruction]) -> Iterator[Reply]:
        for one in instructions:
            self.asked.append(one.text)
            failed = Failure("timeout", "no answer")
            yield one.id, failed if one.text.endswith("3") else completion("" if one.text.endswith("4") else "taught")


@dataclass
class Judge:
    """Likes what is refined by half a point, less what ends in 1, the same what ends in 2; cannot read 5."""

    name: str = "scripted"
    asked: list[Comparison] = field(default_factory=list)

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[str, Verdict]]:
        for one in comparisons:
            self.asked.append(one)
            student = {"1": 5.5, "2": 6.0}.get(one.instruction.text[-1], 6.5)
            both = tuple(Judgement(student, 6.0, order, "", self.name) for order in fakes.ORDERS)
            yield one.instruction.id, Unscored("no score found") if one.instruction.text.endswith("5") else both


def recipe(answers: Literal["corpus", "missing", "teacher"] = "corpus", **changed: object) -> Recipe:
    corpus = {"kind": "file", "path": "rows.jsonl", "answers": answers}
    return parse(api(corpus=corpus, chunk=4, **changed))


def curriculum(folder: Path, chosen: Recipe) -> Curriculum:
    roles = replace(fakes.roles(folder / "people"), teacher=Teacher(), judge=Judge())
    place = StageContext(RunStore(folder / "run"), Watcher(), 0, chosen.seed)
    return Curriculum(chosen, roles, place, DuplicateIndex(), DuplicateIndex())


def pair(number: int, answer: str = "own") -> Pair:
    return Pair(fakes.instruction("add", number), Response(answer, "rows.jsonl" if answer else ""))


def outcome(pairs: Sequence[Pair]) -> dict[str, tuple[str, str]]:
    """Answer and author by the number of the instruction."""
    return {one.instruction.text.split()[-1]: (one.response.text, one.response.author) for one in pairs}


def asked(loop: Curriculum) -> list[str]:
    assert isinstance(loop.roles.teacher, Teacher)
    return loop.roles.teacher.asked


OWN, TAUGHT = ("own", "rows.jsonl"), ("taught", "fake-teacher")


def test_a_corpus_with_its_own_answers_asks_nobody(tmp_path: Path) -> None:
    loop = curriculum(tmp_path, recipe("corpus"))
    assert outcome(loop.respond([pair(1), pair(2)])) == {"1": OWN, "2": OWN}
    assert not asked(loop)
    assert not loop.context.store.has("round-0/responses")


def test_only_missing_answers_are_the_teachers_and_what_it_fails_on_is_left_out(tmp_path: Path) -> None:
    loop = curriculum(tmp_path, recipe("missing"))
    pairs = [pair(1), pair(2, ""), pair(3), pair(13, ""), pair(4, " \n"), pair(5, " ")]
    assert outcome(loop.respond(pairs)) == {"1": OWN, "2": TAUGHT, "3": OWN, "5": TAUGHT}
    rows = loop.context.store.read("round-0/responses", ResponseRow)
    assert [(row.id, row.failure) for row in rows] == [
        (fakes.instruction("add", 2).id, None),
        (fakes.instruction("add", 13).id, "timeout: no answer"),
        (fakes.instruction("add", 4).id, "empty: the reply has no text"),
        (fakes.instruction("add", 5).id, None),
    ]


def test_where_nothing_is_missing_nobody_is_asked(tmp_path: Path) -> None:
    loop = curriculum(tmp_path, recipe("missing"))
    assert outcome(loop.respond([pair(1)])) == {"1": OWN}
    assert not asked(loop)


def test_where_the_teacher_answers_all_no_other_answer_is_trained_on(tmp_path: Path) -> None:
    loop = curriculum(tmp_path, recipe("teacher"))
    found = loop.respond([pair(1), pair(2, ""), pair(3), pair(4)])
    assert outcome(found) == {"1": TAUGHT, "2": TAUGHT}
    again = curriculum(tmp_path, recipe("teacher"))
    assert again.respond([pair(1), pair(2, ""), pair(3), pair(4)]) == found
    assert not asked(again)


def comparisons(loop: Curriculum) -> list[Comparison]:
    assert isinstance(loop.roles.judge, Judge)
    return loop.roles.judge.asked


def canaries(count: int) -> dict[str, object]:
    """A judge of the recipe with so many of them."""
    return {"kind": "llm", "endpoints": ["gpt"], "null_answers": count}


def test_the_canary_is_a_constant_answer_to_a_few_instructions_whatever_their_order(tmp_path: Path) -> None:
    chosen = recipe(judge=canaries(6))
    pairs = [pair(number) for number in range(40)]
    loops = [curriculum(tmp_path / name, chosen) for name in ("there", "back")]
    for loop, order in zip(loops, (pairs, pairs[::-1]), strict=True):
        loop.pairs = {one.instruction.id: one for one in order}
        loop.task_of = dict.fromkeys(loop.pairs, "add")
        loop.check_judge(loop.roles.base)
        assert {(one.student, one.reference, one.task) for one in comparisons(loop)} == {(NULL_ANSWER, "own", "add")}
    there, back = ([one.instruction.id for one in comparisons(loop)] for loop in loops)
    assert there == back
    assert len(set(there)) == 6
    rows = loops[0].context.store.read("round-0/canary", JudgementRow)
    assert {row.id for row in rows} == set(there)
    assert not loops[0].context.store.has("round-0/judgements")


@pytest.mark.parametrize(
    "chosen", [fakes.recipe(), recipe(judge={"kind": "llm", "endpoints": ["gpt"], "null_answers": 0})]
)
def test_no_canary_is_judged_where_none_is_wanted(tmp_path: Path, chosen: Recipe) -> None:
    loop = curriculum(tmp_path, chosen)
    loop.pairs = {one.instruction.id: one for one in (pair(1), pair(2))}
    loop.check_judge(loop.roles.base)
    assert not comparisons(loop)
    assert not loop.context.store.has("round-0/canary")


def test_more_canaries_than_instructions_are_as_many_as_there_are(tmp_path: Path) -> None:
    loop = curriculum(tmp_path, recipe())
    loop.pairs = {one.instruction.id: one for one in (pair(1), pair(2))}
    loop.check_judge(loop.roles.base)
    assert len(comparisons(loop)) == 2


def refining(folder: Path, keep: str) -> tuple[Curriculum, Mixture]:
    loop = curriculum(folder, recipe(curriculum={"refine_keep": keep, "target": {"taxonomy": "paper"}}))
    pairs = [pair(number) for number in range(10, 18)]
    loop.pairs = {one.instruction.id: one for one in pairs}
    loop.task_of = dict.fromkeys(loop.pairs, "add")
    ids = tuple(loop.pairs)
    return loop, Mixture(ids[:5], ids[5:])


def trained_on(loop: Curriculum, mixture: Mixture) -> dict[str, str]:
    rows: list[MixtureRow] = compose(loop.context, mixture, loop.pairs, loop.task_of, loop.refined)
    assert all(row.refined == (row.response != "own") for row in rows)
    return {row.instruction.split()[-1]: row.response for row in rows}


def test_a_rewrite_is_trained_on_unless_it_failed(tmp_path: Path) -> None:
    loop, mixture = refining(tmp_path, "always")
    loop.refine(mixture)
    assert trained_on(loop, mixture) == {
        **{str(number): "own, in steps" for number in range(10, 17)},
        "17": "own",
    }
    assert not comparisons(loop)


class Unchanging(fakes.Teacher):
    """A teacher that gives some answers back as they were."""

    def refine(self, requests: Iterable[RefineRequest]) -> Iterator[Reply]:
        for request, (name, reply) in zip(items := list(requests), super().refine(items), strict=True):
            same = request.pair.instruction.text.endswith("6")
            yield name, completion(f"{request.pair.response.text}\n") if same else reply


class Talkative(fakes.Teacher):
    """A teacher that says what it did."""

    def refine(self, requests: Iterable[RefineRequest]) -> Iterator[Reply]:
        for name, reply in super().refine(requests):
            if isinstance(reply, Completion) and name == fakes.instruction("add", 12).id:
                yield name, completion(f"{reply.text}\nThis rewritten answer is better.")
            else:
                yield name, reply


def test_a_rewrite_that_speaks_of_itself_failed(tmp_path: Path) -> None:
    loop, mixture = refining(tmp_path, "always")
    loop.roles = replace(loop.roles, teacher=Talkative())
    loop.refine(mixture)
    assert trained_on(loop, mixture)["12"] == "own"
    rows = loop.context.store.read("round-0/refinements", RefinementRow)
    (row,) = (one for one in rows if one.id == fakes.instruction("add", 12).id)
    assert (row.text, row.failure) == (None, "speaks of the rewriting: 'rewritten answer'")


def test_a_rewrite_that_says_the_same_is_none_and_is_not_judged(tmp_path: Path) -> None:
    loop, mixture = refining(tmp_path, "judge")
    loop.roles = replace(loop.roles, teacher=Unchanging())
    loop.refine(mixture)
    assert trained_on(loop, mixture)["16"] == "own"
    assert not [one for one in comparisons(loop) if one.instruction.text.endswith("16")]
    record_draws(loop.context, Draw({"add": 8}, {"add": 8}), TaskDistribution({"add": 1.0}), [])
    (round_,) = read_rounds(RunReader(loop.context.store), one_pool=False)
    assert (round_.rewrites.unchanged, round_.rewrites.failed) == (1, 1)


def test_the_original_stays_where_the_judge_prefers_it_or_cannot_be_read(tmp_path: Path) -> None:
    loop, mixture = refining(tmp_path, "judge")
    loop.refine(mixture)
    assert trained_on(loop, mixture) == {
        "10": "own, in steps",
        "11": "own",
        "12": "own, in steps",
        "13": "own, in steps",
        "14": "own, in steps",
        "15": "own",
        "16": "own, in steps",
        "17": "own",
    }
    assert {(one.reference, one.student, one.task) for one in comparisons(loop)} == {("own", "own, in steps", "add")}
    rows = loop.context.store.read("round-0/preferences", JudgementRow)
    assert {row.id for row in rows} == {fakes.instruction("add", number).id for number in range(10, 17)}


def test_a_resumed_round_prefers_the_same_and_asks_nobody(tmp_path: Path) -> None:
    (loop, mixture), (again, _) = refining(tmp_path, "judge"), refining(tmp_path, "judge")
    loop.refine(mixture)
    again.refine(mixture)
    assert again.refined == loop.refined
    assert not asked(again)
    assert not comparisons(again)


def test_the_texts_of_the_pools_are_only_learnt_where_something_is_to_be_expanded(tmp_path: Path) -> None:
    plan = RoundPlan(1, 8, 1.0, TaskDistribution.of({"add": 1.0}))
    enough, short = Draw({"add": 2}, {"add": 2}), Draw({"add": 4}, {"add": 2})
    split, found = Split((pair(1).instruction.id,), (), (), frozenset()), list[bool]()
    for need in (enough, short, short):
        loop = curriculum(tmp_path, recipe())
        loop.pairs = {one.instruction.id: one for one in (pair(1), pair(2))}
        loop.task_of = dict.fromkeys(loop.pairs, "add")
        loop.expand(plan, need, split)
        found.append(loop.known.equal(pair(2).instruction.text) is not None)
        if need is enough:
            shutil.rmtree(tmp_path / "run")
    assert found == [False, True, False]


def test_held_out_instructions_without_a_task_are_left_to_the_tagger_once(tmp_path: Path) -> None:
    class Untagged(fakes.Benchmark):
        def prompts(self) -> Sequence[Prompt]:
            bare = Prompt(Instruction.of("add number 5000", Origin("evaluation")), "", "right")
            return [*super().prompts(), bare]

    roles = replace(fakes.roles(tmp_path), benchmarks=[Untagged("one"), Untagged("two")])
    assert [one.text for one in roles.untagged()] == ["add number 5000"]
