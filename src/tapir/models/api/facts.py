"""Facts about an endpoint that are found out by asking its server: the model it has, whether it takes a JSON schema."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from operator import sub

from tapir.config.endpoints import AUTO
from tapir.domain.completion import Completion, Failure
from tapir.domain.errors import RoleError
from tapir.models.api.client import ApiClient
from tapir.models.api.connection import EndpointClient
from tapir.models.api.protocol import ROOM_FOR_THOUGHT, Message, Request, Sampling, Schema, json_or_none
from tapir.models.api.refusals import refused_field, refuses_schema, remedy

_LISTED = 8  # models of a server that an error shows, the nearest first
_NO_CHAT = ("embed", "rerank")  # in the names of models that a local server lists beside the one that chats
_COLOURS = ("red", "green", "blue")
# The question says nothing of JSON, so that a reply which fits was made to fit.
_QUESTION = "Name a colour, and how bright it is from 1 to 10."
_SCHEMA = Schema.of("colour", colour={"type": "string", "enum": list(_COLOURS)}, brightness={"type": "number"})
_MAX_TOKENS = {"max_tokens": 512, "max_completion_tokens": 2048}  # a model that thinks needs more than it replies with


def check_reachable(client: ApiClient) -> None:
    """Check that every endpoint responds, takes its key and has its model, and find the model of those on "auto".

    Costs nothing but where a server does not list the model asked for: whether it takes the name, as many local
    servers do with any, is tried with one short call.
    """
    for name, endpoint in client.endpoints.items():
        models, wanted = client.wait_for(endpoint.list_models()), endpoint.config.model
        if wanted == AUTO:
            endpoint.config = endpoint.config.model_copy(update={"model": choose_model(endpoint, models)})
            client.note(f"endpoints.{name}: the model is {endpoint.config.model}")
        elif models and not {wanted, f"{wanted}:latest"} & {*models} and not _takes_name(client, endpoint):
            raise RoleError(
                f"endpoints.{name}: {endpoint.config.base_url} has no model {wanted!r}; it has {_near(models, wanted)}",
                remedy=f"Fix endpoints.{name}.model.",
            )
        of = (client.run, name, endpoint.config.base_url, endpoint.config.model)
        client.ledger.add_fact(*of, context=endpoint.contexts.get(of[-1], 0))  # what the run found before stays
        endpoint.context = client.ledger.find_fact(*of, "context") or 0


def choose_model(endpoint: EndpointClient, models: Sequence[str] | None, earlier: str = "") -> str:
    """Return the model that a server has; of several the one used `earlier`, if it is among them."""
    names = list(dict.fromkeys(models or [earlier] * bool(earlier)))
    chatting = [name for name in names if not any(part in name.lower() for part in _NO_CHAT)] or names
    known = [name for name in (earlier, AUTO) if name in names] or chatting
    if known and (known is not chatting or len(chatting) == 1):
        return known[0]
    listed = f"has {len(names)} models: {_near(names, earlier)}" if names else "does not list its models"
    raise RoleError(
        f"endpoints.{endpoint.name}.model is not set, and {endpoint.config.base_url} {listed}",
        remedy=f"Set endpoints.{endpoint.name}.model" + (" to one of them." if names else "."),
    )


def takes_schema(client: ApiClient, name: str) -> bool:
    """Return whether an endpoint's replies fit a JSON schema; where the recipe leaves it open, one call tells, once."""
    endpoint = client.endpoints[name]
    config = endpoint.config
    if config.json_schema == AUTO:
        of = (client.run, name, config.base_url, config.model)
        found = client.ledger.find_fact(*of)
        if found is None:
            before = client.budget.paid
            found = _try_schema(client, endpoint)
            if found is not None:
                client.ledger.add_fact(*of, json_schema=found)
            tokens, money = map(sub, client.budget.paid, before)
            cost = f"{tokens} tokens" + (f", {money:.4f}" if config.costs else "")
            takes = f"takes {'a' if found else 'no'} JSON schema"
            if found is None:
                takes = "is sent no JSON schema, as its reply to one was cut off (thinking_tokens gives it room)"
            client.note(f"endpoints.{name} {takes} ({config.model}; tried with {cost})")
        endpoint.config = config.model_copy(update={"json_schema": bool(found)})
    return endpoint.config.json_schema is True


def _try_schema(client: ApiClient, endpoint: EndpointClient) -> bool | None:
    """Ask with a schema; where that is refused without a word about it, ask without one who is to blame.

    None is returned where the reply was cut off, so that it is not known.
    """
    most = _MAX_TOKENS[endpoint.config.max_tokens_field]
    reply = _ask(client, endpoint, _SCHEMA, most)
    if isinstance(reply, Completion):
        return _fits(reply.text) if reply.finish_reason == "stop" else None
    again = reply if refuses_schema(reply.message) else _ask(client, endpoint, None, most)
    if isinstance(again, Completion) or again is reply:
        return False
    raise RoleError(
        f"endpoints.{endpoint.name}: {endpoint.config.base_url} replied to no call: {again.message}",
        remedy=remedy(endpoint.name, endpoint.config, again.message)
        or "See that the server replies to a chat completion; then the same command goes on.",
    )


def _fits(text: str) -> bool:
    reply = json_or_none(text)
    told = isinstance(reply, dict) and set(reply) == {"colour", "brightness"}
    return told and reply["colour"] in _COLOURS and type(reply["brightness"]) in {int, float}


def _takes_name(client: ApiClient, endpoint: EndpointClient) -> bool:
    """Return whether a server takes the name of a model that it does not list."""
    try:
        reply = _ask(client, endpoint, None, 16)
    except RoleError as error:
        if "HTTP 404" in str(error):
            return False
        raise
    return isinstance(reply, Completion) or refused_field(reply.message) != "model"


def _ask(client: ApiClient, endpoint: EndpointClient, schema: Schema | None, most: int) -> Completion | Failure:
    messages = [Message(role="user", content=_QUESTION)]
    replies: list[Completion | Failure] = []
    for room in (0, ROOM_FOR_THOUGHT):
        request = Request(messages, Sampling(temperature=False, max_tokens=most, thinking_tokens=room), schema)
        replies += (reply for _, reply in client.stream([endpoint.name], [("", request)]))
        if not (isinstance(replies[-1], Completion) and replies[-1].all_thought):
            break
    refused = isinstance(replies[-1], Failure) and replies[-1].kind == "bad-request"
    return replies[0] if refused else replies[-1]


def _near(models: Sequence[str], wanted: str) -> str:
    near = difflib.get_close_matches(wanted, models, n=_LISTED, cutoff=0.0)
    return ", ".join(near) + (", ..." if len(models) > len(near) else "")
