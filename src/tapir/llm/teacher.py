"""The teacher filled by a language model: answers, writes new instructions, rewrites answers."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tapir.domain.completion import Completion, Failure, usable
from tapir.domain.instruction import Instruction, Origin, Pair
from tapir.llm.book import Book, quoted, restored, seeds
from tapir.llm.switchboard import Caller
from tapir.llm.wire import Request, Sampling, Schema, encodable
from tapir.roles import ExpandRequest, RefineRequest, Reply

_WRITTEN = re.compile(r"<new_instruction>(.*?)</new_instruction>", re.DOTALL | re.IGNORECASE)
_SAMPLES = 2**31
_SCHEMA = Schema(
    "instructions",
    {
        "type": "object",
        "properties": {"instructions": {"type": "array", "items": {"type": "string"}}},
        "required": ["instructions"],
        "additionalProperties": False,
    },
)


@dataclass(frozen=True, slots=True)
class TeacherSettings:
    """How a teacher is asked.

    Attributes:
        expand_temperature: for new instructions; `temperature` is for answers and rewrites.
        seeds_per_call: hard seeds shown when new instructions are asked for.
        new_per_call: new instructions asked for in one call.
    """

    endpoints: tuple[str, ...]
    temperature: float = 0.7
    max_tokens: int = 1024
    expand_temperature: float = 1.0
    seeds_per_call: int = 3
    new_per_call: int = 5


class LlmTeacher:
    """Every text comes from the model; what it writes is checked by the stages."""

    def __init__(self, caller: Caller, book: Book, settings: TeacherSettings, name: str) -> None:
        """Take the way to call, the prompts and the settings; `name` is recorded as the author."""
        self.name = name
        self._caller = caller
        self._book = book
        self._settings = settings
        self._json = caller.json_schema(settings.endpoints)
        self._reply = book[f"reply-expand-{'json' if self._json else 'tagged'}"].fill()
        self._sampling = Sampling(settings.temperature, settings.max_tokens)

    def answer(self, instructions: Iterable[Instruction]) -> Iterator[Reply]:
        """One answer to each instruction, the instruction itself as the user's message."""
        prompt = self._book["answer"]
        requests = ((one.id, Request(prompt.messages(instruction=one.text), self._sampling)) for one in instructions)
        return self._caller.stream(self._settings.endpoints, requests)

    def expand(self, requests: Sequence[ExpandRequest]) -> Iterator[tuple[str, Instruction | Failure]]:
        """New instructions for every request, from hard seeds of its task shown as examples."""
        shown: dict[tuple[str, int], tuple[str, ...]] = {}

        def calls() -> Iterator[tuple[tuple[str, int], Request]]:
            for request in requests:
                for turn, wanted in enumerate(self._shares(request.wanted)):
                    pairs = _taken(request.seeds, turn, self._settings.seeds_per_call)
                    shown[request.task, turn] = tuple(pair.instruction.id for pair in pairs)
                    texts = [pair.instruction.text for pair in pairs]
                    yield (request.task, turn), self._expansion(request, turn, texts, wanted)

        for (task, turn), reply in self._caller.stream(self._settings.endpoints, calls()):
            text, why = usable(reply)
            if text is None:
                kind, _, message = (why or "").partition(": ")
                yield task, Failure(kind, message)
                continue
            found = self._read(text)
            if not found:
                yield task, Failure("unreadable", "the reply holds no new instruction in the form asked for")
            for one in found:
                origin = Origin("expansion", parents=shown[task, turn], source=self.name)
                yield task, Instruction.of(one, origin)

    def refine(self, requests: Iterable[RefineRequest]) -> Iterator[Reply]:
        """Y' for each pair, in the manner the style book has for its task."""
        asked = ((one.pair.instruction.id, self._refinement(one)) for one in requests)
        for name, reply in self._caller.stream(self._settings.endpoints, asked):
            yield name, replace(reply, text=restored(reply.text)) if isinstance(reply, Completion) else reply

    def _refinement(self, one: RefineRequest) -> Request:
        messages = self._book.manner(one.task).messages(
            instruction=quoted(one.pair.instruction.text), answer=quoted(one.pair.response.text), task=one.task
        )
        return Request(messages, self._sampling, task=one.task)

    def _expansion(self, request: ExpandRequest, turn: int, texts: Sequence[str], wanted: int) -> Request:
        messages = self._book["expand"].messages(
            task=request.task, seeds=seeds(texts), wanted=str(wanted), reply=self._reply
        )
        sampling = Sampling(self._settings.expand_temperature, self._settings.max_tokens)
        sample = (request.seed + turn) % _SAMPLES  # another attempt with the same examples is another call
        return Request(messages, sampling, _SCHEMA, sample=sample, task=request.task)

    def _shares(self, wanted: int) -> list[int]:
        """How many to ask for in each call."""
        full, rest = divmod(wanted, self._settings.new_per_call)
        return [self._settings.new_per_call] * full + [rest] * bool(rest)

    def _read(self, text: str) -> list[str]:
        """The instructions of a reply, each once."""
        if not self._json:
            found = [one.strip() for one in _WRITTEN.findall(text)]
        else:
            try:
                listed = json.loads(text)["instructions"]
            except (ValueError, LookupError, TypeError, RecursionError):
                return []
            found = [one.strip() for one in listed if isinstance(one, str)] if isinstance(listed, list) else []
        return list(Counter(encodable(restored(one)) for one in found))


def _taken(items: Sequence[Pair], turn: int, count: int) -> list[Pair]:
    """So many items from where the last turn ended, round and round, none twice."""
    start = turn * count
    return [items[(start + place) % len(items)] for place in range(min(count, len(items)))]
