"""Judge, tagger and teacher over real calls to a model that puts its replies into fences: all of them are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.judging import comparison, judge_section, scored, verdicts
from support.scripted import BOOK, ENDPOINTS, connected
from support.server import Behaviour, serving
from tapir.config.annotators import LlmTaggerConfig, LlmTeacherConfig
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.domain.roles import ExpandRequest
from tapir.domain.task import TaskDistribution, TaskTag, Taxonomy
from tapir.models.judge import LlmJudge
from tapir.models.taggers.llm import LlmTagger
from tapir.models.teacher import LlmTeacher

LABELS = (
    "Code Debug",
    "Code Generation",
    "Multilingual",
    "Literature",
    "History",
    "Law",
    "Math",
    "Reasoning",
    "Writing",
)
TAXONOMY = Taxonomy("small", "1", TaskDistribution.of(dict.fromkeys(LABELS, 1.0)))
BAR = "```"
DRESSES = (
    f"{BAR}json\n{{}}\n{BAR}",
    f"{BAR}xml\n{{}}\n{BAR}",
    f"...{BAR}\n{{}}\n{BAR}",
    f"...{BAR}xml\n{{}}\n{BAR}\n",
    "...`{}`",
)


def results(folder: Path, dress: str, *, json: bool) -> tuple[object, ...]:
    """Verdicts with their rationales, tags, new instructions, and how many calls that took."""
    asked = [comparison(f"Explain {number}.", f"It is {number}, I think.") for number in range(6)]
    seed = Pair(Instruction.of("Solve 3 x = 7.", Origin("corpus")), Response("7/3", "corpus"))
    with (
        serving(Behaviour(latency=0.0, dress=dress), thread=True) as server,
        connected(server, folder, json=json) as calls,
    ):
        judged = verdicts(LlmJudge(calls, BOOK, judge_section(), "m"), asked)
        tagger = LlmTagger(calls, BOOK, LlmTaggerConfig(kind="llm", endpoints=ENDPOINTS), TAXONOMY)
        tagged = dict(tagger.tag([one.instruction for one in asked]))
        teacher = LlmTeacher(calls, BOOK, LlmTeacherConfig(kind="llm", endpoints=ENDPOINTS), "m")
        new = list(teacher.expand([ExpandRequest("Math", [seed], 5, 1)]))
        return judged, tagged, new, server.stats().requests


@pytest.mark.parametrize("json", [False, True], ids=["tagged", "json"])
def test_a_model_that_puts_its_replies_into_fences_is_read_like_one_that_does_not(
    tmp_path: Path, *, json: bool
) -> None:
    plain = results(tmp_path / "plain", "", json=json)
    judged, tagged, new, _ = plain
    assert isinstance(judged, dict)
    assert isinstance(tagged, dict)
    assert isinstance(new, list)
    assert all(len(scored(one)) == 2 for one in judged.values())
    assert all(isinstance(one, TaskTag) for one in tagged.values())
    assert sum(isinstance(one, Instruction) for _, one in new) >= 4
    for place, dress in enumerate(DRESSES):
        assert results(tmp_path / str(place), dress, json=json) == plain, dress
