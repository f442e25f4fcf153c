"""Ask, read, and ask once more where a reply could not be read: what every judge of an evaluation does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from tapir.domain.completion import Completion, Failure
from tapir.domain.judgement import Unscored
from tapir.llm.book import PromptFile
from tapir.llm.switchboard import Caller
from tapir.llm.wire import Message, Request

KeyT = TypeVar("KeyT")
ReadT = TypeVar("ReadT")


@dataclass(frozen=True, slots=True)
class Asking:
    """Where a judge's calls go, and how an unreadable reply is answered.

    Attributes:
        repair: the prompt "judge-repair".
        reply: the text that says which form is wanted.
        wave: items whose unreadable replies are asked for again together.
    """

    caller: Caller
    endpoints: tuple[str, ...]
    repair: PromptFile
    reply: str
    wave: int

    def each(
        self, requests: Iterable[tuple[KeyT, Request]], read: Callable[[Completion], ReadT | Unscored]
    ) -> Iterator[tuple[KeyT, ReadT | Unscored]]:
        """Key and what its reply says, in the order replies come; a reply still unreadable when repeated is unscored.

        A call that failed is unscored too, and a reply that was cut off is never read.
        """
        source = iter(requests)
        while wave := list(islice(source, self.wave)):
            asked = dict(wave)
            again: list[tuple[KeyT, Request]] = []
            for key, reply in self.caller.stream(self.endpoints, wave):
                found = _read(reply, read)
                if isinstance(found, Unscored) and isinstance(reply, Completion):
                    again.append((key, self._repaired(asked[key], reply.text, found.reason)))
                else:
                    yield key, found
            for key, reply in self.caller.stream(self.endpoints, again):
                yield key, _read(reply, read)

    def _repaired(self, request: Request, said: str, reason: str) -> Request:
        """The same prompt, the reply that could not be read, and a request to write it again."""
        said = said if said.strip() else "(nothing)"  # some servers refuse a message without text
        more = (
            Message(role="assistant", content=said),
            Message(role="user", content=self.repair.fill(reason=reason, reply=self.reply)),
        )
        return replace(request, messages=[*request.messages, *more])


def _read(reply: Completion | Failure, read: Callable[[Completion], ReadT | Unscored]) -> ReadT | Unscored:
    if isinstance(reply, Failure):
        return Unscored(f"call failed: {reply.kind}", reply.message)
    if reply.finish_reason == "length":
        return Unscored("reply was cut off", reply.text)
    return read(reply)
