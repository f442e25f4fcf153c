"""The teacher filled by a language model: answers, writes new instructions, rewrites answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Self

from tapir.config.annotators import LlmTeacherConfig
from tapir.domain.completion import Completion, Failure, text_or_failure
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.roles import ExpandRequest, RefineRequest, Reply
from tapir.models.api.protocol import Message, Request, Sampling, Schema
from tapir.models.api.session import Caller
from tapir.models.context import BuildContext
from tapir.models.prompts import PromptSet, quoted, quoted_conversation, restored, seeds
from tapir.models.replies import read_instructions, reply_style

_SAMPLES = 2**31
_SCHEMA = Schema.of("instructions", instructions={"type": "array", "items": {"type": "string"}})


class LlmTeacher:
    """Every text comes from the model; what it writes is checked by the stages."""

    def __init__(self, caller: Caller, prompts: PromptSet, section: LlmTeacherConfig, name: str) -> None:
        self.name = name
        self._caller = caller
        self._prompts = prompts
        self._section = section
        self._sampling = Sampling(section.temperature, section.max_tokens)

    @classmethod
    def build(cls, section: LlmTeacherConfig, context: BuildContext) -> Self:
        """Make the teacher of a run."""
        return cls(context.session, context.prompts, section, context.models(section.endpoints))

    def answer(self, instructions: Iterable[Instruction]) -> Iterator[Reply]:
        """Yield one answer to each instruction, the instruction itself as the user's message."""
        requests = ((each.id, Request(self._question(each), self._sampling)) for each in instructions)
        return self._caller.stream(self._section.endpoints, requests)

    def _question(self, instruction: Instruction) -> list[Message]:
        """Return the chat to answer; a system prompt of the instruction's own follows ours in one message."""
        *ours, last = self._prompts["answer"].messages(instruction=instruction.text)
        before = [turn._asdict() for turn in instruction.context]
        if ours and before and before[0]["role"] == "system":
            before[0]["content"] = "\n\n".join(each["content"] for each in (*ours, before[0]))
            ours = []
        return [*ours, *before, last]

    def expand(self, requests: Sequence[ExpandRequest]) -> Iterator[tuple[str, Instruction | Failure]]:
        """Yield new instructions for every request, from hard seeds of its task shown as examples."""
        parents: dict[tuple[str, int], tuple[str, ...]] = {}

        def calls() -> Iterator[tuple[tuple[str, int], Request]]:
            for request in requests:
                for turn, asked in enumerate(range(0, request.wanted, self._section.new_per_call)):
                    wanted = min(self._section.new_per_call, request.wanted - asked)
                    start, count = turn * self._section.seeds_per_call, len(request.seeds)  # round and round
                    places = range(start, start + min(self._section.seeds_per_call, count))
                    pairs = [request.seeds[place % count] for place in places]
                    parents[request.task, turn] = tuple(pair.instruction.id for pair in pairs)
                    examples = [pair.instruction for pair in pairs]
                    yield (request.task, turn), self._expansion(request, turn, examples, wanted)

        for (task, turn), reply in self._caller.stream(self._section.endpoints, calls()):
            text = text_or_failure(reply)
            if isinstance(text, Failure):
                yield task, text
                continue
            instructions = read_instructions(text)
            if not instructions:
                yield task, Failure("unreadable", "the reply holds no new instruction in the form asked for")
            origin = Origin("expansion", parents=parents[task, turn], source=self.name)
            yield from ((task, Instruction.of(instruction, origin)) for instruction in instructions)

    def refine(self, requests: Iterable[RefineRequest]) -> Iterator[Reply]:
        """Yield Y' for each pair, in the style of its task."""
        calls = ((request.pair.instruction.id, self._refinement(request)) for request in requests)
        for name, reply in self._caller.stream(self._section.endpoints, calls):
            yield name, replace(reply, text=restored(reply.text)) if isinstance(reply, Completion) else reply

    def _refinement(self, request: RefineRequest) -> Request:
        instruction, answer = quoted_conversation(request.pair.instruction), quoted(request.pair.response.text)
        prompt = self._prompts.style(request.task)
        messages = prompt.messages(instruction=instruction, answer=answer, task=request.task)
        return Request(messages, self._sampling, task=request.task)

    def _expansion(self, request: ExpandRequest, turn: int, examples: Sequence[Instruction], wanted: int) -> Request:
        style = reply_style(self._caller, self._section.endpoints)
        reply = self._prompts[f"reply-expand-{style}"].fill()
        messages = self._prompts["expand"].messages(
            task=request.task, seeds=seeds(examples), wanted=str(wanted), reply=reply
        )
        sampling = Sampling(self._section.expand_temperature, self._section.max_tokens)
        sample = (request.seed + turn) % _SAMPLES  # another attempt with the same examples is another call
        schema = _SCHEMA if style == "json" else None
        return Request(messages, sampling, schema, sample=sample, task=request.task)
