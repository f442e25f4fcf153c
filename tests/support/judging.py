"""A judge whose model is a script: how the tests ask it and look at its verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import pytest

from support.scripted import BOOK, ENDPOINTS, Script, shown, user
from tapir.config.annotators import LlmJudgeConfig
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.judgement import Unscored, Verdict
from tapir.domain.roles import Comparison
from tapir.models.api.protocol import Request
from tapir.models.judge import WAVE, LlmJudge

Style: TypeAlias = Literal["tagged", "json"]
STYLES: tuple[Style, ...] = ("tagged", "json")
in_both_styles = pytest.mark.parametrize("style", STYLES)


def comparison(text: str, student: str = "so it is", reference: str = "as it was", task: str = "Math") -> Comparison:
    return Comparison(Instruction.of(text, Origin("corpus")), reference, student, task)


def judge_section(**settings: object) -> LlmJudgeConfig:
    return LlmJudgeConfig.model_validate({"kind": "llm", "endpoints": ENDPOINTS, **settings})


def judge(script: Script, *, single: bool = False, wave: int = WAVE, **settings: object) -> LlmJudge:
    section = judge_section(mode="single" if single else "pairwise", **settings)
    return LlmJudge(script, BOOK, section, "large", wave=wave)


def verdicts(found: LlmJudge, comparisons: Sequence[Comparison]) -> dict[str, Verdict]:
    replies = list(found.judge(iter(comparisons)))
    assert sorted(name for name, _ in replies) == sorted(one.instruction.id for one in comparisons)
    return dict(replies)


def verdict(found: LlmJudge, one: Comparison) -> Verdict:
    return verdicts(found, [one])[one.instruction.id]


def scored(found: Verdict) -> list[tuple[float, float, str]]:
    assert not isinstance(found, Unscored), found
    return [(one.student, one.reference, one.order) for one in found]


def unscored(found: Verdict) -> str:
    assert isinstance(found, Unscored), found
    return found.reason


def written(style: Style, why: str = "Fair.", **scores: float) -> str:
    if style == "json":
        return json.dumps({"rationale": why, **scores})
    return "\n".join([why, "", *(f"<{name}>{value:g}</{name}>" for name, value in scores.items())])


def by_text(style: Style, opinion: Callable[[str], float], why: str = "Fair.") -> Callable[[Request], str]:
    """A judge that scores what it is shown by its text."""

    def say(request: Request) -> str:
        if "<answer>" in user(request):
            return written(style, why, score=opinion(shown(request, "answer")))
        a, b = (opinion(shown(request, f"answer_{letter}")) for letter in "ab")
        return written(style, why, score_a=a, score_b=b)

    return say


def opinion(answer: str) -> float:
    return {"so it is": 3, "as it was": 8.5}[answer]


Q = comparison("Add 1 and 2.")
