"""The embedded world."""

from __future__ import annotations

from collections import Counter
from importlib import resources
from itertools import islice

import pytest

from support import fakes
from tapir.config.annotators import TfidfTaggerConfig
from tapir.config.toml import parse
from tapir.domain.errors import GymError
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.domain.judgement import Unscored
from tapir.domain.roles import Comparison, ExpandRequest, RefineRequest
from tapir.domain.task import TaskTag, Taxonomy
from tapir.gym import world
from tapir.gym.corpus import corpus
from tapir.gym.roles import GymJudge, GymTeacher, benchmarks
from tapir.gym.skills import HARDER_LEVEL, SKILLS, TRAIN_LEVELS, TRAINED, UNSEEN, Skill
from tapir.gym.steps import worked_answer
from tapir.models.taggers.tfidf import TfidfTagger

NAMES = [skill.name for skill in TRAINED]


def some(skill: str, level: int, count: int = 30, *, reserved: bool = False) -> list[world.GymItem]:
    return list(islice(world.stream(skill, level, key="test", reserved=reserved), count))


def test_there_are_enough_skills_and_families_and_the_taxonomy_names_what_is_trained() -> None:
    assert len(TRAINED) >= 20
    assert len({skill.family for skill in TRAINED}) >= 7
    assert not {skill.name for skill in UNSEEN} & set(NAMES)
    text = (resources.files("tapir.recipes") / "taxonomies" / "gym.toml").read_text()
    assert set(Taxonomy.from_toml(text).labels) == set(NAMES)


@pytest.mark.parametrize("skill", [*TRAINED, *UNSEEN], ids=lambda skill: skill.name)
def test_every_skill_gives_short_instructions_whose_exact_answers_score_full_marks(skill: Skill) -> None:
    for level in (*TRAIN_LEVELS, HARDER_LEVEL):
        items = some(skill.name, level)
        assert len({item.question for item in items}) == len(items) > 10
        if level in TRAIN_LEVELS:
            assert max(len(item.question) for item in items) < 250
        for item in items:
            assert world.score(item, item.answer) == 1.0
            assert world.score(item, worked_answer(item)) == 1.0
            assert world.score(item, "") == 0.0
            assert world.score(item, f"{item.answer} {world.FINAL_MARK} rubbish") < 0.99


def test_a_word_that_spells_nan_is_right_and_the_number_is_wrong() -> None:
    words = (world.item("spell_backward", 1, index) for index in range(2000))
    word = next(item for item in words if "nan" in item.answer.casefold())
    assert world.score(word, word.answer) == 1.0
    for answer in ("nan", "-NaN", "nan+nanj"):
        assert world.score(world.item("complex_arithmetic", 1, 0), answer) == 0.0


def test_most_instructions_are_short_and_levels_get_harder_by_giving_more_to_work_through() -> None:
    lengths = [len(item.question) for name in NAMES for level in TRAIN_LEVELS for item in some(name, level)]
    assert sum(length <= 200 for length in lengths) / len(lengths) > 0.9
    for name in ("chain_sum", "letter_counting", "base_conversion", "simple_geometry"):
        mean = [sum(len(worked_answer(item)) for item in some(name, level)) for level in (1, 2, 3, 4)]
        assert mean == sorted(mean)


def test_worked_sums_are_true_sums() -> None:
    for item in some("chain_sum", 3):
        for step in worked_answer(item).split(f" {world.FINAL_MARK} ")[0].split():
            left, right = step.split("=")
            operator = left.rfind("+") if "+" in left else left.rfind("-")
            assert int(left[:operator]) + int(left[operator:]) == int(right)


def test_an_item_is_the_same_when_it_is_made_again_from_its_address() -> None:
    for name in NAMES:
        item = some(name, 2, 1)[0]
        world.item.cache_clear()
        again = world.from_address(item.address)
        assert (again.question, again.answer) == (item.question, item.answer)


@pytest.mark.parametrize("address", ["", "gym:chain_sum:1", "http://x", "gym:nothing:1:2"])
def test_what_is_not_an_address_is_refused(address: str) -> None:
    with pytest.raises(GymError, match="not an address"):
        world.from_address(address)


def test_no_evaluation_item_can_be_in_a_corpus_or_an_expansion() -> None:
    prompts = {
        prompt.instruction.text
        for benchmark in benchmarks(NAMES, per_task=9, harder=3, unseen=3)
        for prompt in benchmark.prompts()
    }
    assert all(world.is_reserved(text) for text in prompts)
    pairs = list(corpus(NAMES, size=400, skew=1.0, seed=1))
    request = ExpandRequest(
        "chain_sum", [pair for pair in pairs if "chain_sum" in pair.instruction.origin.source], 50, 3
    )
    written = [one for _, one in GymTeacher().expand([request])]
    assert len(written) == 50
    for one in [*(pair.instruction for pair in pairs), *written]:
        assert not world.is_reserved(one.text)


