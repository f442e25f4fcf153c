"""Draws of held-out prompts: what was tuned on one is measured on another."""

from __future__ import annotations

from tapir.config.toml import load
from tapir.gym.corpus import corpus
from tapir.gym.roles import GymBenchmark, benchmarks
from tapir.runs.session import preflight

SKILLS = ("chain_sum", "spell_backward", "simple_equations")
SIZES = {"per_task": 8, "harder": 4, "unseen": 0}


def texts(sample: int) -> dict[str, list[str]]:
    return {
        one.name: [prompt.instruction.text for prompt in one.prompts()]
        for one in benchmarks(SKILLS, **SIZES, sample=sample)
    }


def test_a_draw_is_the_same_every_time_and_another_draw_has_other_prompts() -> None:
    first, second = texts(1), texts(2)
    assert first == texts(1)
    for name, count in (("in-distribution", 24), ("harder", 12)):
        assert len(set(first[name])) == len(set(second[name])) == count
        assert len(set(first[name]) & set(second[name])) <= count / 6
        assert first[name] != texts(0)[name]


def test_every_draw_has_as_many_prompts_of_every_task_and_none_that_is_in_a_corpus() -> None:
    trained = {pair.instruction.text for pair in corpus(SKILLS, size=600, skew=0.0, seed=5)}
    for sample in range(4):
        assert trained.isdisjoint(text for found in texts(sample).values() for text in found)
    for sample in (0, 3):
        (found, _) = benchmarks(SKILLS, **SIZES, sample=sample)
        tasks = [prompt.task for prompt in found.prompts()]
        assert {task: tasks.count(task) for task in SKILLS} == dict.fromkeys(SKILLS, 8)


def test_a_recipe_says_which_draw() -> None:
    plain, other = (preflight(load("gym", [f"evaluation.sample={sample}"])).benchmarks[0] for sample in (0, 1))
    assert isinstance(other, GymBenchmark)
    assert (other.sample, other.per_task) == (1, 30)
    assert plain.prompts() != other.prompts()
