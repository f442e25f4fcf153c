"""Sections of the recipe: what a section is, the corpus, who takes part, what is measured.

The line under a field is its help. Defaults live here and in the recipe, and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Count: TypeAlias = Annotated[int, Field(ge=1, strict=True)]
Whole: TypeAlias = Annotated[int, Field(ge=0, strict=True)]
Temperature: TypeAlias = Annotated[float, Field(ge=0, le=2)]
Text: TypeAlias = Annotated[str, Field(min_length=1)]
Endpoints: TypeAlias = Annotated[tuple[str, ...], Field(min_length=1)]


class Section(BaseModel):
    """A table of the recipe; an unknown key is an error, and so is a key without effect."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # a key pasted where its name belongs must not reach a log
    )

    def idle(self) -> Mapping[str, str]:
        """Keys that have no effect here, each with the key of this section that makes it so."""
        return {}

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Section:
        clash = {key: cause for key, cause in self.idle().items() if key in self.model_fields_set}
        if clash:
            problems = [
                f"{' and '.join(keys)} {'has' if len(keys) == 1 else 'have'} no effect with"
                f" {cause} = {json.dumps(_plain(getattr(self, cause)))}: remove {' and '.join(keys)}"
                for cause in sorted(set(clash.values()))
                if (keys := sorted(key for key in clash if clash[key] == cause))
            ]
            raise PydanticCustomError("no_effect", "{problem}", {"problem": "; ".join(problems), "idle": clash})
        return self

    @model_serializer(mode="wrap")
    def _without_idle(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if key not in self.idle()}


def _plain(value: object) -> object:
    """A table by its kind, which is what makes other keys idle."""
    return getattr(value, "kind", value)


def kind_or(kind: str) -> BeforeValidator:
    """A table that names no kind is read as this one."""

    def named(value: object) -> object:
        return {"kind": kind, **value} if isinstance(value, dict) else value

    return BeforeValidator(named)


class GymCorpus(Section):
    """Instructions of the embedded world, imbalanced the way public corpora are."""

    kind: Literal["gym"] = "gym"
    """Where the corpus comes from."""
    size: Annotated[int, Field(ge=50, strict=True)] = 2000
    """Instructions in the corpus."""
    skew: Annotated[float, Field(ge=0, le=3)] = 1.0
    """Exponent of the power law over skills; 0 gives every skill the same share."""
    skills: tuple[str, ...] = ()
    """Skills to use; empty means all that may be trained on."""


class Columns(Section):
    """What the columns of the rows are called; empty where there is no such column."""

    instruction: Text = "instruction"
    """Column with the instruction (layout alpaca)."""
    input: str = "input"
    """Column with what the instruction is about (layout alpaca)."""
    response: str = "output"
    """Column with the answer (layout alpaca)."""
    conversation: str = ""
    """Column with the turns (layouts sharegpt and messages); empty means its usual name."""
    category: str = ""
    """Column with the task, where the rows have one."""


class Readable(Section):
    """Rows that people have, in the layouts people use."""

    layout: Literal["auto", "alpaca", "sharegpt", "messages"] = "auto"
    """How a row is laid out; auto finds it from the rows."""
    columns: Columns = Columns()
    """What the columns are called; a name such as instances.0.output reaches into one."""

    @model_validator(mode="after")
    def _columns_of_its_layout(self) -> Readable:
        unread = {
            "auto": (),
            "alpaca": ("conversation",),
            "sharegpt": ("instruction", "input", "response"),
            "messages": ("instruction", "input", "response"),
        }
        for name in unread[self.layout]:
            if getattr(self.columns, name) != Columns.model_fields[name].default:
                raise ValueError(f"columns.{name} has no effect with layout = {self.layout!r}: remove it")
        return self


class Rows(Readable):
    """A corpus of rows, and what is done with them."""

    limit: Whole = 0
    """Use at most so many rows, chosen at random from the seed; 0 uses all."""
    answers: Literal["corpus", "missing", "teacher"] = "corpus"
    """corpus: the rows' own, rows without are set aside; missing: the teacher answers these; teacher: answers all."""
    near_duplicates: Literal["keep", "drop"] = "keep"
    """What happens to near-duplicates within the corpus; they are counted either way."""


class FileCorpus(Rows):
    """Instructions in a file."""

    operational: ClassVar[frozenset[str]] = frozenset({"path"})
    """Keys that do not change what is computed: the manifest holds the digest of the file, wherever it lies."""

    kind: Literal["file"] = "file"
    """Where the corpus comes from."""
    path: Text
    """The file: JSON, JSON Lines, CSV or TSV, plain or as .gz, or Parquet."""


class HubCorpus(Rows):
    """A data set of the Hugging Face hub."""

    kind: Literal["hub"] = "hub"
    """Where the corpus comes from."""
    dataset: Text
    """Its id on the hub, as in "owner/name"."""
    split: Text = "train"
    """Which split."""
    revision: str = ""
    """Commit, tag or branch; empty means the newest."""


AnyCorpus: TypeAlias = Annotated[GymCorpus | FileCorpus | HubCorpus, Field(discriminator="kind"), kind_or("gym")]


class GymTeacher(Section):
    """Exact answers, fresh instances, worked steps."""

    kind: Literal["gym"] = "gym"
    """Who teaches."""