def test_the_corpus_is_imbalanced_and_mostly_easy() -> None:
    pairs = list(corpus(NAMES, size=2000, skew=1.0, seed=7))
    addresses = [pair.instruction.origin.source.split(":") for pair in pairs]
    skills = Counter(skill for _, skill, _, _ in addresses)
    assert set(skills) == set(NAMES)
    assert max(skills.values()) > 10 * min(skills.values())
    levels = Counter(int(level) for _, _, level, _ in addresses)
    assert levels[1] > levels[2] > levels[3] > 0
    assert 1900 <= len(pairs) <= 2000


def test_benchmarks_have_their_size_and_never_repeat_an_instruction() -> None:
    inside, harder, unseen = benchmarks(NAMES, per_task=9, harder=3, unseen=4)
    for benchmark, count in ((inside, 9), (harder, 3), (unseen, 4)):
        prompts = benchmark.prompts()
        by_task = Counter(prompt.task for prompt in prompts)
        assert max(by_task.values()) == count
        assert len({prompt.instruction.id for prompt in prompts}) == len(prompts)
    assert {prompt.task for prompt in unseen.prompts()} == {skill.name for skill in UNSEEN}
    assert not {prompt.instruction.text for prompt in inside.prompts()} & {
        prompt.instruction.text for prompt in harder.prompts()
    }


def test_the_teacher_expands_within_skill_and_level_and_names_the_parent() -> None:
    seeds = [
        Pair(Instruction.of(item.question, Origin("corpus", source=item.address)), Response(item.answer, "x"))
        for item in some("gcd", 3, 3)
    ]
    written = list(GymTeacher().expand([ExpandRequest("gcd", seeds, 7, 1)]))
    assert len(written) == 7
    for task, one in written:
        found = world.from_address(one.origin.source)
        assert (task, found.skill, found.level) == ("gcd", "gcd", 3)
        assert one.origin.parents[0] in {seed.instruction.id for seed in seeds}


@pytest.fixture
def asked() -> tuple[world.GymItem, Instruction]:
    item = some("gcd", 2, 1)[0]
    return item, Instruction.of(item.question, Origin("corpus", source=item.address))


def test_the_teacher_answers_exactly_and_refines_with_steps(asked: tuple[world.GymItem, Instruction]) -> None:
    item, one = asked
    teacher = GymTeacher()
    ((_, answer),) = teacher.answer([one])
    ((_, refined),) = teacher.refine([RefineRequest(Pair(one, Response(item.answer, "x")), "gcd")])
    assert getattr(answer, "text", None) == item.answer
    assert getattr(refined, "text", None) == worked_answer(item)


def test_the_judge_gives_ten_to_right_one_to_wrong_or_nothing_and_no_score_where_the_scorer_fails(
    asked: tuple[world.GymItem, Instruction], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> float:
        raise ValueError("broken")

    item, one = asked
    for text, score in ((item.answer, 10.0), (f"so #### {item.answer}", 10.0), ("", 1.0), ("####", 1.0)):
        ((name, verdict),) = GymJudge().judge([Comparison(one, item.answer, text)])
        assert name == one.id
        assert not isinstance(verdict, Unscored)
        assert (verdict[0].student, verdict[0].reference) == (score, 10.0)
    monkeypatch.setattr("tapir.gym.world._score", broken)
    ((_, verdict),) = GymJudge().judge([Comparison(one, item.answer, "1")])
    assert isinstance(verdict, Unscored)
    assert "broken" in verdict.raw


def tagger(labelled: int) -> TfidfTagger:
    from tapir.runs.corpus import taxonomy

    return TfidfTagger(TfidfTaggerConfig(labelled=labelled), taxonomy(parse({})), GymTeacher().label, seed=0, chunk=512)


def test_the_tagger_learns_the_skills_and_says_how_well() -> None:
    instructions = [pair.instruction for pair in corpus(NAMES, size=1200, skew=0.5, seed=7)]
    found = tagger(600)
    report = fakes.taught(found, instructions)
    assert report is not None
    assert report.n == 150
    assert report.accuracy > 0.95
    for one, (name, tag) in zip(instructions, found.tag(instructions), strict=True):
        assert name == one.id
        assert isinstance(tag, TaskTag)
        assert tag.task in SKILLS
        assert 0 <= tag.confidence <= 1
