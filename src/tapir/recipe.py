"""The recipe: one typed tree; TOML in, resolved JSON out.

The line under a field is its help. Defaults live here and nowhere else.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from tapir.domain import difficulty
from tapir.domain.schedule import Schedule
from tapir.errors import RecipeError

Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Count: TypeAlias = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A table of the recipe; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class GymCorpus(Section):
    """Instructions of the embedded world, imbalanced the way public corpora are."""

    kind: Literal["gym"] = "gym"
    size: Annotated[int, Field(ge=50)] = 2000
    """Instructions in the corpus."""
    skew: Annotated[float, Field(ge=0, le=3)] = 1.0
    """Exponent of the power law over skills; 0 gives every skill the same share."""
    skills: tuple[str, ...] = ()
    """Skills to use; empty means all that may be trained on."""


class GymTeacher(Section):
    """Exact answers, fresh instances, worked steps."""

    kind: Literal["gym"] = "gym"


class GymJudge(Section):
    """The verifier of the embedded world on the 1 to 10 scale."""

    kind: Literal["gym"] = "gym"


class TfidfTagger(Section):
    """TF-IDF and logistic regression, trained in the run from the teacher's labels on a sample."""

    kind: Literal["tfidf"] = "tfidf"
    labelled: Annotated[int, Field(ge=20)] = 800
    """Instructions the teacher labels."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the labels kept to measure the tagger."""