class LlmTeacher(Section):
    """A language model behind a server."""

    kind: Literal["llm"] = "llm"
    """Who teaches."""
    endpoints: Endpoints
    """Names of the endpoints that serve it."""
    temperature: Temperature = 0.7
    """For answers and refinements; 0 is greedy."""
    max_tokens: Count = 1024
    """Longest reply, in tokens."""
    expand_temperature: Temperature = 1.0
    """For new instructions."""
    seeds_per_call: Count = 3
    """Instructions shown as examples when new ones are asked for."""
    new_per_call: Count = 5
    """New instructions asked for in one call."""


class NoTeacher(Section):
    """Nobody: the corpus's answers are trained on as they are."""

    kind: Literal["none"]
    """Who teaches."""


AnyTeacher: TypeAlias = Annotated[GymTeacher | LlmTeacher | NoTeacher, Field(discriminator="kind"), kind_or("gym")]


class GymJudge(Section):
    """The verifier of the embedded world on the 1 to 10 scale."""

    kind: Literal["gym"] = "gym"
    """Who judges."""


class LlmJudge(Section):
    """A language model behind a server."""

    kind: Literal["llm"] = "llm"
    """Who judges."""
    endpoints: Endpoints
    """Names of the endpoints that serve it."""
    mode: Literal["pairwise", "single"] = "pairwise"
    """pairwise: both answers in one prompt, in both orders (paper); single: each answer alone."""
    samples: Count = 1
    """Verdicts averaged for each prompt."""
    temperature: Temperature = 0.0
    """0 is greedy."""
    max_tokens: Count = 512
    """Longest verdict, in tokens."""
    expected_score: bool = False
    """Take the mean over the score's log-probabilities in place of the score written."""
    rubrics: dict[str, Text] = Field(default_factory=dict)
    """For a task, what a good answer to it is judged by."""
    null_answers: Whole = 20
    """Constant answers judged as a canary: a judge that likes them cannot be trusted; 0 judges none."""

    @model_validator(mode="after")
    def _samples_differ(self) -> LlmJudge:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples = {self.samples} with temperature = 0 would all be the same:"
                " raise temperature, or remove samples"
            )
        return self


class NoJudge(Section):
    """Nobody: for a difficulty and an evaluation that need no judge."""

    kind: Literal["none"]
    """Who judges."""


AnyJudge: TypeAlias = Annotated[GymJudge | LlmJudge | NoJudge, Field(discriminator="kind"), kind_or("gym")]


class TfidfTagger(Section):
    """TF-IDF and logistic regression, trained in the run from the teacher's labels on a sample."""

    kind: Literal["tfidf"] = "tfidf"
    """Who tags."""
    labelled: Annotated[int, Field(ge=20, strict=True)] = 800
    """Instructions the teacher labels."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the labels kept to measure the tagger."""
    endpoints: tuple[str, ...] = ()
    """Names of the endpoints that label; empty means the gym's teacher."""
    max_tokens: Count = 32
    """Longest label, in tokens."""

    def idle(self) -> Mapping[str, str]:
        """The gym's teacher writes no tokens."""
        return {} if self.endpoints else {"max_tokens": "endpoints"}


class LlmTagger(Section):
    """A language model behind a server, asked about every instruction."""

    kind: Literal["llm"] = "llm"
    """Who tags."""
    endpoints: Endpoints
    """Names of the endpoints that serve it."""
    max_tokens: Count = 32
    """Longest label, in tokens."""


class NoTagger(Section):
    """Nobody: every instruction is of one task."""

    kind: Literal["none"]
    """Who tags."""
    label: Text = "Others"
    """The label of the taxonomy that all instructions get."""


class GymEvaluation(Section):
    """Held-out instructions of the embedded world."""

    kind: Literal["gym"] = "gym"
    """What is measured with."""
    per_task: Count = 30
    """In-distribution prompts for each skill."""
    harder_per_task: Whole = 10
    """Prompts one level harder, for each skill."""
    unseen_per_task: Whole = 20
    """Prompts for each skill that is never trained on."""
    sample: Whole = 0
    """Which draw of prompts: settings that were chosen on one are measured on another."""


class HeldOut(Readable):
    """Instructions that are measured with and never trained on."""

    operational: ClassVar[frozenset[str]] = frozenset({"file", "protect"})
    """Keys that do not change what is computed: the manifest holds the digest of each file, wherever it lies."""

    held_out: Whole = 200
    """Instructions set aside from the corpus, never trained on."""
    file: str = ""
    """A file with more prompts, in any layout a corpus can have; empty means none."""
    protect: tuple[Text, ...] = ()
    """Files of other evaluation sets (JSON, JSONL, ...): what repeats one of their prompts is not trained on either."""

    def idle(self) -> Mapping[str, str]:
        """Without a file there are no rows to lay out."""
        return {} if self.file else {"layout": "file", "columns": "file"}

    @model_validator(mode="after")
    def _has_prompts(self) -> HeldOut:
        if not (self.held_out or self.file):
            raise ValueError(
                "held_out = 0 without a file leaves nothing to measure with: raise held_out, or name a file"
            )
        return self


class JudgedEvaluation(HeldOut):
    """Held-out instructions, the student's answers compared with the teacher's by the judge."""

    kind: Literal["judged"] = "judged"
    """What is measured with."""


class ExactEvaluation(HeldOut):
    """Held-out instructions whose answers are compared with the expected ones by a program: no judge is needed."""

    kind: Literal["exact"]
    """What is measured with."""
    match: Literal["plain", "number"] = "plain"
    """plain: equal but for case, white space and marks around; number: the last number of both is equal."""


AnyEvaluation: TypeAlias = Annotated[
    GymEvaluation | JudgedEvaluation | ExactEvaluation, Field(discriminator="kind"), kind_or("gym")
]
