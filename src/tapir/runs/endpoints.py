"""Endpoints of a recipe: the models of those that leave theirs to the server, and a trial call of every role."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from tapir.config.annotators import CustomAnnotatorConfig
from tapir.config.endpoints import AUTO
from tapir.config.recipe import Recipe
from tapir.data.files import read_json
from tapir.domain.completion import Completion, Failure, text_or_failure
from tapir.domain.errors import TapirError
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.domain.judgement import Unscored
from tapir.domain.progress import SilentProgress
from tapir.domain.roles import Comparison, ExpandRequest
from tapir.domain.task import Taxonomy
from tapir.models.api.client import ApiClient
from tapir.models.api.facts import choose_model
from tapir.models.api.protocol import Request
from tapir.models.api.refusals import remedy
from tapir.models.api.session import LEDGER, ApiSession
from tapir.models.judge import LlmJudge
from tapir.models.prompts import PromptSet
from tapir.models.taggers.llm import LlmTagger
from tapir.models.teacher import LlmTeacher
from tapir.runs.corpus import prompt_set, taxonomy

KeyT = TypeVar("KeyT")
_SHOWN = 120  # characters of a reply that was not read
_PAIR = Pair(
    Instruction.of("Name three rivers of South America.", Origin("corpus")),
    Response("The Amazon, the Orinoco and the Magdalena.", ""),
)
_OTHER = "The Amazon is one; I do not know the others."


def find_models(recipe: Recipe, folder: Path | None = None, names: Iterable[str] | None = None) -> Recipe:
    """Return the recipe with the model of every endpoint on "auto", or of those with these names, as its server has it.

    Of several models it is the one that the run in `folder` has used.
    """
    chosen = recipe.endpoints if names is None else {name: recipe.endpoints[name] for name in names}
    unnamed = {name: endpoint for name, endpoint in chosen.items() if endpoint.model == AUTO}
    if not unnamed:
        return recipe
    manifest = folder / "manifest.json" if folder else None
    earlier = read_json(manifest).get("models", {}) if manifest and manifest.exists() else {}
    found = {}
    with TemporaryDirectory() as place, closing(ApiClient(unnamed, Path(place) / LEDGER)) as client:
        for name, endpoint in client.endpoints.items():
            listed = client.wait_for(endpoint.list_models())
            found[name] = choose_model(endpoint, listed, str(earlier.get(name, "")))
    named = {name: endpoint.model_copy(update={"model": found[name]}) for name, endpoint in unnamed.items()}
    return recipe.model_copy(update={"endpoints": {**recipe.endpoints, **named}})


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a role's call to one of its endpoints; `problem` says why the role cannot be used, or is empty."""

    role: str
    endpoint: str
    problem: str
    model: str = ""  # empty for a server that cannot be used at all
    json_schema: bool | None = None  # None for a request without
    tokens: int = 0  # with those that it took to find out about the schema
    cost: float = 0.0

    @property
    def line(self) -> str:
        """The trial as a line of text."""
        place = f"{self.role} at endpoints.{self.endpoint}"
        if not self.model:
            return f"{place}: {self.problem.removeprefix(f'endpoints.{self.endpoint}: ')}"
        schema = {True: "JSON schema, ", False: "no JSON schema, ", None: ""}[self.json_schema]
        money = f", {self.cost:.2g} spent" if self.cost else ""
        outcome = self.problem or ("reply was read" if self.tokens else "not called: a class of your own")
        return f"{place}: reachable, model {self.model}, {schema}{outcome} ({self.tokens:,} tokens{money})"


def try_roles(recipe: Recipe) -> list[Trial]:
    """Send every endpoint of every role one request as it is in a run, and say what came of it.

    A class of one's own is not called; its endpoints are asked whether they are there.
    """
    labels = taxonomy(recipe)
    trials = _Trials(recipe, prompt_set(recipe, labels.labels), labels)
    return [trial for name in recipe.endpoints for trial in trials.of(name)]


