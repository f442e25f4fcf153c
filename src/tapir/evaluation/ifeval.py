"""IFEval (Zhou et al. 2023): instructions that a program can verify, strict and loose, by prompt and by instruction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tapir.domain.instruction import instruction_id
from tapir.domain.round import EvalResult
from tapir.errors import DataError
from tapir.evaluation.exact import CheckedBenchmark, Figures, answers_of, failures, prompt_of
from tapir.evaluation.ifeval_checks import CHECKS, RELATIONS, Arguments, followed, followed_loosely, ready
from tapir.evaluation.resampling import bootstrap
from tapir.evaluation.statistics import success_rate
from tapir.roles import Grade, Prompt
from tapir.store.rows import EvaluationRow

NAME = "ifeval"
RULES = {"strict": followed, "loose": followed_loosely}
_ARGUMENTS: Mapping[str, Mapping[str, type]] = {
    "keywords:existence": {"keywords": list},
    "keywords:frequency": {"keyword": str, "relation": str, "frequency": int},
    "keywords:forbidden_words": {"forbidden_words": list},
    "keywords:letter_frequency": {"letter": str, "let_relation": str, "let_frequency": int},
    "language:response_language": {"language": str},
    "length_constraints:number_sentences": {"relation": str, "num_sentences": int},
    "length_constraints:number_paragraphs": {"num_paragraphs": int},
    "length_constraints:number_words": {"relation": str, "num_words": int},
    "length_constraints:nth_paragraph_first_word": {"num_paragraphs": int, "nth_paragraph": int, "first_word": str},
    "detectable_content:number_placeholders": {"num_placeholders": int},
    "detectable_content:postscript": {"postscript_marker": str},
    "detectable_format:number_bullet_lists": {"num_bullets": int},
    "detectable_format:number_highlighted_sections": {"num_highlights": int},
    "detectable_format:multiple_sections": {"section_spliter": str, "num_sections": int},
    "combination:repeat_prompt": {"prompt_to_repeat": str},
    "startend:end_checker": {"end_phrase": str},
    "change_case:capital_word_frequency": {"capital_relation": str, "capital_frequency": int},
}


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt with its verifiable instructions: (kind, arguments) each."""

    prompt: str
    instructions: tuple[tuple[str, Arguments], ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One instruction of one prompt: was it followed?"""

    prompt: str
    kind: str
    arguments: Arguments
    strict: bool
    loose: bool


def read(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Item]:
    """The prompts of an `input_data.jsonl` of IFEval.

    Args:
        rows: place and fields of each row: `prompt`, `instruction_id_list`, `kwargs`.

    Raises:
        DataError: a row is none of IFEval, asks for something unknown, or repeats a prompt; there is no row.
    """
    found: dict[str, Item] = {}
    for place, row in rows:
        item = _item(place, row)
        if item.prompt in found:
            raise DataError(f"{place} repeats the prompt {item.prompt[:80]!r}", remedy="Keep one of them.")
        found[item.prompt] = item
    if not found:
        raise DataError("the file holds no prompts", remedy="Bring the input_data.jsonl of IFEval.")
    return list(found.values())


def _item(place: str, row: Mapping[str, Any]) -> Item:
    prompt, kinds, arguments = (row.get(key) for key in ("prompt", "instruction_id_list", "kwargs"))
    if not isinstance(prompt, str) or not isinstance(kinds, list) or not isinstance(arguments, list):
        raise DataError(
            f"{place} is no row of IFEval: it has {sorted(row)}",
            remedy="Every row needs prompt, instruction_id_list and kwargs.",
        )
    if not prompt.strip() or not kinds or len(kinds) != len(arguments):
        raise DataError(
            f"{place} has {len(kinds)} instructions and {len(arguments)} sets of arguments for {prompt[:60]!r}",
            remedy="Every instruction needs its own kwargs.",
        )
    return Item(prompt, tuple((kind, _arguments(place, kind, one)) for kind, one in zip(kinds, arguments, strict=True)))


def _arguments(place: str, kind: str, given: object) -> Arguments:
    """What the check needs; the nulls of data sets with one column for each argument are dropped."""
    if kind not in CHECKS:
        raise DataError(f"{place}: instruction {kind!r} is not known", remedy=f"Known are {', '.join(CHECKS)}.")
    wanted = _ARGUMENTS.get(kind, {})
    found = {} if not isinstance(given, dict) else {key: value for key, value in given.items() if value is not None}
    for key, form in wanted.items():
        value = found.get(key)
        if isinstance(value, float) and value.is_integer():
            found[key] = value = int(value)
        good = isinstance(value, form) and not isinstance(value, bool) and value not in ("", [])
        if not good or (key.endswith("relation") and value not in RELATIONS):
            raise DataError(
                f"{place}: {kind} has {key} = {value!r}",
                remedy=f"It must be one of {RELATIONS}."
                if key.endswith("relation")
                else f"It must be a {form.__name__}.",
            )
    return {key: found[key] for key in wanted}


def texts(items: Iterable[Item]) -> list[str]:
    """What must never be trained on."""
    return [one.prompt for one in items]


class IfevalBenchmark(CheckedBenchmark):
    """A success is a prompt all of whose instructions are followed (strict); the score is the share followed."""

    def __init__(self, items: Callable[[], Sequence[Item]]) -> None:
        """Take the prompts when they are first asked for; libraries that their checks need must be there by then."""
        self._items: dict[str, Item] = {}

        def prompts() -> list[Prompt]:
            self._items = {instruction_id(one.prompt): one for one in items()}
            ready({kind for one in self._items.values() for kind, _ in one.instructions})
            return [prompt_of(one.prompt, NAME, _wanted(one)) for one in self._items.values()]

        super().__init__(NAME, prompts, self._followed)

    def _followed(self, prompt: Prompt, answer: str) -> Grade:
        self.prompts()
        verdicts = [followed(kind, answer, asked) for kind, asked in self._items[prompt.instruction.id].instructions]
        return Grade(sum(verdicts) / len(verdicts), all(verdicts))


def _wanted(item: Item) -> str:
    return ", ".join(kind for kind, _ in item.instructions)


def verdicts(items: Sequence[Item], answers: Mapping[str, str]) -> Iterator[Verdict]:
    """Every instruction of every prompt; without an answer none is followed.

    Args:
        items: the prompts.
        answers: by instruction id.
    """
    for item in items:
        name = instruction_id(item.prompt)
        answer = answers.get(name, "")
        for kind, asked in item.instructions:
            yield Verdict(name, kind, asked, *(rule(kind, answer, asked) for rule in RULES.values()))


def figures(found: Sequence[Verdict], rows: Sequence[EvaluationRow]) -> Figures:
    """The four figures of IFEval, and both rules by kind of instruction.

    By prompt with Wilson's interval; by instruction with a bootstrap interval that draws whole prompts, whose
    instructions share one answer.
    """
    results: dict[str, EvalResult] = {}
    by_kind: dict[str, list[Verdict]] = defaultdict(list)
    for one in found:
        by_kind[one.kind].append(one)
    for rule in RULES:
        of_prompt: dict[str, list[bool]] = defaultdict(list)
        for one in found:
            of_prompt[one.prompt].append(getattr(one, rule))
        results[f"prompt {rule}"] = success_rate(sum(map(all, of_prompt.values())), len(of_prompt))
        followed_by = [sum(each) for each in of_prompt.values()]
        asked = [len(each) for each in of_prompt.values()]
        share = bootstrap(lambda good, n: float(np.sum(good) / np.sum(n)), followed_by, asked)
        results[f"instruction {rule}"] = replace(share, n=sum(asked))
    groups = {
        kind: {rule: success_rate(sum(getattr(one, rule) for one in of), len(of)) for rule in RULES}
        for kind, of in sorted(by_kind.items())
    }
    return Figures(NAME, len({one.prompt for one in found}), results, groups, failures(rows))


def graded(items: Sequence[Item], rows: Sequence[EvaluationRow], source: str) -> tuple[list[Verdict], Figures]:
    """Verdicts and figures of a finished evaluation.

    Raises:
        DataError: not one prompt was answered.
    """
    found = list(verdicts(items, answers_of(rows, source)))
    return found, figures(found, rows)
