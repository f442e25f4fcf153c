"""Words of servers that refuse a request, and the setting each is about."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.calling import endpoint
from tapir.models.api.refusals import error_message, refuses_schema, remedy

ONLY_DEFAULT = (
    "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) value is supported."
)
OTHER_FIELD = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
)
ROUTED = json.dumps({"error": {"message": ONLY_DEFAULT}})
DETAIL = [{"loc": ["body", "logprobs"], "msg": "Extra inputs are not permitted"}]


@pytest.mark.parametrize(
    ("content", "setting"),
    [
        ({"error": {"message": ONLY_DEFAULT, "param": "temperature"}}, "temperature = false"),
        ({"error": {"message": "Unsupported value", "param": "temperature"}}, "temperature = false"),
        ({"message": "temperature must be 1", "param": None, "code": 400}, "temperature = false"),
        ({"error": {"message": OTHER_FIELD}}, 'endpoints.e.max_tokens_field = "max_completion_tokens"'),
        ({"error": {"message": "max_tokens is too large: 9000"}}, "Lower max_tokens"),
        ({"error": "json_schema is not supported by this model"}, "endpoints.e.json_schema = false"),
        ({"error": {"message": "Failed to parse grammar"}}, "endpoints.e.json_schema = false"),
        ({"detail": DETAIL}, "judge.expected_score = false"),
        ({"error": {"message": "reasoning_effort is not allowed"}}, "reasoning_effort in endpoints.e.extra"),
        ({"error": {"message": "The model `m` does not exist"}}, "endpoints.e.model"),
        ({"error": {"message": "Something else is wrong with this model"}}, ""),
        ({"error": {"message": None, "param": 3}}, ""),
        ([1], ""),
        ([], ""),
        ([{"error": {"message": "Unknown name at 'generation_config.response_schema'"}}], "json_schema = false"),
        ({"error": {"message": "Provider returned error", "metadata": {"raw": ROUTED}}}, "temperature = false"),
        (None, ""),
    ],
)
def test_the_remedy_names_the_setting_that_the_server_complains_of(content: Any, setting: str) -> None:
    message = error_message(json.dumps(content).encode())
    said = remedy("e", endpoint(extra={"reasoning_effort": "low"}), f"HTTP 400: {message}")
    assert setting in said
    assert bool(said) == bool(setting)
    assert refuses_schema(message) == ("json_schema" in said)


def test_an_error_page_is_said_by_its_title() -> None:
    page = b"<!DOCTYPE html>\n<!--[if lt IE 7]> <html> <![endif]-->\n<title>e.org | 502: Bad gateway</title>"
    assert error_message(page) == "e.org | 502: Bad gateway"


def test_a_server_without_the_newer_field_is_sent_the_older_one() -> None:
    e = endpoint(max_tokens_field="max_completion_tokens")
    assert 'max_tokens_field = "max_tokens"' in remedy("e", e, "max_completion_tokens: unknown field")