@dataclass(slots=True)
class _OneCall:
    """Calls of which the first is made; its reply is that of all others, so that a role reads it as in a run."""

    session: ApiSession
    request: Request | None = None
    reply: Completion | Failure = field(default=Failure("missing", "nothing was asked"))

    def json_schema(self, endpoints: tuple[str, ...]) -> bool:
        """Whether all these endpoints take a JSON schema."""
        return self.session.json_schema(endpoints)

    def stream(
        self, endpoints: tuple[str, ...], requests: Iterable[tuple[KeyT, Request]]
    ) -> Iterator[tuple[KeyT, Completion | Failure]]:
        """Yield the one reply to every request."""
        for key, request in requests:
            if self.request is None:
                self.request = request
                ((_, self.reply),) = self.session.stream(endpoints, [("", request)])
            yield key, self.reply


@dataclass(frozen=True, slots=True)
class _Trials:
    recipe: Recipe
    prompts: PromptSet
    labels: Taxonomy

    def of(self, name: str) -> Iterator[Trial]:
        """Yield a trial of every role that uses this endpoint."""
        users = [role for role, names in self.recipe.users().items() if name in names]
        direct = self.recipe.endpoints[name].model_copy(update={"batch": False})
        calls = self.recipe.calls.model_copy(update={"ledger": ""})  # which must not hold the reply already
        with TemporaryDirectory() as folder, closing(ApiSession({name: direct}, calls)) as session:
            try:
                session.open(Path(folder), "check", SilentProgress())
            except TapirError as error:
                yield from (Trial(role, name, _said(error)) for role in users)
                return
            for role in users:
                yield self._trial(role, name, session)

    def _trial(self, role: str, name: str, session: ApiSession) -> Trial:
        call, before = _OneCall(session), session.paid()
        try:
            why = self._unread(role, name, call)
        except TapirError as error:
            why = _said(error)
        if why and isinstance(call.reply, Completion):
            why = f"reply was not read: {why}; it begins {call.reply.text[:_SHOWN]!r}"
        elif why and call.request:
            why = f"no reply: {why} {remedy(name, self.recipe.endpoints[name], why)}".rstrip()
        if not why and call.request and call.request.sampling.logprobs and not getattr(call.reply, "tokens", ()):
            why = "reply has no log-probabilities: set judge.expected_score = false"
        asked = call.request is not None and (role != "teacher" or self.recipe.curriculum.expand)
        schema = session.json_schema((name,)) if asked else None
        after = session.paid()
        return Trial(role, name, why, session.model(name), schema, after[0] - before[0], after[1] - before[1])

    def _unread(self, role: str, name: str, call: _OneCall) -> str:
        """Have a role make its call and read the reply; return why it could not, or nothing."""
        section, task = getattr(self.recipe, role), self.labels.labels[0]
        if isinstance(section, CustomAnnotatorConfig):
            return ""
        section = section.model_copy(update={"endpoints": (name,)})
        results: Iterator[tuple[str, object]]
        if role == "tagger":
            results = LlmTagger(call, self.prompts, section, self.labels).tag([_PAIR.instruction])
        elif role == "judge":
            shown = Comparison(_PAIR.instruction, _PAIR.response.text, _OTHER, task)
            results = LlmJudge(call, self.prompts, section, "").judge([shown])
        elif self.recipe.curriculum.expand:
            wanted = ExpandRequest(task, [_PAIR], section.new_per_call, 0)
            results = LlmTeacher(call, self.prompts, section, "").expand([wanted])
        else:
            replies = LlmTeacher(call, self.prompts, section, "").answer([_PAIR.instruction])
            results = ((key, text_or_failure(reply)) for key, reply in replies)
        (_, result), *_ = results
        if isinstance(result, Unscored):
            return f"{result.reason} ({result.raw})" if isinstance(call.reply, Failure) else result.reason
        return f"{result.kind}: {result.message}" if isinstance(result, Failure) else ""


def _said(error: TapirError) -> str:
    return f"{str(error).removesuffix('.')}. {error.remedy}"
