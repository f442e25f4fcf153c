"""Sections of the recipe for the corpus."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from tapir.config.base import CustomConfig, Section, Text, Whole, kind_or
from tapir.domain.roles import Corpus

Format: TypeAlias = Literal["auto", "alpaca", "sharegpt", "messages", "prompt-completion", "preference"]
Turns: TypeAlias = Literal["last", "first", "all"]


class GymCorpusConfig(Section):
    """Instructions of the gym, imbalanced the way public corpora are."""

    kind: Literal["gym"] = "gym"
    size: Annotated[int, Field(ge=50, strict=True)] = 2000
    """Instructions in the corpus."""
    skew: Annotated[float, Field(ge=0, le=3)] = 1.0
    """Exponent of the power law over skills; 0 gives every skill the same share."""
    skills: tuple[str, ...] = ()
    """Skills to use; empty means all that may be trained on."""


class ColumnsConfig(Section):
    """Names of the columns; empty where there is no such column."""

    instruction: Text = "instruction"
    """Column with the instruction (layout alpaca)."""
    input: str = "input"
    """Column with the input of the instruction (layout alpaca)."""
    response: str = "output"
    """Column with the answer (layout alpaca)."""
    conversation: str = ""
    """Column with the turns (layouts sharegpt and messages); empty means its usual name."""
    system: str = "system"
    """Column with the system prompt; system_prompt is found too."""
    history: str = "history"
    """Column with earlier exchanges, a list of pairs (layout alpaca)."""
    thought: str = "thought"
    """Column with what was thought before the answer, of a conversation before its last one."""
    category: str = ""
    """Column with the task, where the rows have one."""


class Readable(Section):
    """Rows in one of the usual layouts."""

    layout: Format = "auto"
    """How a row is laid out; auto finds it from the rows. Of a preference pair the chosen answer is used."""
    turns: Turns = "last"
    """Which answers of a conversation are trained on, each with what stands before it."""
    columns: ColumnsConfig = ColumnsConfig()
    """Names of the columns; a path such as instances.0.output reaches into one."""

    @model_validator(mode="after")
    def _columns_of_its_layout(self) -> Readable:
        unread = {
            "auto": (),
            "alpaca": ("conversation",),
            **dict.fromkeys(("sharegpt", "messages"), ("instruction", "input", "response", "history")),
        }.get(self.layout, ("input", "conversation", "history"))
        for name in unread:
            if getattr(self.columns, name) != ColumnsConfig.model_fields[name].default:
                raise ValueError(f"columns.{name} has no effect with layout = {self.layout!r}: remove it")
        return self


class Selection(Section):
    """What is used of a corpus."""

    limit: Whole = 0
    """Largest number of rows, chosen at random from the seed; 0 uses all."""
    answers: Literal["corpus", "missing", "teacher"] = "corpus"
    """corpus: use the rows' own and drop rows without; missing: the teacher answers those; teacher: answers all."""
    screen: Literal["report", "drop", "keep"] = "report"
    """Answers that only refuse, and texts with e-mail addresses, keys or card numbers: count, drop, or do not look."""
    near_duplicates: Literal["keep", "drop", "ignore"] = "keep"
    """Near-duplicates within the corpus: keep and count them, drop them, or do not look."""


class FileCorpusConfig(Selection, Readable):
    """Instructions in a file."""

    operational: ClassVar[frozenset[str]] = frozenset({"path"})

    kind: Literal["file"] = "file"
    path: Text
    """The file: JSON, JSON Lines, CSV or TSV, plain or as .gz, or Parquet."""


class HubCorpusConfig(Selection, Readable):
    """A data set of the Hugging Face hub."""

    kind: Literal["hub"] = "hub"
    dataset: Text
    """Its id on the hub, as in "owner/name"."""
    split: Text = "train"
    """Split of the data set."""
    revision: str = ""
    """Commit, tag or branch; empty means the newest."""


class CustomCorpusConfig(CustomConfig, Selection):
    """A corpus class of your own."""

    place: ClassVar[str] = "corpus"
    role: ClassVar[type] = Corpus


AnyCorpus: TypeAlias = Annotated[
    GymCorpusConfig | FileCorpusConfig | HubCorpusConfig | CustomCorpusConfig,
    Field(discriminator="kind"),
    kind_or("gym"),
]
