"""Sections of the recipe for teacher, judge and tagger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from tapir.config.base import Count, CustomConfig, Endpoints, Section, SentTemperature, Share, Text, Whole, kind_or
from tapir.domain.errors import RecipeError
from tapir.domain.roles import Judge, Tagger, Teacher


class CustomAnnotatorConfig(CustomConfig):
    """A class of your own that may call models behind servers."""

    endpoints: tuple[str, ...] = ()
    """Names of the endpoints it calls, through `context.session`; empty for a class that calls none."""

    def build(self, context: object) -> Any:
        """Return an instance of the class; a class that is not passed its endpoints must not name any."""
        if self.endpoints and not callable(getattr(self.load(), "build", None)):
            raise RecipeError(
                f"{self.place}.endpoints has no effect: {self.class_!r} has no build(section, context)",
                remedy=f"Give the class that method, or remove {self.place}.endpoints.",
            )
        return super().build(context)


class GymTeacherConfig(Section):
    """Exact answers, fresh instances, worked steps."""

    implementation: ClassVar[str] = "tapir.gym.roles:GymTeacher"
    kind: Literal["gym"] = "gym"


class LlmTeacherConfig(Section):
    """A language model behind a server."""

    implementation: ClassVar[str] = "tapir.models.teacher:LlmTeacher"
    kind: Literal["llm"] = "llm"
    endpoints: Endpoints
    """Names of the endpoints that serve it."""
    temperature: SentTemperature = 0.7
    """For answers and refinements; 0 is greedy, false sends none (for models that take none)."""
    max_tokens: Count = 1024
    """Longest reply, in tokens."""
    expand_temperature: SentTemperature = 1.0
    """For new instructions; false sends none."""
    seeds_per_call: Count = 3
    """Instructions shown as examples when new ones are asked for."""
    new_per_call: Count = 5
    """New instructions asked for in one call."""


class NoTeacherConfig(Section):
    """No teacher: train on the answers in the corpus."""

    implementation: ClassVar[str] = "tapir.models.none:NoTeacher"
    kind: Literal["none"]


class CustomTeacherConfig(CustomAnnotatorConfig):
    """A teacher of your own."""

    place: ClassVar[str] = "teacher"
    role: ClassVar[type] = Teacher


AnyTeacher: TypeAlias = Annotated[
    GymTeacherConfig | LlmTeacherConfig | NoTeacherConfig | CustomTeacherConfig,
    Field(discriminator="kind"),
    kind_or("gym"),
]


class GymJudgeConfig(Section):
    """The verifier of the embedded world on the 1 to 10 scale."""

    implementation: ClassVar[str] = "tapir.gym.roles:GymJudge"
    kind: Literal["gym"] = "gym"


class LlmJudgeConfig(Section):
    """A language model behind a server."""

    implementation: ClassVar[str] = "tapir.models.judge:LlmJudge"
    kind: Literal["llm"] = "llm"
    endpoints: Endpoints
    """Names of the endpoints that serve it."""
    mode: Literal["pairwise", "single"] = "pairwise"
    """pairwise: both answers in one prompt, in both orders; single: each answer alone."""
    rationale: bool = True
    """Write a rationale before the scores; without one a verdict costs its prompt and hardly more."""
    samples: Count = 1
    """Verdicts averaged for each prompt."""
    temperature: SentTemperature = 0.0
    """0 is greedy; false sends none, for models that take none."""
    max_tokens: Count = 512
    """Longest verdict, in tokens."""
    expected_score: bool = False
    """Take the mean over the score's log-probabilities in place of the score written."""
    rubrics: dict[str, Text] = Field(default_factory=dict)
    """For a task, what a good answer to it is judged by."""
    null_answers: Whole = 20
    """Number of null-model answers scored as a sanity check of the judge; 0 disables it."""

    @model_validator(mode="after")
    def _samples_differ(self) -> LlmJudgeConfig:
        if self.samples > 1 and self.temperature == 0 and self.temperature is not False:
            same = f"samples = {self.samples} with temperature = 0 would all be the same"
            raise ValueError(f"{same}: raise temperature, or remove samples")
        return self


class NoJudgeConfig(Section):
    """Nobody: for a difficulty and an evaluation that need no judge."""

    implementation: ClassVar[str] = "tapir.models.none:NoJudge"
    kind: Literal["none"]


class CustomJudgeConfig(CustomAnnotatorConfig):
    """A judge of your own."""

    place: ClassVar[str] = "judge"
    role: ClassVar[type] = Judge


AnyJudge: TypeAlias = Annotated[
    GymJudgeConfig | LlmJudgeConfig | NoJudgeConfig | CustomJudgeConfig, Field(discriminator="kind"), kind_or("gym")
]


def _enough_to_learn(labelled: int) -> int:
    if 0 < labelled < 20:  # noqa: PLR2004
        raise ValueError(f"{labelled} labels are too few to learn from: use 20 or more, or 0")
    return labelled


