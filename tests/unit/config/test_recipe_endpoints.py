"""Recipes with models behind servers: addresses, keys, prices, and what a run may go on with."""

from __future__ import annotations

import traceback
from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from support.recipes import api, endpoint, refusal, refusal_of
from tapir.config.corpus import FileCorpusConfig
from tapir.config.endpoints import CallsConfig, EndpointConfig
from tapir.config.evaluation import JudgedEvaluationConfig
from tapir.config.recipe import Recipe
from tapir.config.toml import as_toml, load, parse
from tapir.config.training import SftConfig
from tapir.domain.errors import RecipeError

PASTED = [
    "sk-proj-abc123",
    "sk-" + "a" * 40,
    "A" * 61,
    "abcdef12-3456-7890-abcd-ef1234567890",
    "hf_" + "aB3" * 11,
    "AIza" + "Sy4" * 12,
    "no name at all",
    "a.b",
]

FREE: dict[str, object] = {"price_input": 0.0, "price_output": 0.0}


def with_endpoint(**changed: object) -> dict[str, Any]:
    return api(endpoints={"gpt": endpoint(**changed)})


# Keys


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "_key2", "a", ""])
def test_a_key_is_named_by_its_environment_variable(name: str) -> None:
    assert parse(with_endpoint(key=name)).endpoints["gpt"].key == name


@pytest.mark.parametrize("pasted", PASTED)
def test_a_key_pasted_where_its_name_belongs_is_refused_and_shown_nowhere(pasted: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(with_endpoint(key=pasted))
    told = "".join(traceback.format_exception(caught.value))
    assert "endpoints.gpt.key: " in told
    assert "environment variable" in told
    assert pasted not in told
    assert repr(pasted) not in told


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (with_endpoint(key=["sk-proj-abc"]), "endpoints.gpt.key"),
        (with_endpoint(key={"value": "sk-proj-abc"}), "endpoints.gpt.key"),
        (with_endpoint(key=5), "endpoints.gpt.key"),
        (with_endpoint(api_key="sk-proj-abc"), "endpoints.gpt.api_key: no such key; did you mean key?"),
        ({"endpoints": "sk-proj-abc"}, "must be a table"),
        ({"endpoints": {"gpt": "sk-proj-abc"}}, "must be a table"),
    ],
)
def test_a_key_of_another_type_or_in_another_place_is_not_shown_either(tables: dict[str, Any], message: str) -> None:
    text = refusal(tables)
    assert message in text
    assert "sk-proj" not in text


@pytest.mark.parametrize("key", ["endpoints.gpt.key", "name.key"])
def test_a_key_set_on_the_command_line_is_not_shown(key: str) -> None:
    assert "sk-proj" not in refusal_of("gym", f"{key}=sk-proj-abc")


def test_pydantic_itself_does_not_show_a_key() -> None:
    with pytest.raises(ValidationError) as caught:
        EndpointConfig(base_url="https://api.example.org", model="large", key="sk-proj-abc")
    assert "sk-proj" not in str(caught.value)


# Addresses


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
        ("http://localhost:8000/v1//", "http://localhost:8000/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("https://my-own-host.example.org/a-long/path-with-0123456789-signs", None),
    ],
)
def test_an_address_is_read_without_its_last_slash(written: str, read: str | None) -> None:
    assert parse(with_endpoint(base_url=written)).endpoints["gpt"].base_url == (read or written)


@pytest.mark.parametrize("address", ["api.openai.com/v1", "ftp://host/v1", "https://", "https:///v1", "http://a b", ""])
def test_an_address_that_is_none_is_named(address: str) -> None:
    assert f"endpoints.gpt.base_url = {address!r}: must start with http:// or https://" in refusal(
        with_endpoint(base_url=address)
    )


@pytest.mark.parametrize(
    "address", ["https://me:hunter2@host/v1", "https://hunter2@host/v1", "https://host/v1?key=hunter2", "sk-hunter2"]
)
def test_an_address_with_a_secret_is_refused_and_not_shown(address: str) -> None:
    message = refusal(with_endpoint(base_url=address))
    assert "endpoints.gpt.base_url: must be an address" in message
    assert "environment variable" in message
    assert "hunter2" not in message


