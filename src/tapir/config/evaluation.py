"""The evaluation section of a recipe: benchmarks that are measured after every round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from tapir.config.base import Count, CustomConfig, Section, Text, Whole, kind_or
from tapir.config.corpus import Readable
from tapir.domain.roles import Benchmark


class EvaluationConfig(Section):
    """What all evaluations have."""

    needs_judge: ClassVar[bool] = False
    """Whether answers are graded by the judge of the recipe."""

    def files(self) -> dict[str, str]:
        """Return the files that a run reads again when it is resumed, by the key that names each."""
        return {}


class GymEvaluationConfig(EvaluationConfig):
    """Held-out instructions of the embedded world."""

    implementation: ClassVar[str] = "tapir.gym.roles:GymBenchmark"
    kind: Literal["gym"] = "gym"
    per_task: Count = 30
    """In-distribution prompts for each skill."""
    harder_per_task: Whole = 10
    """Prompts one level harder, for each skill."""
    unseen_per_task: Whole = 20
    """Prompts for each skill that is never trained on."""
    sample: Whole = 0
    """Index of the prompt sample (use another for tuning than for reporting)."""


class HeldOut(Readable, EvaluationConfig):
    """Instructions that are measured with and never trained on."""

    operational: ClassVar[frozenset[str]] = frozenset({"file", "protect"})

    held_out: Whole = 200
    """Number of instructions held out from the corpus; they are never trained on."""
    file: str = ""
    """A file with more prompts, in any layout a corpus can have; empty means none."""
    protect: tuple[Text, ...] = ()
    """Files of other evaluation sets (JSON, JSONL, ...): what repeats one of their prompts is not trained on either."""

    def idle(self) -> Mapping[str, str]:
        """Without a file there are no rows to read."""
        return {} if self.file else dict.fromkeys(("layout", "columns", "turns"), "file")

    def files(self) -> dict[str, str]:
        """Return the file of prompts and the protected sets."""
        protected = {f"evaluation.protect.{place}": name for place, name in enumerate(self.protect)}
        return ({"evaluation.file": self.file} if self.file else {}) | protected

    @model_validator(mode="after")
    def _has_prompts(self) -> HeldOut:
        if not (self.held_out or self.file):
            raise ValueError("held_out = 0 without a file leaves nothing to measure with: raise it, or name a file")
        return self


class JudgedEvaluationConfig(HeldOut):
    """Held-out instructions, the student's answers compared with the teacher's by the judge."""

    implementation: ClassVar[str] = "tapir.evaluation.judged:JudgedBenchmark"
    needs_judge: ClassVar[bool] = True
    kind: Literal["judged"] = "judged"


class ExactEvaluationConfig(HeldOut):
    """Held-out instructions whose answers are compared with the expected ones by a program: no judge is needed."""

    implementation: ClassVar[str] = "tapir.evaluation.exact:ExactBenchmark"
    kind: Literal["exact"]
    match: Literal["plain", "number"] = "plain"
    """plain: equal but for case, white space and marks around; number: the last number of both is equal."""


class HarnessConfig(EvaluationConfig):
    """Tasks of lm-evaluation-harness that are graded by a program (output type generate_until), for example ifeval."""

    implementation: ClassVar[str] = "tapir.evaluation.lm_eval:HarnessTask"
    operational: ClassVar[frozenset[str]] = frozenset({"include"})
    kind: Literal["harness"]
    tasks: Annotated[tuple[Text, ...], Field(min_length=1)]
    """Tasks as the harness names them (`lm-eval ls tasks`), for example ["ifeval", "gsm8k"]."""
    include: str = ""
    """Folder with task files (YAML) of your own, which may also replace a task; empty means none."""
    limit: Whole = 0
    """Use only the first so many prompts of each task; 0 means all."""


class AlpacaEvalConfig(EvaluationConfig):
    """AlpacaEval 2.0: the judge compares the student's answers with a baseline's, in both orders."""

    implementation: ClassVar[str] = "tapir.evaluation.alpaca_eval:AlpacaEval"
    operational: ClassVar[frozenset[str]] = frozenset({"baseline", "prompts"})
    needs_judge: ClassVar[bool] = True
    kind: Literal["alpaca_eval"]
    baseline: Text
    """File with the answers to compare with, for example a model_outputs.json of AlpacaEval."""
    prompts: str = ""
    """File with the instructions that count, in order; empty means all that the baseline answers."""

    def files(self) -> dict[str, str]:
        """Return the files of answers and of prompts."""
        return {"evaluation.baseline": self.baseline} | ({"evaluation.prompts": self.prompts} if self.prompts else {})


class CustomEvaluationConfig(CustomConfig, EvaluationConfig):
    """A benchmark class of your own."""

    place: ClassVar[str] = "evaluation"
    role: ClassVar[type] = Benchmark


AnyEvaluation: TypeAlias = Annotated[
    GymEvaluationConfig
    | JudgedEvaluationConfig
    | ExactEvaluationConfig
    | HarnessConfig
    | AlpacaEvalConfig
    | CustomEvaluationConfig,
    Field(discriminator="kind"),
    kind_or("gym"),
]
OPERATIONAL = HeldOut.operational | HarnessConfig.operational | AlpacaEvalConfig.operational
"""Keys of all kinds that a run may go on with other values of."""
