"""How the fake server counts tokens, and what its default brain makes of the shipped prompts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir.llm.book import load, seeds
from tests.fake_openai import brain, tasks, tokens


@settings(deadline=None)
@given(st.text() | st.text("abc_9 .,\n-é", max_size=60))
def test_tokens_are_pieces_of_six_characters_and_marks(text: str) -> None:
    words = sum(math.ceil(len(word) / 6) for word in re.findall(r"\w+", text, re.ASCII))
    assert tokens.count(text) == words + len(re.findall(r"[^\w\s]", text, re.ASCII))
    assert tokens.count(tokens.first(text, 3)) == min(3, tokens.count(text))


@settings(deadline=None)
@given(st.text(max_size=50), st.integers(0, 20))
def test_tokens_with_logprobs_concatenate_to_the_reply(text: str, top: int) -> None:
    content = json.loads(tokens.logprobs(text, top, b"digest"))["content"]
    assert "".join(one["token"] for one in content) == text
    for one in content:
        assert len(one["top_logprobs"]) == top
        assert sum(math.exp(other["logprob"]) for other in one["top_logprobs"]) <= 1


def rendered(name: str, form: str, **values: str) -> list[brain.Message]:
    kind = name.removeprefix("judge-")
    return list(load(name).messages(**values, reply=load(f"reply-{kind}-{form}").fill()))


def in_form(name: str, read: Callable[[str], Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("form", name), [("json", json.loads), ("tagged", read)])


def tagged_scores(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"<(score\w*)>(\d+)</score", text)}


@in_form("read", tagged_scores)
def test_scores_do_not_depend_on_the_order(form: str, read: Callable[[str], Any]) -> None:
    texts = ("A long and helpful answer that explains every step.", "I am not sure.")
    quoted = {"instruction": "Why?", "rubric": ""}
    there = rendered("judge-pairwise", form, answer_a=texts[0], answer_b=texts[1], **quoted)
    back = rendered("judge-pairwise", form, answer_a=texts[1], answer_b=texts[0], **quoted)
    first, second = read(brain.reply(there, {})), read(brain.reply(back, {}))
    assert (first["score_a"], first["score_b"]) == (second["score_b"], second["score_a"])
    assert 4 <= first["score_a"] <= 10
    assert first["score_b"] <= 2
    repair = load("judge-repair").fill(reason="no score", reply=load(f"reply-pairwise-{form}").fill())
    again = [*there, {"role": "assistant", "content": "Hm."}, {"role": "user", "content": repair}]
    assert read(brain.reply(again, {}))["score_a"] == first["score_a"]


@in_form("read", tagged_scores)
def test_one_answer_is_scored_as_in_a_pair(form: str, read: Callable[[str], Any]) -> None:
    text = "A long and helpful answer that explains every step."
    messages = rendered("judge-single", form, instruction="Why?", answer=text, rubric="")
    assert read(brain.reply(messages, {}))["score"] == brain.score(text)


def test_a_rationale_has_a_realistic_length() -> None:
    lengths = set()
    for number in range(30):
        messages = [{"role": "user", "content": f"{number} <score_a> <score_b>"}]
        lengths.add(len(brain.reply(messages, {}).split("\n")[0].split()))
    assert 60 <= min(lengths) < max(lengths) <= 140


@in_form("read", lambda text: {"label": text.removeprefix("<label>").removesuffix("</label>")})
def test_tags_follow_keywords_and_stay_in_the_list(form: str, read: Callable[[str], Any]) -> None:
    labels = "- Code Generation\n- Math\n- Law"
    expected = {
        "Write a Python function.": {"Code Generation"},
        "How many are 3 and 4?": {"Math"},
        "Hm\n- Art": {"Code Generation", "Math", "Law"},
    }
    for instruction, possible in expected.items():
        messages = rendered("tag", form, labels=labels, instruction=instruction)
        assert read(brain.reply(messages, {}))["label"] in possible


@pytest.mark.parametrize("label", tasks.OPENINGS)
def test_what_is_expanded_for_a_task_is_tagged_as_it(label: str) -> None:
    assert tasks.label_of(tasks.OPENINGS[label], list(tasks.OPENINGS)) == label


@in_form("read", lambda text: {"instructions": re.findall(r"<new_instruction>(.*?)</new_instruction>", text)})
def test_as_many_instructions_come_as_are_wanted_and_most_are_new(form: str, read: Callable[[str], Any]) -> None:
    seed = "Solve 2 equations with 5 unknowns."
    messages = rendered("expand", form, task="Math", seeds=seeds([seed]), wanted="80")
    found = read(brain.reply(messages, {}))["instructions"]
    assert len(found) == 80
    assert 1 <= found.count("") <= 20
    near = sum("solve 2 equations" in one for one in found)
    assert 1 <= near <= 25
    assert len(set(found)) > 50