# Fields of the request


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        *(
            ({name: 1}, f"{name} is not taken")
            for name in ("model", "messages", "stream", "n", "max_tokens", "temperature")
        ),
        *(({name: "sk-proj-abc"}, f"{name} is not taken") for name in ("api_key", "api-key", "Authorization")),
        *(({"stop": value}, "null is not taken") for value in (None, [1, None], {"a": {"b": None}})),
    ],
)
def test_a_field_that_a_call_sets_a_credential_or_null_is_not_taken_as_extra(
    extra: dict[str, Any], message: str
) -> None:
    text = refusal(with_endpoint(extra=extra))
    assert f"endpoints.gpt.extra: {message}" in text
    assert "sk-proj" not in text


@pytest.mark.parametrize(
    ("value", "key"), [(float("nan"), "top_p = nan"), ([float("inf")], "top_p.0 = inf"), (date(2024, 5, 1), "top_p = ")]
)
def test_a_value_that_json_has_not_is_not_taken_as_extra(value: object, key: str) -> None:
    assert f"endpoints.gpt.extra.{key}" in refusal(with_endpoint(extra={"top_p": value}))


def test_extra_fields_are_written_as_one_line() -> None:
    recipe = parse(with_endpoint(extra={"reasoning": {"effort": "low", "odd key": [1, 2.5, True]}}))
    assert 'extra = {reasoning = {effort = "low", "odd key" = [1, 2.5, true]}}' in as_toml(recipe).splitlines()


# Limits and prices


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", ""),
        ("concurrency", -1),
        ("requests_per_minute", 1.5),
        ("timeout", 0),
        ("price_input", -0.1),
        ("price_cached", float("inf")),
        ("max_tokens_field", "max_token"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_its_endpoint(key: str, value: object) -> None:
    assert f"endpoints.gpt.{key} = {value!r}" in refusal(with_endpoint(**{key: value}))


def test_a_batch_price_without_batches_is_refused() -> None:
    assert "endpoints.gpt: batch_price has no effect with batch = false" in refusal(with_endpoint(batch_price=0.4))
    assert parse(with_endpoint(batch=True, batch_price=0.4)).endpoints["gpt"].batch_price == 0.4


@pytest.mark.parametrize("price", ["price_input", "price_cached", "price_output"])
def test_a_limit_on_the_cost_needs_a_price(price: str) -> None:
    alone = refusal(with_endpoint(**{price: 0.1}))
    assert "endpoints.gpt has a price without price_" in alone
    assert ("price_input" in alone, "price_output" in alone) == (price != "price_input", price != "price_output")
    message = refusal(with_endpoint() | {"calls": {"max_cost": 5}})
    assert "calls.max_cost = 5 has no effect while every price is 0" in message
    assert parse(with_endpoint(**FREE | {price: 0.1}) | {"calls": {"max_cost": 5}}).calls.max_cost == 5


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"calls": {"attempts": 3}}, "calls has no effect without endpoints"),
        ({"prompts": {"judge": "mine.txt"}}, "prompts has no effect without endpoints"),
        (api(judge={"kind": "llm", "endpoints": ["gtp"]}), "there is no endpoint 'gtp'; did you mean gpt?"),
        (api(judge={"kind": "llm", "endpoints": ["other"]}), "no endpoint 'other'; add a table [endpoints.other]"),
        (api(endpoints={"gpt": endpoint(), "idle": endpoint()}), "endpoints.idle: no role uses it"),
        (api(teacher={"kind": "llm", "endpoints": ["gpt", "gpt"]}), "teacher.endpoints names 'gpt' 2 times"),
        (with_endpoint(modle="large"), "endpoints.gpt.modle: no such key; did you mean model?"),
        (api(endpoints={"gpt": {}}), "endpoints.gpt.base_url: is required"),
    ],
)
def test_endpoints_and_the_roles_that_use_them_fit_together(tables: dict[str, Any], message: str) -> None:
    assert message in refusal(tables)


