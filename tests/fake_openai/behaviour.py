"""How the fake server behaves: one flat value, set from the command line, from a test, or over HTTP while it runs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

REASONING = ("none", "reasoning", "reasoning_content", "inline")
RETRY_AFTER = ("float", "integer", "date", "none")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the server does. All times are seconds, all shares lie in 0..1; a zero or an empty text switches off.

    The four faults (`error_share` to `nonsense_share`) exclude each other, so their sum is at most 1. They are drawn
    from the seed, the digest of the request's JSON and its attempt number (a 429 is no attempt), so a retried request
    gets fresh luck and the order of arrival does not matter. Refusals (400, 401, 404, `dead`, `status_for_all`)
    come at once, everything else after the latency.
    """

    seed: int = 0
    latency: float = 0.1
    jitter: float = 0.0  # the latency varies by up to this share, both ways
    error_share: float = 0.0  # status 500
    hang_share: float = 0.0  # taken, never answered
    cut_share: float = 0.0  # half of them end before their Content-Length, half are whole HTTP with half the JSON
    nonsense_share: float = 0.0  # status 200 and no chat completion
    finish_length_share: float = 0.0  # half the reply, finish_reason "length"
    refuse: bool = False  # the connection is dropped without a byte
    dead: int = 0  # every call gets this status and an HTML page, as from a proxy before a dead server
    status_for_all: int = 0  # every call gets this status and an OpenAI error body
    rate_limit: int = 0  # chat completions per window
    rate_window: float = 1.0
    rate_sliding: bool = False  # otherwise windows are fixed, the first one from the first request on
    rate_after_latency: bool = False  # otherwise a 429 comes at once
    retry_after: str = "float"
    require_key: str = ""
    echo_key: bool = False  # error bodies repeat the Authorization header
    context_limit: int = 0  # prompt tokens
    supports_json_schema: bool = True
    supports_batch: bool = True
    reasoning: str = "none"
    models: tuple[str, ...] = ()  # none: any model is known
    batch_seconds: float = 0.2

    def __post_init__(self) -> None:
        shares = (self.error_share, self.hang_share, self.cut_share, self.nonsense_share)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(f"the shares of the faults must be a partition: {shares}")
        if self.reasoning not in REASONING:
            raise ValueError(f"reasoning is {self.reasoning!r}, not one of {REASONING}")
        if self.retry_after not in RETRY_AFTER:
            raise ValueError(f"retry_after is {self.retry_after!r}, not one of {RETRY_AFTER}")

    def changed(self, changes: Mapping[str, Any]) -> Behaviour:
        """This behaviour with some fields set from JSON.

        Raises:
            ValueError: a name is unknown or a value has the wrong type.
        """
        defaults = {one.name: one.default for one in fields(self)}
        clean = {}
        for name, value in changes.items():
            if name not in defaults:
                raise ValueError(f"unknown behaviour {name!r}; known: {', '.join(defaults)}")
            clean[name] = _as_kind_of(defaults[name], value, name)
        return replace(self, **clean)


def _as_kind_of(default: object, value: Any, name: str) -> Any:
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        return tuple(str(one) for one in value)
    if isinstance(default, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise ValueError(f"{name} is {value!r}, not a {type(default).__name__}")
    return value


def add_options(parser: argparse.ArgumentParser) -> None:
    """One option for each field: `error_share` becomes `--error-share`."""
    for name, default in asdict(Behaviour()).items():
        option = "--" + name.replace("_", "-")
        if isinstance(default, bool):
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=default)
        elif isinstance(default, tuple):
            parser.add_argument(option, nargs="*", default=default)
        else:
            parser.add_argument(option, type=type(default), default=default)


def from_options(options: argparse.Namespace) -> Behaviour:
    """The behaviour that was asked for on the command line."""
    return Behaviour().changed({one.name: getattr(options, one.name) for one in fields(Behaviour)})


def as_options(behaviour: Behaviour) -> Sequence[str]:
    """The command line that gives this behaviour."""
    found: list[str] = []
    for name, value in asdict(behaviour).items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, tuple):
            found += [f"--{option}", *value]
        else:
            found.append(f"--{option}={value}")
    return found