class LabelRequests(Section):
    """Requests to a language model for the labels of instructions."""

    endpoints: tuple[str, ...] = ()
    """Names of the endpoints that label; empty means the teacher: the gym's, or your own with a method label."""
    temperature: SentTemperature = 0.0
    """Of the request for a label; 0 is greedy, false sends none."""
    max_tokens: Count = 32
    """Longest label, in tokens."""

    def idle(self) -> Mapping[str, str]:
        """Nobody is asked for no labels, and nothing is learnt; a teacher that labels has its own limit of tokens."""
        if not getattr(self, "labelled", True):
            unused = ("held_out", "epochs", "learning_rate", "endpoints", "temperature", "max_tokens")
            return {name: "labelled" for name in unused if name in type(self).model_fields}
        return {} if self.endpoints else dict.fromkeys(("temperature", "max_tokens"), "endpoints")


class TfidfTaggerConfig(LabelRequests):
    """TF-IDF and logistic regression, trained in the run from the teacher's labels on a sample."""

    implementation: ClassVar[str] = "tapir.models.taggers.tfidf:TfidfTagger"
    kind: Literal["tfidf"] = "tfidf"
    labelled: Annotated[int, Field(ge=20, strict=True)] = 800
    """Instructions the teacher labels."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the labels kept to measure the tagger."""


class LlmTaggerConfig(LabelRequests):
    """A language model behind a server, asked about every instruction."""

    implementation: ClassVar[str] = "tapir.models.taggers.llm:LlmTagger"
    kind: Literal["llm"] = "llm"
    endpoints: Endpoints
    """Names of the endpoints that serve it."""


class NoTaggerConfig(Section):
    """Nobody: every instruction is of one task."""

    implementation: ClassVar[str] = "tapir.models.none:SingleTask"
    kind: Literal["none"]
    label: Text = "Others"
    """The label of the taxonomy that all instructions get."""


class EncoderTaggerConfig(LabelRequests):
    """An encoder classifier, fine-tuned in the run from labels, or a published one."""

    implementation: ClassVar[str] = "tapir.models.taggers.encoder:EncoderTagger"
    kind: Literal["encoder"]
    model: Text = "answerdotai/ModernBERT-base"
    """The encoder, a folder or hub id that transformers can load; with labelled = 0 a classifier of the taxonomy."""
    revision: str = ""
    """Commit, tag or branch on the hub; empty means the newest."""
    labelled: Annotated[Whole, AfterValidator(_enough_to_learn)] = 5000
    """Instructions labelled to learn from; 0 for a published classifier, which learns nothing."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the labels kept to measure the tagger."""
    epochs: Annotated[float, Field(gt=0)] = 3.0
    """Passes over the labels."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """Peak learning rate (AdamW)."""
    batch_size: Count = 32
    """Instructions per step, and tagged at once."""
    max_length: Count = 256
    """Tokens read of an instruction; what follows is not seen."""
    abstain_below: Share = 0.0
    """An instruction whose best label is less probable than this gets none; 0 labels all."""


class EmbeddingTaggerConfig(LabelRequests):
    """Logistic regression over sentence embeddings and TF-IDF, trained in the run from labels; or the nearest name."""

    implementation: ClassVar[str] = "tapir.models.taggers.embedding:EmbeddingTagger"
    kind: Literal["embedding"]
    model: Text = "sentence-transformers/all-MiniLM-L6-v2"
    """The sentence encoder, a folder or hub id in the layout of sentence-transformers; it is used as it is."""
    revision: str = ""
    """Commit, tag or branch on the hub; empty means the newest."""
    prefix: str = ""
    """Text before every instruction, for models that expect one, such as "query: " for E5."""
    labelled: Annotated[Whole, AfterValidator(_enough_to_learn)] = 800
    """Instructions labelled to learn from; 0 takes the label whose name is nearest, which asks nobody."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the labels kept to measure the tagger."""
    batch_size: Count = 32
    """Instructions embedded at once."""
    max_length: Count = 256
    """Tokens embedded of an instruction; TF-IDF sees what follows, too."""
    abstain_below: Share = 0.0
    """An instruction whose best label is less probable than this gets none; 0 labels all."""


class CustomTaggerConfig(CustomAnnotatorConfig):
    """A tagger of your own."""

    place: ClassVar[str] = "tagger"
    role: ClassVar[type] = Tagger


AnyTrainedTagger: TypeAlias = TfidfTaggerConfig | EncoderTaggerConfig | EmbeddingTaggerConfig

AnyTagger: TypeAlias = Annotated[
    AnyTrainedTagger | LlmTaggerConfig | NoTaggerConfig | CustomTaggerConfig,
    Field(discriminator="kind"),
    kind_or("tfidf"),
]
