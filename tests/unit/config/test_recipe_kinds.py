"""Recipes whose sections have several kinds: which fit together, what errors say, and the way there and back."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.recipes import api, endpoint, refusal, refusal_of
from tapir.config.corpus import GymCorpusConfig
from tapir.config.toml import as_toml, load, parse, without_idle

# Kinds


@pytest.mark.parametrize(
    ("section", "kind"),
    [("corpus", "gym"), ("teacher", "gym"), ("judge", "gym"), ("tagger", "tfidf"), ("evaluation", "gym")],
)
def test_a_section_that_names_no_kind_has_the_first(section: str, kind: str) -> None:
    assert getattr(parse({section: {}}), section).kind == kind


@pytest.mark.parametrize(
    ("section", "wrong", "right"),
    [
        ("corpus", "flie", "'file'"),
        ("teacher", "lm", "'llm'"),
        ("judge", "gymm", "'gym'"),
        ("tagger", "tf-idf", "'tfidf'"),
        ("evaluation", "judge", "'judged'"),
    ],
)
def test_a_wrong_kind_names_the_nearest_and_all_there_are(section: str, wrong: str, right: str) -> None:
    message = refusal({section: {"kind": wrong}})
    assert f"{section}.kind = {wrong!r}: must be " in message
    assert "'gym'" in message or section == "tagger"
    assert f"did you mean {right}?" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            api(judge={"kind": "llm", "endpoints": ["gpt"], "sampels": 3}),
            "judge.sampels: no such key; did you mean samples?",
        ),
        (api(corpus={"kind": "file", "path": "a", "colums": {}}), "corpus.colums: no such key; did you mean columns?"),
        (
            api(corpus={"kind": "file", "path": "a", "columns": {"reponse": "b"}}),
            "corpus.columns.reponse: no such key; did you mean response?",
        ),
        ({"curriculum": {"novelty": {"roge": 0.5}}}, "curriculum.novelty.roge: no such key; did you mean rouge?"),
        ({"calls": {"max_costs": 5}}, "calls.max_costs: no such key; did you mean max_cost?"),
        ({"corpus": {"path": "a"}}, "corpus.path: no such key; it belongs to kind = 'file'"),
        ({"corpus": {"limit": 3}}, "corpus.limit: no such key; it belongs to kind = 'file' or 'hub'"),
        ({"judge": {"endpoints": ["gpt"]}}, "judge.endpoints: no such key; it belongs to kind = 'llm' or 'custom'"),
    ],
)
def test_a_typo_names_the_nearest_key_of_its_kind(content: dict[str, Any], said: str) -> None:
    assert said in refusal(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (api(corpus={"kind": "file"}), "corpus.path: is required"),
        (api(corpus={"kind": "file", "path": ""}), "corpus.path = ''"),
        (api(teacher={"kind": "llm", "endpoints": []}), "teacher.endpoints = []: must have at least 1 item"),
        (api(teacher={"kind": "llm", "endpoints": "gpt"}), "teacher.endpoints = 'gpt': must be a list"),
        (api(teacher={"kind": "llm", "endpoints": ["gpt"], "temperature": 3}), "teacher.temperature = 3"),
        (api(corpus={"kind": "file", "path": "a", "limit": -1}), "corpus.limit = -1"),
        *(
            (
                api(corpus={"kind": "file", "path": "a", "limit": limit}),
                f"held_out = 200 of corpus.limit = {limit} leaves",
            )
            for limit in (100, 200)
        ),
        (api(evaluation={"kind": "judged", "held_out": 0}), "evaluation: held_out = 0 without a file"),
        (api(judge={"kind": "llm", "endpoints": ["gpt"], "rubrics": {"Math": 3}}), "judge.rubrics.Math = 3"),
        ({"corpus": "all"}, "corpus = 'all': must be a table"),
        ({"calls": 3}, "calls = 3: must be a table"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_its_key(content: dict[str, Any], said: str) -> None:
    assert said in refusal(content)


# What fits together


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"teacher": {"kind": "gym"}}, "teacher.kind = 'gym' beside corpus.kind = 'file'"),
        ({"judge": {"kind": "gym"}}, "judge.kind = 'gym' beside corpus.kind = 'file'"),
        ({"tagger": {"kind": "tfidf"}}, "tagger.endpoints = [] beside corpus.kind = 'file'"),
        ({"evaluation": {"kind": "gym"}}, "evaluation.kind = 'gym' beside corpus.kind = 'file'"),
        ({"corpus": {"kind": "gym"}}, "teacher.kind = 'llm' beside corpus.kind = 'gym'"),
        ({"corpus": {"kind": "gym"}}, "evaluation.kind = 'judged' beside corpus.kind = 'gym'"),
    ],
)
def test_the_gym_and_other_corpora_do_not_mix(changed: dict[str, Any], said: str) -> None:
    assert said in refusal(api(**changed))


def test_everything_that_does_not_fit_is_named_at_once() -> None:
    message = refusal({"corpus": {"kind": "file", "path": "rows.jsonl"}})
    assert [line.split(" ")[0] for line in message.splitlines()] == [
        "teacher.kind",
        "judge.kind",
        "tagger.endpoints",
        "evaluation.kind",
    ]


def test_a_language_model_may_judge_and_tag_the_gym() -> None:
    roles = {"kind": "llm", "endpoints": ["gpt"]}
    recipe = parse({"judge": roles, "tagger": roles, "endpoints": {"gpt": endpoint()}})
    assert isinstance(recipe.corpus, GymCorpusConfig)
    assert recipe.users().keys() == {"judge", "tagger"}


def test_samples_that_would_all_be_the_same_are_refused() -> None:
    judge = {"kind": "llm", "endpoints": ["gpt"], "samples": 3}
    assert "judge: samples = 3 with temperature = 0" in refusal(api(judge=judge))
    assert parse(api(judge=judge | {"temperature": 0.5})).judge.kind == "llm"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"tagger": {"max_tokens": 9}}, "tagger: max_tokens has no effect with endpoints = []"),
        (api(evaluation={"kind": "judged", "layout": "alpaca"}), 'evaluation: layout has no effect with file = ""'),
        (api(evaluation={"kind": "judged", "turns": "all"}), 'evaluation: turns has no effect with file = ""'),
        ({"training": {"scheduler": "constant", "warmup_share": 0.2}}, "warmup_share has no effect with scheduler"),
        ({"curriculum": {"novelty": {"rouge": 0.5}}}, 'curriculum.novelty: rouge has no effect with rule = "exact"'),
        ({"curriculum": {"refine": False, "refine_keep": "judge"}}, "refine_keep has no effect with refine = false"),
        (
            {"curriculum": {"expand": False, "expand_attempts": 2, "novelty": {}}},
            "expand_attempts has no effect with expand = false",
        ),
        (
            api(corpus={"kind": "file", "path": "a", "layout": "messages", "columns": {"input": "context"}}),
            "corpus: columns.input has no effect with layout = 'messages'",
        ),
        (
            api(corpus={"kind": "file", "path": "a", "layout": "alpaca", "columns": {"conversation": "turns"}}),
            "corpus: columns.conversation has no effect with layout = 'alpaca'",
        ),
    ],
)
def test_a_key_without_effect_is_refused_with_what_makes_it_so(content: dict[str, Any], said: str) -> None:
    assert said in refusal(content)


def test_a_recipe_of_an_earlier_version_is_read_without_the_keys_that_have_no_effect() -> None:
    now = parse(api(evaluation={"kind": "judged"}, training={"scheduler": "constant"}))
    before = now.resolved()
    before["training"]["warmup_share"], before["evaluation"]["turns"] = 0.05, "last"
    assert now.differences(before) != []
    assert without_idle(before) == now.resolved()
    assert without_idle(before | {"unknown": 1}) == now.resolved() | {"unknown": 1}
    assert before["evaluation"]["turns"] == "last"


def test_a_student_of_ones_own_with_other_options_is_another_student() -> None:
    custom = {"kind": "custom", "class": "mine:Student", "model": "nano"}
    one, other = (parse({"student": custom | {"options": {"a": a}}}) for a in (1, 2))
    assert one.differences(other.resolved()) == ["student.options.a: 2 -> 1"]
    vllm, restarted = (parse({"student": {"kind": "vllm", "options": [option]}}) for option in ("-a", "-b"))
    assert vllm.differences(restarted.resolved()) == []


# Changes of kind


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mine.toml"
    content = api(
        corpus={"kind": "file", "path": "rows.jsonl", "limit": 500},
        tagger={"kind": "tfidf", "endpoints": ["gpt"], "labelled": 30},
        curriculum={"refine_keep": "judge", "novelty": {"rule": "near", "rouge": 0.5}},
    )
    path.write_text(as_toml(parse(content)), encoding="utf-8")
    return str(path)


def test_a_change_of_kind_takes_the_keys_of_the_other_kind_away(file: str) -> None:
    assert load(file, ["tagger.kind=llm"]).tagger.kind == "llm"
    changed = load(file, ["corpus.kind=hub", "corpus.dataset=owner/name"]).corpus
    assert (changed.kind, getattr(changed, "limit", None)) == ("hub", 500)


def test_a_class_of_ones_own_gives_way_to_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    custom = {"kind": "custom", "class": "mine:Teacher", "options": {"a": 1}}
    path.write_text(as_toml(parse(api(teacher=custom))), encoding="utf-8")
    assert load(str(path), ["teacher.kind=llm", 'teacher.endpoints=["gpt"]']).teacher.kind == "llm"
    assert "corpus.class: no such key; it belongs to kind = 'custom'" in refusal({"corpus": {"class": "mine:Corpus"}})


def test_a_table_that_is_written_as_the_name_of_its_kind_can_be_changed_key_by_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    threshold = 'threshold = {rule = "quantile", value = 0.5}'
    path.write_text(f'engine = "ray"\n[curriculum]\ndifficulty = "length"\n{threshold}\n', encoding="utf-8")
    recipe = load(str(path), ["curriculum.difficulty.kind=pass-rate", "curriculum.difficulty.samples=8"])
    assert recipe.curriculum.difficulty.model_dump() == {"kind": "pass-rate", "samples": 8, "temperature": 0.8}
    assert load(str(path), ["engine.workers=3"]).engine.model_dump()["workers"] == 3


def test_a_table_changes_the_keys_it_names_and_leaves_the_others(file: str) -> None:
    changed = load(file, ["curriculum={rounds = 2, novelty = {rouge = 0.6}}"]).curriculum
    assert (changed.rounds, changed.refine_keep) == (2, "judge")
    assert changed.novelty.model_dump() == {"rule": "near", "rouge": 0.6, "minhash": 0.7}
    assert load(file, ["training.dpo={}"]).training.model_dump()["dpo"]["gap"] == 4.0
    hub = load(file, ['corpus={kind = "hub", dataset = "owner/name"}']).corpus
    assert (hub.kind, getattr(hub, "limit", None)) == ("hub", 500)
    launched = parse({"training": {"launch": {"kind": "accelerate", "processes": 2}}})
    assert parse(launched.resolved(), ['training.launch={kind = "here"}']).training.model_dump()["launch"] == {
        "kind": "here"
    }


def test_a_change_does_not_excuse_another_change_without_effect(file: str) -> None:
    message = refusal_of(file, "curriculum.refine=false", "curriculum.refine_keep=judge")
    assert "refine_keep has no effect with refine = false" in message
    message = refusal_of(file, "curriculum.expand=false", "curriculum.expand_attempts=2")
    assert "expand_attempts has no effect with expand = false" in message
    assert "tagger.labelled: no such key" in refusal_of(file, "tagger.kind=llm", "tagger.labelled=50")


def test_a_change_of_kind_does_not_excuse_a_typo_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[curriculum.schedule]\nkind = 'paper'\nstrat = 0.3\n", encoding="utf-8")
    message = refusal_of(str(path), "curriculum.schedule.kind=linear", "curriculum.schedule.end=1.0")
    assert "curriculum.schedule.strat: no such key; did you mean start?" in message


# There and back

names = st.text("abcXYZ019_-", min_size=1, max_size=6)
texts = st.text(min_size=1, max_size=8)
shares = st.floats(0, 1)
counts = st.integers(1, 10**6)
money = st.floats(0, 1e6)
plain = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
json_values = st.recursive(
    plain, lambda one: st.lists(one, max_size=3) | st.dictionaries(texts, one, max_size=3), max_leaves=6
)


def table(required: dict[str, Any], **optional: Any) -> st.SearchStrategy[dict[str, Any]]:
    always = {key: value if isinstance(value, st.SearchStrategy) else st.just(value) for key, value in required.items()}
    return st.fixed_dictionaries(always, optional=optional)


optional: dict[str, Any] = {
    "key": st.sampled_from(["", "OPENAI_API_KEY", "_k1"]),
    "json_schema": st.booleans(),
    "max_tokens_field": st.sampled_from(["max_tokens", "max_completion_tokens"]),
    "extra": st.dictionaries(texts.map("x{}".format), json_values, max_size=3),
    "concurrency": st.integers(0, 999),
    "timeout": st.floats(0, 1e4, exclude_min=True),
    "price_cached": st.none() | money,
}
always: dict[str, Any] = {"model": texts, "price_input": money, "price_output": money}
servers = table({"base_url": "http://localhost:8000/v1"} | always, **optional) | table(
    {"base_url": "https://a-b.example/v1/", "batch": True} | always, batch_price=shares, **optional
)
readable: dict[str, Any] = {
    "layout": st.sampled_from(["auto", "alpaca"]),
    "columns": table({}, instruction=texts, input=st.text(max_size=5), response=texts, category=st.text(max_size=5)),
}
rows = readable | {"answers": st.sampled_from(["corpus", "missing", "teacher"]), "limit": st.integers(10**3, 10**9)}
corpora = st.one_of(
    table({"kind": "file", "path": texts}, **rows),
    table({"kind": "hub", "dataset": texts}, split=texts, revision=st.text(max_size=5), **rows),
)
gym_corpora = table({}, kind=st.just("gym"), size=st.integers(50, 10**6), skew=st.floats(0, 3), skills=st.lists(texts))
evaluations = st.one_of(
    table({"kind": "judged"}, held_out=st.integers(1, 999)),
    table({"kind": "judged", "file": texts}, held_out=st.integers(0, 999), **readable),
)
schedules = st.one_of(
    table({}, start=shares, step=shares),
    table({"kind": "constant", "share": shares}),
    table({"kind": "linear", "start": shares, "end": shares}),
)
plans = st.one_of(
    table({"variant": "single-round"}, size=counts),
    table(
        {},
        rounds=st.integers(1, 9),
        schedule=schedules,
        novelty=st.one_of(table({}, rule=st.just("exact")), table({"rule": "near"}, rouge=shares, minhash=shares)),
        refine_keep=st.sampled_from(["always", "judge"]),
    ),
    table(
        {"expand": False, "refine": False, "novelty": {"rule": "near"}},
        rescoring=st.sampled_from(["once", "every-round"]),
    ),
    table(
        {"schedule": {"kind": "competence"}, "rescoring": "every-round"},
        compare=st.lists(st.sampled_from(["ifd", "pass-rate", "length"]), unique=True),
        threshold=st.floats(3, 9).map(lambda most: {"most": most}),
        repeats=st.sampled_from(["drawn", "last"]),
    ),
)


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, Any]:
    """Tables of a recipe that is right, of every kind."""
    endpoints = draw(st.dictionaries(names, servers, max_size=3))
    if len(endpoints) > 1:  # one that sends batches is shared with nobody
        batching = {"batch", "batch_price"}
        endpoints = {
            name: {key: value for key, value in one.items() if key not in batching} for name, one in endpoints.items()
        }
    content: dict[str, Any] = {
        "name": draw(st.text(min_size=1, max_size=9)),
        "curriculum": draw(plans),
        "endpoints": endpoints,
    }
    if not endpoints:
        return content | {"corpus": draw(gym_corpora)}
    everyone = draw(st.permutations(list(endpoints)))
    some = st.lists(st.sampled_from(everyone), min_size=1, unique=True)
    rubrics = st.dictionaries(st.text(max_size=5), texts, max_size=3)
    verdicts = {"mode": st.sampled_from(["pairwise", "single"]), "rubrics": rubrics, "null_answers": st.integers(0, 9)}
    alone = table({"kind": "llm", "endpoints": everyone}, **verdicts)
    sampled = table(
        {"kind": "llm", "endpoints": everyone, "samples": counts, "temperature": st.floats(0.1, 2)}, **verdicts
    )
    content |= {
        "judge": draw(alone | sampled),
        "prompts": draw(st.dictionaries(st.text(max_size=5), texts, max_size=2)),
    }
    content["calls"] = draw(table({}, ledger=st.text(max_size=5), attempts=counts))
    if draw(st.booleans()):
        return content | {"corpus": draw(gym_corpora)}
    taggers = st.one_of(
        table({"kind": "llm", "endpoints": some}, max_tokens=counts),
        table({"endpoints": some}, labelled=st.integers(20, 10**4), max_tokens=counts),
    )
    return content | {
        "corpus": draw(corpora),
        "teacher": draw(table({"kind": "llm", "endpoints": some}, temperature=st.floats(0, 2), new_per_call=counts)),
        "tagger": draw(taggers),
        "evaluation": draw(evaluations),
    }


@given(recipes())
def test_a_recipe_written_as_toml_is_read_back_as_the_same_recipe(content: dict[str, Any]) -> None:
    recipe = parse(content)
    again = parse(tomllib.loads(as_toml(recipe)))
    assert again == recipe
    assert as_toml(again) == as_toml(recipe)


@given(recipes())
def test_a_recipe_resolved_to_json_is_read_back_as_the_same_recipe(content: dict[str, Any]) -> None:
    recipe = parse(content)
    written = json.loads(json.dumps(recipe.resolved(), allow_nan=False))
    again = parse(written)
    assert again == recipe
    assert again.resolved() == written
    assert recipe.differences(written) == []
    assert again.identity() == recipe.identity()


def test_a_written_recipe_has_a_place_for_what_it_does_not_say() -> None:
    text = as_toml(parse(api()))
    for line in ("# price_cached =", "[prompts]", "[judge.rubrics]", "[endpoints.gpt]", "extra = {}"):
        assert line in text.splitlines()
    added = text + '\n"judge" = "mine.txt"\n'
    assert parse(tomllib.loads(added)).prompts == {"judge": "mine.txt"}