@pytest.mark.parametrize("name", ["g p t", "gpt.4", "", "gpé", "[key]"])
def test_the_name_of_an_endpoint_has_letters_digits_and_two_signs_only(name: str) -> None:
    message = refusal(api(endpoints={name: endpoint()}))
    assert "names of endpoints have letters, digits, - and _ only" in message


# What a run may go on with

OTHER: dict[str, object] = {
    "base_url": "http://localhost:8000/v1",
    "model": "small",
    "key": "OTHER_KEY",
    "json_schema": True,
    "max_tokens_field": "max_completion_tokens",
    "thinking_tokens": 512,
    "extra": {"seed": 3},
    "concurrency": 4,
    "requests_per_minute": 60,
    "tokens_per_minute": 1000,
    "timeout": 10.0,
    "stream": False,
    "idle_timeout": 10.0,
    "price_input": 1.0,
    "price_cached": 0.5,
    "price_output": 2.0,
    "batch": False,
    "batch_price": 0.25,
}


COMPUTED = {"model", "json_schema", "max_tokens_field", "thinking_tokens", "extra"}


@pytest.mark.parametrize("key", EndpointConfig.model_fields)
def test_another_run_is_one_with_another_model_or_other_replies_and_no_other(key: str) -> None:
    used = FREE | {"batch": True, "stream": True}  # so that no key is idle
    before, after = parse(with_endpoint(**used)), parse(with_endpoint(**used | {key: OTHER[key]}))
    assert before != after
    differing = after.differences(before.resolved())
    assert [line.split(":")[0].split(".")[2] for line in differing] == ([key] if key in COMPUTED else [])
    assert (before.identity() == after.identity()) == (key not in COMPUTED)


@pytest.mark.parametrize("section", [EndpointConfig, CallsConfig, FileCorpusConfig, JudgedEvaluationConfig, Recipe])
def test_operational_keys_are_keys(
    section: type[EndpointConfig | CallsConfig | FileCorpusConfig | JudgedEvaluationConfig | Recipe],
) -> None:
    assert section.operational <= section.model_fields.keys()


def test_what_a_recipe_is_known_by_holds_everything_else() -> None:
    recipe = load("gym")
    everything = recipe.resolved()
    assert everything.pop("prompts") == {}
    assert everything.pop("engine") == {"kind": "local"}
    training = {key: value for key, value in everything["training"].items() if key not in SftConfig.operational}
    assert recipe.identity() == {**everything, "calls": {}, "training": training}


def test_a_run_may_go_on_with_other_limits_for_its_calls_and_files_that_lie_elsewhere() -> None:
    def at(folder: str, **calls: object) -> Recipe:
        corpus = {"kind": "file", "path": f"{folder}/rows.jsonl"}
        evaluation = {"kind": "judged", "file": f"{folder}/more.jsonl"}
        prompts = {"judge-single": f"{folder}/judge.txt"}
        endpoints = {"gpt": endpoint(price_input=1.0, price_output=1.0)}
        return parse(api(corpus=corpus, evaluation=evaluation, prompts=prompts, endpoints=endpoints, calls=calls))

    before = at("here")
    limits = ({"max_cost": 5.0}, {"ledger": "shared.sqlite"}, {"attempts": 2})
    for after in (at("there"), *(at("here", **changed) for changed in limits)):
        assert before != after
        assert after.differences(before.resolved()) == []
        assert after.identity() == before.identity()


@pytest.mark.parametrize(("one", "other"), [("", "more.jsonl"), ("more.jsonl", "")])
def test_another_run_is_one_that_has_or_lacks_an_evaluation_file(one: str, other: str) -> None:
    before, after = (parse(api(evaluation={"kind": "judged", "file": name})) for name in (one, other))
    assert after.differences(before.resolved()) != []
