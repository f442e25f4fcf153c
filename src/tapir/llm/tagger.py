"""The tagger filled by a language model: one label of a closed list, or a failure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tapir.domain.completion import Completion, Failure, usable
from tapir.domain.instruction import Instruction, normalised
from tapir.domain.task import TaskTag, Taxonomy
from tapir.llm.book import Book, quoted
from tapir.llm.quotation import own_words
from tapir.llm.switchboard import Caller
from tapir.llm.wire import Request, Sampling, Schema
from tapir.roles import TaggerReport

_LABEL = re.compile(r"<label>([^<>\n]*)</label>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TaggerSettings:
    """How a tagger is asked."""

    endpoints: tuple[str, ...]
    max_tokens: int = 32


class LlmTagger:
    """Asks for every instruction; a reply that is no label of the taxonomy is a failure, never another label."""

    def __init__(self, caller: Caller, book: Book, settings: TaggerSettings, taxonomy: Taxonomy) -> None:
        """Take the way to call, the prompts, the settings and the labels."""
        self._caller = caller
        self._settings = settings
        self._taxonomy = taxonomy
        self._json = caller.json_schema(settings.endpoints)
        self._prompt = book["tag"]
        self._reply = book[f"reply-tag-{'json' if self._json else 'tagged'}"].fill()
        self._known = {normalised(label): label for label in taxonomy.labels}
        self._labels = "\n".join(f"- {label}" for label in taxonomy.labels)

    @property
    def taxonomy(self) -> Taxonomy:
        """The labels it chooses from."""
        return self._taxonomy

    def sample(self, instructions: Sequence[Instruction], seed: int) -> list[Instruction]:
        """There is nothing to learn."""
        del instructions, seed
        return []

    def label(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
        """The same as `tag`: a label to learn from is a label."""
        return self.tag(instructions)

    def fit(self, labelled: Sequence[tuple[Instruction, str]]) -> TaggerReport | None:
        """There is nothing to learn."""
        del labelled
        return None

    def tag(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
        """Instruction id and label for each instruction."""
        requests = ((one.id, self._request(one)) for one in instructions)
        for name, reply in self._caller.stream(self._settings.endpoints, requests):
            yield name, self._read(reply)

    def _request(self, one: Instruction) -> Request:
        messages = self._prompt.messages(labels=self._labels, instruction=quoted(one.text), reply=self._reply)
        return Request(messages, Sampling(0.0, self._settings.max_tokens), self._schema())

    def _schema(self) -> Schema:
        label = {"type": "string", "enum": list(self._taxonomy.labels)}
        return Schema(
            "label",
            {
                "type": "object",
                "properties": {"label": label},
                "required": ["label"],
                "additionalProperties": False,
            },
        )

    def _read(self, reply: Completion | Failure) -> TaskTag | Failure:
        text, why = usable(reply)
        if text is None:
            kind, _, message = (why or "").partition(": ")
            return reply if isinstance(reply, Failure) else Failure(kind, message)
        said = self._said(text)
        if len(said) != 1:
            return Failure("no label" if not said else "two labels", f"the reply was {text[:200]!r}")
        label = self._known.get(said.pop())
        return TaskTag(label) if label else Failure("not a label", f"the reply was {text[:200]!r}")

    def _said(self, text: str) -> set[str]:
        """The labels a reply names in the form asked for, but for case and white space."""
        if not self._json:
            return {normalised(label) for label in _LABEL.findall(own_words(text))}
        try:
            label = json.loads(text)["label"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return set()
        return {normalised(label)} if isinstance(label, str) else set()