class LocalStudent(Section):
    """A model answering in this process, through transformers."""

    kind: Literal["transformers"] = "transformers"
    model: str = "nano"
    """"nano" for the built-in student, or a folder or hub id that transformers can load."""
    max_new_tokens: Count = 112
    """Longest answer, in tokens."""
    batch_size: Count = 128
    """Prompts answered at once."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """0 is greedy."""


class PaperSchedule(Section):
    """Hard share by round: start, start + step, ... up to 1."""

    kind: Literal["paper"] = "paper"
    start: Share = 0.3
    """Hard share of the first round (the paper's alpha_1, as reported)."""
    step: Share = 0.2
    """Added in every later round (the paper's delta alpha, as reported)."""


class ConstantSchedule(Section):
    """The same hard share in every round."""

    kind: Literal["constant"]
    share: Share
    """Hard share."""


class LinearSchedule(Section):
    """Hard share from start in the first round to end in the last."""

    kind: Literal["linear"]
    start: Share
    """Hard share of the first round."""
    end: Share
    """Hard share of the last round."""


class ListSchedule(Section):
    """Hard share of each round, written out."""

    kind: Literal["list"]
    shares: Annotated[tuple[Share, ...], Field(min_length=1)]
    """One hard share per round, rising or falling."""


AnySchedule: TypeAlias = Annotated[
    PaperSchedule | ConstantSchedule | LinearSchedule | ListSchedule, Field(discriminator="kind")
]


class Threshold(Section):
    """Which gaps (teacher's score minus student's) are hard."""

    rule: Literal["delta", "quantile", "budget"] = "delta"
    """delta: gap > value; quantile: the largest gaps, that share of the scored items; budget: that many."""
    value: Annotated[float, Field(ge=0)] = 2.0
    """The threshold, a share below 1, or a number of items."""

    @model_validator(mode="after")
    def _fits_its_rule(self) -> Threshold:
        if self.rule == "quantile" and not 0 < self.value < 1:
            raise ValueError(f"with rule = 'quantile' value is a share between 0 and 1, got {self.value:g}")
        return self


class Target(Section):
    """P(t): the share of each task in a round."""

    taxonomy: str = "gym"
    """A shipped taxonomy (gym, paper) or a TOML file of your own with name, version and [shares]."""
    shares: Literal["fixed", "room"] = "fixed"
    """fixed: the taxonomy's shares (paper); room: these shares leant towards tasks with room to grow."""
    minimum: Share = 0.01
    """With shares = "room": share every task keeps."""


class Curriculum(Section):
    """The method: rounds, sizes, shares."""

    variant: Literal["multi-round", "single-round"] = "multi-round"
    """single-round is one round of hard examples only (the paper's "S" model)."""
    rounds: Count = 3
    """N, the number of rounds."""
    size: Count = 1500
    """n, the training examples of one round."""
    schedule: AnySchedule = PaperSchedule()
    """Hard share by round."""
    threshold: Threshold = Threshold()
    """What counts as hard."""
    target: Target = Target()
    """What the mix of tasks should be."""
    rescoring: Literal["once", "every-round"] = "once"
    """once: MFD of the warm-up student throughout (paper); every-round: the last student answers again."""
    continue_from: Literal["previous", "warm-up"] = "previous"
    """previous: each round trains the last round's student (paper); warm-up: each starts again from S_0."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Passes over the corpus before the first round; 0 for a student that already follows instructions."""
    expand: bool = True
    """Have the teacher write what the hard pool lacks."""
    expand_attempts: Count = 3
    """How often the teacher is asked again for what a task still lacks."""
    refine: bool = True
    """Have the teacher rewrite the answers in the manner of their task."""

    @field_validator("schedule", mode="before")
    @classmethod
    def _paper_unless_said(cls, value: object) -> object:
        return {"kind": "paper", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Curriculum:
        clash = sorted({"rounds", "schedule"} & self.model_fields_set)
        if self.variant == "single-round" and clash:
            raise ValueError(f"variant = 'single-round' is one round of hard examples: remove {' and '.join(clash)}")
        if isinstance(self.schedule, ListSchedule) and len(self.schedule.shares) != self.rounds:
            raise ValueError(f"schedule.shares has {len(self.schedule.shares)} entries for rounds = {self.rounds}")
        if self.target.shares == "fixed" and "minimum" in self.target.model_fields_set:
            raise ValueError("target.minimum has no effect with target.shares = 'fixed': remove it")
        self.alpha()
        return self

    def alpha(self) -> Schedule:
        """The schedule as values: one hard share per round."""
        if self.variant == "single-round":
            return Schedule((1.0,))
        match self.schedule:
            case PaperSchedule(start=start, step=step):
                return Schedule.paper(start, step, self.rounds)
            case ConstantSchedule(share=share):
                return Schedule.constant(share, self.rounds)
            case LinearSchedule(start=start, end=end):
                return Schedule.linear(start, end, self.rounds)
            case ListSchedule(shares=shares):
                return Schedule(shares)

    def delta(self) -> difficulty.Threshold:
        """The threshold as a value of the domain."""
        return difficulty.Threshold(self.threshold.rule, self.threshold.value)


class Training(Section):
    """Fine-tuning of the student, on answer tokens only."""

    epochs: Annotated[float, Field(gt=0)] = 2.0
    """Passes over a round's examples."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    """Peak learning rate (AdamW)."""
    batch_size: Count = 32
    """Examples per step."""
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """Learning rate over the steps of a round."""
    warmup_share: Share = 0.05
    """Share of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay."""
    max_length: Count = 512
    """Longest example in tokens; a longer one is an error, never cut."""
    save_every: Count = 50
    """Steps between two training checkpoints."""


class GymEvaluation(Section):
    """Held-out instructions of the embedded world."""

    kind: Literal["gym"] = "gym"
    per_task: Count = 30
    """In-distribution prompts for each skill."""
    harder_per_task: Annotated[int, Field(ge=0)] = 10
    """Prompts one level harder, for each skill."""
    unseen_per_task: Annotated[int, Field(ge=0)] = 20
    """Prompts for each skill that is never trained on."""


class Recipe(Section):
    """Everything a run depends on."""

    name: str = "gym"
    """Name of the recipe, for the report."""
    seed: Annotated[int, Field(ge=0)] = 7
    """Same seed, same run."""
    chunk: Count = 512
    """Items that are finished and saved together."""
    corpus: GymCorpus = GymCorpus()
    """D: the instructions to choose from."""
    teacher: GymTeacher = GymTeacher()
    """T: answers, expands, refines."""
    judge: GymJudge = GymJudge()
    """J: scores from 1 to 10."""
    tagger: TfidfTagger = TfidfTagger()
    """Gives every instruction its task."""
    student: LocalStudent = LocalStudent()
    """S: the model that learns."""
    curriculum: Curriculum = Curriculum()
    """Rounds and mixtures."""
    training: Training = Training()
    """Fine-tuning."""
    evaluation: GymEvaluation = GymEvaluation()
    """What is measured after every round."""

    def resolved(self) -> dict[str, Any]:
        """Every setting with its value, as JSON types."""
        return self.model_dump(mode="json")

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Keys whose values differ from another resolved recipe, as "key: theirs -> ours"."""
        theirs, ours = _flat(other), _flat(self.resolved())
        return [
            f"{key}: {theirs.get(key, 'not set')} -> {ours.get(key, 'not set')}"
            for key in sorted(theirs.keys() | ours.keys())
            if theirs.get(key) != ours.get(key)
        ]


def shipped() -> list[str]:
    """Names of the recipes inside the package."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in resources.files("tapir.recipes").iterdir()
        if entry.name.endswith(".toml")
    )


def load(source: str, changes: Iterable[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: a TOML file, or the name of a shipped recipe.
        changes: "key=value" with a dotted key and a TOML value (a bare word is taken as text).

    Raises:
        RecipeError: it cannot be read, or a key or value is wrong; every problem is named.
    """
    content = _read(source)
    for change in changes:
        _apply(content, change)
    return parse(content)


def parse(content: Mapping[str, Any]) -> Recipe:
    """A recipe from its tables.

    Raises:
        RecipeError: a key or value is wrong; every problem is named with the nearest right name.
    """
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        problems = [_explain(one) for one in error.errors()]
        raise RecipeError(
            "\n".join(problems), remedy="`tapir recipe show gym` prints every key with its meaning."
        ) from error


def _read(source: str) -> dict[str, Any]:
    path = Path(source)
    if source in shipped():
        text = (resources.files("tapir.recipes") / f"{source}.toml").read_text(encoding="utf-8")
    elif path.suffix == ".toml":
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{source} cannot be read: {error}", remedy="Check the path.") from error
    else:
        near = difflib.get_close_matches(source, shipped(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"shipped recipes: {', '.join(shipped())}"
        raise RecipeError(
            f"no recipe named {source!r}; {hint}", remedy="Name a shipped recipe or a file that ends in .toml."
        )
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source} is not valid TOML: {error}", remedy="Mend the line named.") from error


def _apply(content: dict[str, Any], change: str) -> None:
    key, equals, value = change.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {change!r} is not key=value", remedy="For example: --set curriculum.rounds=2")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *tables, last = key.strip().split(".")
    for table in tables:
        content = content.setdefault(table, {})
        if not isinstance(content, dict):
            raise RecipeError(
                f"--set {change!r}: {table} is not a table", remedy="`tapir recipe show gym` lists all keys."
            )
    content[last] = parsed


def _explain(problem: ErrorDetails) -> str:
    """One line: where, what, and what was probably meant."""
    place = [str(part) for part in problem["loc"]]
    where = ".".join(part for part in place if part not in {"paper", "constant", "linear", "list"})
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place[-1], _keys_at(place[:-1]), n=1, cutoff=0.5)
        return f"{where}: no such key" + (f"; did you mean {near[0]}?" if near else "")
    if problem["type"] in {"literal_error", "union_tag_invalid"}:
        options = str(problem.get("ctx", {}).get("expected") or problem.get("ctx", {}).get("expected_tags", ""))
        value = problem["input"] if problem["type"] == "literal_error" else problem.get("ctx", {}).get("tag")
        near = difflib.get_close_matches(
            str(value), [one.strip("' ") for one in options.replace(" or ", ",").split(",")], n=1
        )
        return f"{where} = {value!r}: must be {options}" + (f"; did you mean {near[0]!r}?" if near else "")
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    shown = "" if isinstance(problem["input"], dict) or problem["type"] == "missing" else f" = {problem['input']!r}"
    return f"{where}{shown}: {message[:1].lower()}{message[1:]}"


def _keys_at(place: list[str]) -> list[str]:
    model: type[BaseModel] = Recipe
    schedules = {"paper": PaperSchedule, "constant": ConstantSchedule, "linear": LinearSchedule, "list": ListSchedule}
    for part in place:
        found = schedules.get(part) if part in schedules else model.model_fields[part].annotation
        if isinstance(found, type) and issubclass(found, BaseModel):
            model = cast("type[BaseModel]", found)
    return list(model.model_fields)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat
