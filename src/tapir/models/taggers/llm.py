"""The tagger filled by a language model: one label of a closed list, or a failure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Self

from tapir.config.annotators import AnyTrainedTagger, LabelRequests
from tapir.domain.completion import Completion, Failure, text_or_failure
from tapir.domain.errors import RecipeError
from tapir.domain.instruction import Instruction
from tapir.domain.roles import Labeller
from tapir.domain.task import TaskTag, Taxonomy
from tapir.models.api.protocol import Request, Sampling, Schema
from tapir.models.api.session import Caller
from tapir.models.context import BuildContext
from tapir.models.none import UntrainedTagger
from tapir.models.prompts import PromptSet, quoted_conversation
from tapir.models.replies import read_labels, reply_style


class LlmTagger(UntrainedTagger):
    """Asks for every instruction; a reply that is no label of the taxonomy is a failure, never another label."""

    def __init__(self, caller: Caller, prompts: PromptSet, section: LabelRequests, taxonomy: Taxonomy) -> None:
        self.taxonomy = taxonomy
        self._caller = caller
        self._section = section
        self._prompts = prompts
        self._labels = "\n".join(f"- {label}" for label in taxonomy.labels)

    @classmethod
    def build(cls, section: LabelRequests, context: BuildContext) -> Self:
        """Make the tagger of a run, or the labeller of one that is trained."""
        return cls(context.session, context.prompts, section, context.taxonomy)

    def tag(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
        """Yield instruction id and label for each instruction."""
        requests = ((instruction.id, self._request(instruction)) for instruction in instructions)
        for name, reply in self._caller.stream(self._section.endpoints, requests):
            yield name, self._read(reply)

    def _request(self, instruction: Instruction) -> Request:
        style, subject = reply_style(self._caller, self._section.endpoints), quoted_conversation(instruction)
        reply = self._prompts[f"reply-tag-{style}"].fill()
        messages = self._prompts["tag"].messages(labels=self._labels, instruction=subject, reply=reply)
        schema = Schema.of("label", label={"type": "string", "enum": list(self.taxonomy.labels)})
        sampling = Sampling(self._section.temperature, self._section.max_tokens)
        return Request(messages, sampling, schema if style == "json" else None)

    def _read(self, reply: Completion | Failure) -> TaskTag | Failure:
        text = text_or_failure(reply)
        if isinstance(text, Failure):
            return text
        labels, shown = read_labels(text, self.taxonomy.labels), f"the reply was {text[:200]!r}"
        if len(labels) != 1:
            return Failure("two labels" if labels else "no label", shown)
        label = labels.pop()
        return TaskTag(label) if label in self.taxonomy.labels else Failure("not a label", shown)


def labeller(section: AnyTrainedTagger, context: BuildContext) -> Labeller:
    """Return the source of the labels that a tagger is trained on: the endpoints it names, or a teacher that labels."""
    if section.endpoints:
        return LlmTagger.build(section, context).tag
    label: Labeller | None = getattr(context.teacher, "label", None)
    if label is None and section.labelled:
        raise RecipeError(
            f"tagger.endpoints = [], and the teacher of kind {context.recipe.teacher.kind!r} has no method `label`",
            remedy="Name the endpoints that label in tagger.endpoints, give the teacher's class a method"
            " label(instructions) as taggers have it, or choose another tagger.kind.",
        )
    return label or LlmTagger.build(section, context).tag
