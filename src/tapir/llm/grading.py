"""One answer on a scale from 1 to 10, with what to look for in it: a judge that sees no second answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from tapir.domain.completion import Completion
from tapir.domain.judgement import Unscored
from tapir.llm.asking import Asking
from tapir.llm.book import Book, quoted
from tapir.llm.expectation import expected
from tapir.llm.judge import JudgeSettings, followed, schema
from tapir.llm.switchboard import Caller
from tapir.llm.verdict import ReplyStyle, Scores, read_scores
from tapir.llm.wire import Request, Sampling, encodable

_NAMES = ("score",)


@dataclass(frozen=True, slots=True)
class Graded:
    """What is graded: an answer to a text, by a rubric; `id` comes back with the scores."""

    id: str
    instruction: str
    answer: str
    rubric: str
    task: str = ""


class LlmGrader:
    """Grades answers with the prompt "judge-single"; the mean counts where several samples are drawn."""

    def __init__(self, caller: Caller, book: Book, settings: JudgeSettings, name: str) -> None:
        """Take the way to call, the prompts and the settings; `name` is recorded with every grade."""
        self.name = name
        self._settings = settings
        self._style: ReplyStyle = "json" if caller.json_schema(settings.endpoints) else "tagged"
        self._prompt = book["judge-single"]
        self._reply = book[f"reply-single-{self._style}"].fill()
        self._asking = Asking(caller, settings.endpoints, book["judge-repair"], self._reply, settings.wave)

    def grade(self, items: Iterable[Graded]) -> Iterator[tuple[str, Scores | Unscored]]:
        """Id and scores (a mean over the samples that could be read), or why there are none, as they are finished."""
        owed: dict[str, dict[int, Scores | Unscored]] = {}

        def requests() -> Iterator[tuple[tuple[str, int], Request]]:
            for one in items:
                owed[one.id] = {}
                for sample in range(self._settings.samples):
                    yield (one.id, sample), self._request(one, sample)

        for (name, sample), found in self._asking.each(requests(), self._read):
            owed[name][sample] = found
            if len(owed[name]) == self._settings.samples:
                yield name, _mean(owed.pop(name))

    def _request(self, one: Graded, sample: int) -> Request:
        settings = self._settings
        messages = self._prompt.messages(
            instruction=quoted(one.instruction),
            answer=quoted(one.answer),
            rubric=quoted(one.rubric),
            reply=self._reply,
        )
        sampling = Sampling(settings.temperature, settings.max_tokens, settings.expected_score)
        return Request(messages, sampling, schema(_NAMES), sample=sample, task=one.task)

    def _read(self, reply: Completion) -> Scores | Unscored:
        found = read_scores(reply.text, _NAMES, self._style)
        if isinstance(found, Unscored):
            return found
        if self._style == "tagged" and followed(reply.text, found, _NAMES):
            return Unscored("other scores follow", reply.text)
        found = replace(found, rationale=encodable(found.rationale))
        return expected(found, reply.text, reply.tokens) if self._settings.expected_score else found


def _mean(found: dict[int, Scores | Unscored]) -> Scores | Unscored:
    read = [found[sample] for sample in sorted(found)]
    scores = [one for one in read if isinstance(one, Scores)]
    if not scores:
        return read[0]
    return replace(scores[0], values=(sum(one.values[0] for one in scores) / len(scores),))
