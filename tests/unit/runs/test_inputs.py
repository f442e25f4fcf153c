"""The files a recipe names: what they are known by, and what is said where they cannot be used."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from support import encoders
from support.alpaca import rows
from support.recipes import api
from support.training import NANO
from tapir.config.recipe import Recipe
from tapir.config.toml import parse
from tapir.data.files import existing, read_json
from tapir.data.run.rows import CorpusRow
from tapir.data.run.store import RunStore
from tapir.domain.errors import DataError, RecipeError, RoleError, RunMismatch, StoreError, TrainingError
from tapir.domain.instruction import Pair
from tapir.domain.roles import Rejected, Roles
from tapir.runs import session
from tapir.runs.build import build_roles
from tapir.runs.corpus import forbidden, taxonomy
from tapir.runs.plan import plan


def recipe(folder: Path, **changed: object) -> Recipe:
    folder.mkdir(exist_ok=True)
    for name in ("rows", "more"):
        if not (folder / f"{name}.json").exists():
            (folder / f"{name}.json").write_text(json.dumps(rows(12)), encoding="utf-8")
    tables: dict[str, Any] = {
        "corpus": {"kind": "file", "path": str(folder / "rows.json")},
        "evaluation": {"kind": "judged", "held_out": 0, "file": str(folder / "more.json")},
        "curriculum": {"target": {"taxonomy": "paper"}},
        "tagger": {"kind": "llm", "endpoints": ["gpt"]},
    }
    return parse(api(**tables | changed))


def roles(folder: Path, **changed: object) -> Roles:
    return build_roles(recipe(folder, **changed))


def test_files_are_known_by_their_role_and_content_and_not_by_their_place(tmp_path: Path) -> None:
    here, there = roles(tmp_path / "here"), roles(tmp_path / "there")
    assert {"corpus.path", "evaluation.file"} <= here.inputs.keys()
    assert here.inputs == there.inputs
    (tmp_path / "there" / "more.json").write_text(json.dumps(rows(13)), encoding="utf-8")
    changed = roles(tmp_path / "there").inputs
    assert {key for key in changed if changed[key] != here.inputs[key]} == {"evaluation.file"}


def test_a_taxonomy_in_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.toml").write_text('name = "mine"\nversion = "1"\n[shares]\nMath = 1.0\n', encoding="utf-8")
    assert taxonomy(recipe(tmp_path, curriculum={"target": {"taxonomy": "~/t.toml"}})).labels == ("Math",)


def test_a_taxonomy_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('name = "mine"\nversion = "1"\n[shares]\nMath = 1.0\n', encoding="utf-8-sig")
    target = {"taxonomy": str(tmp_path / "t.toml")}
    assert taxonomy(recipe(tmp_path, curriculum={"target": target})).labels == ("Math",)


def test_a_taxonomy_of_many_labels_is_refused_only_where_each_keeps_a_minimum(tmp_path: Path) -> None:
    shares = "".join(f"t{number} = 0.005\n" for number in range(200))
    (tmp_path / "t.toml").write_text(f'name = "mine"\nversion = "1"\n[shares]\n{shares}', encoding="utf-8")
    target = {"taxonomy": str(tmp_path / "t.toml")}
    assert len(taxonomy(recipe(tmp_path, curriculum={"target": target})).labels) == 200
    with pytest.raises(RecipeError, match=r"minimum = 0\.01 for 200 tasks is more than everything"):
        taxonomy(recipe(tmp_path, curriculum={"target": target | {"shares": "room"}}))


def test_what_is_measured_has_the_same_name_wherever_its_file_lies(tmp_path: Path) -> None:
    (tmp_path / "held-out.json").write_text(json.dumps(rows(12)), encoding="utf-8")
    evaluation = {"kind": "judged", "held_out": 3, "file": str(tmp_path / "held-out.json")}
    assert [one.name for one in roles(tmp_path, evaluation=evaluation).benchmarks] == ["held-out", "file"]


@pytest.mark.parametrize(
    ("key", "evaluation"),
    [("protect", {"kind": "judged", "held_out": 3}), ("prompts", {"kind": "alpaca_eval", "baseline": "more.json"})],
)
def test_a_run_whose_evaluation_file_is_left_out_later_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, evaluation: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    named = recipe(tmp_path, evaluation=evaluation | {key: ["more.json"] if key == "protect" else "more.json"})
    session.claim(named, tmp_path / "run", build_roles(named))
    RunStore(tmp_path / "run").write("corpus", CorpusRow, [])
    left_out = recipe(tmp_path, evaluation=evaluation)
    with pytest.raises(RunMismatch, match=rf"the content of evaluation\.{key}"):
        session.claim(left_out, tmp_path / "run", build_roles(left_out))


def test_a_run_whose_data_set_changes_so_that_other_rows_are_held_out_is_another_run(tmp_path: Path) -> None:
    def chosen() -> tuple[Recipe, Roles]:
        corpus, held_out = {"kind": "hub", "dataset": str(data)}, {"kind": "judged", "held_out": 3}
        made = recipe(tmp_path / "files", corpus=corpus, evaluation=held_out)
        return made, build_roles(made)

    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    (data / "train.json").write_text(json.dumps(rows(12)), encoding="utf-8")
    made, first = chosen()
    session.claim(made, run, first)
    RunStore(run).write("corpus", CorpusRow, [])
    session.claim(made, run, chosen()[1])
    (data / "train.json").write_text(json.dumps(rows(40)), encoding="utf-8")
    other = chosen()[1]
    assert [each.prompts() for each in other.benchmarks] != [each.prompts() for each in first.benchmarks]
    with pytest.raises(RunMismatch, match="the held-out instructions: their source has other rows now"):
        session.claim(made, run, other)
    manifest = read_json(run / "manifest.json")
    del manifest["held_out"]  # as an earlier version wrote it
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    session.claim(made, run, other)


@pytest.mark.parametrize("key", ["corpus.path", "evaluation.file"])
def test_a_file_that_is_not_there_is_named_by_its_key(key: str, tmp_path: Path) -> None:
    section, name = key.split(".")
    kind = {"corpus": "file", "evaluation": "judged"}[section]
    with pytest.raises(RecipeError, match=f"^{key} = .*there is no such file"):
        roles(tmp_path, **{section: {"kind": kind, name: "nowhere.json"}})
    with pytest.raises(RecipeError, match=f"^{key} = .*this is a folder, not a file"):
        roles(tmp_path, **{section: {"kind": kind, name: str(tmp_path)}})


def test_a_file_without_permission_is_told_from_one_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.json").write_text("[]", encoding="utf-8")

    def refuse(path: Path, *_: object) -> None:  # root may read everything
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RecipeError, match=r"corpus\.path = .*it cannot be read \(Permission denied\)") as caught:
        existing("corpus.path", str(tmp_path / "secret.json"))
    assert "Make it readable" in caught.value.remedy


def test_a_template_can_be_mended_until_the_first_training(tmp_path: Path) -> None:
    (tmp_path / "broken.jinja").write_text("{{ messages }}", encoding="utf-8")
    own, broken, other = (
        recipe(tmp_path, student={"chat_template": name}) for name in ("", str(tmp_path / "broken.jinja"), "alpaca")
    )
    session.claim(broken, tmp_path / "run", build_roles(broken))
    RunStore(tmp_path / "run").write("corpus", CorpusRow, [])
    session.claim(other, tmp_path / "run", build_roles(other))
    manifest = read_json(tmp_path / "run" / "manifest.json")
    assert "student.chat_template" not in manifest["inputs"]
    assert "-> alpaca" in manifest["mended"][0]
    (tmp_path / "run" / "round-1").mkdir()
    (tmp_path / "run" / "round-1" / "training.json").write_text("{}", encoding="utf-8")
    session.claim(other, tmp_path / "run", build_roles(other))
    with pytest.raises(RunMismatch, match=r"student\.chat_template: alpaca -> "):
        session.claim(own, tmp_path / "run", build_roles(own))


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}", encoding="utf-8")


@pytest.mark.parametrize(
    ("key", "value", "end"),
    [
        ("training", {"max_length": 64, "lora": {"targets": ["q_proj"]}, "method": "lora"}, "round-1/training.json"),
        ("training", {"batch_size": 8}, "round-1/training/checkpoint-50"),
        ("training", {"dpo": {"gap": 5.0}}, "round-1/training/examples/checkpoint-2"),
        ("tagger", {"endpoints": ["gpt"], "labelled": 900}, "round-0/tagger.json"),
        ("student", {"max_new_tokens": 64}, "round-0/tagger.json"),
    ],
)
def test_a_setting_can_be_mended_while_nothing_depends_on_it(
    tmp_path: Path, key: str, value: dict[str, Any], end: str
) -> None:
    first, run = {"tagger": {"endpoints": ["gpt"]}}, tmp_path / "run"
    before, after = recipe(tmp_path, **first), recipe(tmp_path, **{**first, key: value})
    session.claim(before, run, build_roles(before))
    RunStore(run).write("corpus", CorpusRow, [])
    labels, contrasts = run / "round-0" / "labels.parts.jsonl", run / "round-1" / "contrasts.parquet"
    begun = run / "round-1" / "training" / "epoch-1" / "weights.bin"  # of a program of the user's
    touch(labels, contrasts, begun)
    session.claim(after, run, build_roles(after))
    assert session.stored_recipe(run) == after
    assert f"{key}." in read_json(run / "manifest.json")["mended"][0]
    assert (labels.exists(), contrasts.exists()) == (key != "tagger", key != "training")
    assert begun.exists() == (key != "training")
    touch(run / end)
    with pytest.raises(RunMismatch, match=rf"{key}\."):
        session.claim(before, run, build_roles(before))


def test_a_run_of_another_version_is_said_to_be_one(tmp_path: Path) -> None:
    chosen, run = recipe(tmp_path), tmp_path / "run"
    session.claim(chosen, run, build_roles(chosen))
    stored = read_json(run / "recipe.json")
    with pytest.raises(RecipeError, match=r"curriculum\.sise: no such key"):
        session.stored_recipe(run, ["curriculum.sise=3"])
    stored["curriculum"]["brandnew"] = 1
    (run / "recipe.json").write_text(json.dumps(stored), encoding="utf-8")
    (run / "manifest.json").write_text(json.dumps({"tapir": "9.1"}), encoding="utf-8")
    for changes in ([], ["curriculum.size=3"]):
        with pytest.raises(StoreError, match=r"recipe\.json was written by tapir 9\.1, and .* cannot") as caught:
            session.stored_recipe(run, changes)
        assert "curriculum.brandnew: no such key" in str(caught.value)
        assert "tapir 9.1" in caught.value.remedy


def test_a_corpus_too_small_for_the_tagger_is_refused_before_any_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    trained, held_out = {"tagger": {"endpoints": ["gpt"]}}, {"kind": "judged", "held_out": 4}
    few = recipe(tmp_path, evaluation=held_out, **trained)
    for start in (session.check, plan, lambda chosen: session.run(chosen, tmp_path / "run")):
        with pytest.raises(DataError, match=r"^8 instructions, .*too few.*: in an evaluation set \(4\)") as caught:
            start(few)
        assert "lower evaluation.held_out" in caught.value.remedy
    assert session.check(recipe(tmp_path, evaluation=held_out))[0] == "corpus: 8 instructions"


def test_a_corpus_whose_answers_stand_in_an_unread_column_is_refused_before_anything_else(tmp_path: Path) -> None:
    rows = [{"instruction": f"Add 2 and {number}.", "passage": "", "reply": "So many."} for number in range(9)]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    corpus = {"kind": "file", "path": str(tmp_path / "rows.json")}
    with pytest.raises(DataError, match="none of its 9 rows is an instruction with an answer") as caught:
        plan(recipe(tmp_path, corpus=corpus))
    assert "corpus.columns" in caught.value.remedy
    assert "columns not read: passage, reply" in caught.value.remedy
    assert plan(recipe(tmp_path, corpus=corpus | {"answers": "teacher"}))


THINKS = (
    "{% for m in messages %}<{{ 'user' if m.role == 'user' else 'answer' }}>{{ m.content }}"
    "{{ '</s>' if m.role == 'assistant' }}{% endfor %}{{ '<answer><think>\n' if add_generation_prompt }}"
)


def test_a_template_that_cannot_be_trained_with_is_refused_before_any_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt ends in words that the answer does not begin with; or in a thought, which may be wanted."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    (tmp_path / "thinks.jinja").write_text(THINKS.replace("<think>", "Well,"), encoding="utf-8")
    (tmp_path / "student").mkdir()
    shutil.copytree(NANO.path, tmp_path / "student", dirs_exist_ok=True)
    student = {"model": str(tmp_path / "student"), "chat_template": str(tmp_path / "thinks.jinja")}
    chosen = recipe(tmp_path, student=student, evaluation={"kind": "judged", "held_out": 3})
    with pytest.raises(TrainingError, match="does not keep the prompt") as caught:
        session.check(chosen)
    assert "student.chat_template" in caught.value.remedy
    with pytest.raises(TrainingError, match="does not keep the prompt"):
        session.run(chosen, tmp_path / "run")  # nothing listens at the endpoint: a call would be another error
    assert any("does not keep the prompt" in one for one in plan(chosen, measure=False).obstacles)
    (tmp_path / "thinks.jinja").write_text(THINKS, encoding="utf-8")
    with pytest.raises(RoleError, match="begins a thought \\(<think>\\) and has no switch") as refused:
        session.check(chosen)
    assert 'student.thinking to "on"' in refused.value.remedy
    room = {"thinking_tokens": 64}
    for able in ({"chat_template": ""}, {"thinking": "on"} | room, {"thinking": "keep"} | room):
        whole = recipe(tmp_path, student=student | able, evaluation={"kind": "judged", "held_out": 3})
        assert session.check(whole)[0] == "corpus: 9 instructions"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with an encoder in it, a classifier of three labels, and no network."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    encoders.modernbert(tmp_path / "encoder", head=False)
    encoders.modernbert(tmp_path / "classifier", dict(enumerate(encoders.LABELS)))
    shutil.copytree(tmp_path / "encoder", tmp_path / "sum")
    (tmp_path / "sum" / "modules.json").write_text('[{"type": "models.Pooling", "path": "pooling"}]', encoding="utf-8")
    (tmp_path / "sum" / "pooling").mkdir()
    (tmp_path / "sum" / "pooling" / "config.json").write_text('{"pooling_mode": "sum"}', encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("tagger", "said"),
    [
        ({"kind": "encoder", "model": "~/nothing"}, "from .*/nothing: there is no such folder"),
        ({"kind": "embedding", "model": "~/nothing"}, "from .*/nothing: there is no such folder"),
        ({"kind": "encoder", "model": "someone/nothing"}, "no encoder can be loaded from someone/nothing"),
        ({"kind": "embedding", "model": "someone/nothing"}, "no encoder can be loaded from someone/nothing"),
        ({"kind": "embedding", "model": "~/sum", "max_length": 64}, "by sum; mean, cls and lasttoken"),
        ({"kind": "encoder", "model": "~/encoder", "max_length": 65}, "tagger.max_length = 65"),
        ({"kind": "embedding", "model": "~/encoder", "max_length": 65}, "tagger.max_length = 65"),
        ({"kind": "encoder", "model": "~/classifier", "max_length": 64, "labelled": 0}, "not those of the taxonomy"),
    ],
)
def test_a_tagger_that_cannot_be_loaded_is_refused_before_any_call(
    home: Path, tagger: dict[str, Any], said: str
) -> None:
    labels = {} if "labelled" in tagger else {"endpoints": ["gpt"]}
    chosen = recipe(home, tagger=tagger | labels, evaluation={"kind": "judged", "held_out": 3})
    with pytest.raises(RoleError, match=said):
        session.check(chosen)
    with pytest.raises(RoleError, match=said):
        session.run(chosen, home / "run")  # nothing listens at the endpoint: a call would be another error
    assert not (home / "run").exists()


@pytest.mark.parametrize("kind", ["encoder", "embedding"])
def test_a_tagger_in_the_home_folder_is_found_and_a_run_that_has_fitted_it_is_not_asked_again(
    home: Path, kind: str
) -> None:
    tagger = {"kind": kind, "model": "~/encoder", "max_length": 64, "endpoints": ["gpt"], "held_out": 0.1}
    chosen = recipe(home, tagger=tagger, evaluation={"kind": "judged", "held_out": 1})
    assert session.check(chosen)[0] == "corpus: 11 instructions"
    shutil.rmtree(home / "encoder")
    with pytest.raises(RoleError, match="no encoder can be loaded"):
        session.preflight(chosen, home / "run")
    (home / "run" / "round-0").mkdir(parents=True)
    (home / "run" / "round-0" / "tagger.json").touch()
    session.preflight(chosen, home / "run")


def test_rows_with_a_special_token_of_the_student_are_dropped_before_anything_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    answers = {"A": "b.</s>", "C": "d.<|endoftext|>", "E <user> F": "g", "H": "i"}  # one token is not this student's
    content = [{"instruction": text, "output": answer, "more": ""} for text, answer in answers.items()]
    recipe(tmp_path)
    (tmp_path / "rows.json").write_text(json.dumps(content), encoding="utf-8")
    chosen = recipe(tmp_path, evaluation={"kind": "judged", "held_out": 1})
    lines = session.check(chosen)
    assert lines[0] == "corpus: 1 instructions"
    assert {*lines[1:5]} == {
        "  1 rows dropped: in an evaluation set",
        "  1 rows dropped: special token </s>",
        "  1 rows dropped: special token <user>",
        "  columns not read: more",
    }
    asked = recipe(
        tmp_path,
        evaluation={"kind": "judged", "held_out": 1},
        corpus={"kind": "file", "path": str(tmp_path / "rows.json"), "answers": "teacher"},
    )
    assert session.check(asked)[0] == "corpus: 2 instructions"  # an answer that is replaced matters to nobody


def test_a_check_counts_what_the_run_drops_as_the_run_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    several: list[dict[str, Any]] = [*rows(12)]
    several += [several[0], {"instruction": "Add 2 and 70.", "output": ""}, {"instruction": 5, "output": "x"}]
    recipe(tmp_path)
    (tmp_path / "rows.json").write_text(json.dumps(several), encoding="utf-8")
    (tmp_path / "more.json").write_text(json.dumps(several[1:2]), encoding="utf-8")
    evaluation = {"kind": "judged", "held_out": 0, "file": str(tmp_path / "more.json")}
    lines = session.check(recipe(tmp_path, evaluation=evaluation))
    assert lines[0] == "corpus: 11 instructions"
    reasons = ("duplicate", "empty response", "instruction is not text", "in an evaluation set")
    assert {*lines[1:5]} == {f"  1 rows dropped: {reason}" for reason in reasons}
    (tmp_path / "rows.json").write_text(json.dumps(several[1:2] * 3), encoding="utf-8")
    with pytest.raises(DataError, match=r"nothing is left of the corpus: in an evaluation set \(3\)"):
        session.check(recipe(tmp_path, evaluation=evaluation))


@pytest.mark.parametrize("answers", ["corpus", "missing", "teacher"])
def test_of_conversations_the_teacher_answers_what_is_open_and_no_answer_has_a_thought_in_it(
    answers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    texts = [["Add 1.", "2"], ["Add 2.", "Add what to 2?", "One."], ["Add 3.", "3 and 1, so 4.\n</think>\n\n4"]]
    (tmp_path / "talks.json").write_text(json.dumps([{"data": each} for each in texts]), encoding="utf-8")
    corpus = {"kind": "file", "path": str(tmp_path / "talks.json"), "answers": answers, "limit": 0}
    asked = roles(tmp_path, corpus=corpus)
    found = {row.instruction.text: row.response.text for row in asked.corpus() if isinstance(row, Pair)}
    opened = {"Add 2.": "Add what to 2?"} if answers == "corpus" else {"One.": ""}
    third = {"Add 3.": texts[2][1]} if answers == "teacher" else {}
    assert found == {"Add 1.": "2"} | opened | third
    asked = roles(tmp_path, corpus=corpus, evaluation={"kind": "judged", "file": corpus["path"], "held_out": 0})
    prompts = [prompt.instruction.text for benchmark in asked.benchmarks for prompt in benchmark.prompts()]
    assert prompts[1] == ("One." if answers == "teacher" else "Add 2.")
    reasons = [row.reason for row in asked.corpus() if isinstance(row, Rejected)]
    assert reasons == ([] if answers == "teacher" else ["</think> ends a thought that has no beginning"])


def test_every_turn_of_an_evaluation_conversation_is_kept_out_of_training_but_a_few_words(tmp_path: Path) -> None:
    said = ["What is a tapir, please?", "An animal.", "Go on.", "It swims.", "Where do tapirs live?", "In forests."]
    turns = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]
    chosen = recipe(tmp_path)
    (tmp_path / "more.json").write_text(json.dumps([{"messages": turns}]), encoding="utf-8")
    index = forbidden(chosen, build_roles(chosen))
    assert all(index.find(text) for text in (said[0], said[4], "\n\n".join(said[::2])))
    assert not any(index.find(text) for text in (said[2], *said[1::2]))


def test_an_evaluation_file_with_a_bad_row_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    chosen = recipe(tmp_path)
    (tmp_path / "more.json").write_text(json.dumps([*rows(3), {"instruction": 7}]), encoding="utf-8")
    with pytest.raises(DataError, match=r"evaluation.file = .*1 of its rows cannot be read: more.json.*not text"):
        forbidden(chosen, build_roles(chosen))


def test_a_rubric_for_a_label_that_the_taxonomy_lacks_is_refused_with_the_nearest(tmp_path: Path) -> None:
    judge = {"kind": "llm", "endpoints": ["gpt"]}
    assert roles(tmp_path, judge=judge | {"rubrics": {"Math": "Is it right?"}})
    with pytest.raises(RecipeError, match="has no label 'Maths'; did you mean 'Math'"):
        roles(tmp_path, judge=judge | {"rubrics": {"Maths": "Is it right?"}})


def weights(folder: Path) -> Path:
    """Write a model folder that says it has a vocabulary of 1,000 and four square matrices of 1,000, but no numbers."""
    shapes = {"embedding": [1_000, 1_000], "norm": [1_000]} | {f"layer {place}": [1_000, 1_000] for place in range(4)}
    header = {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    (folder / "config.json").write_text('{"dtype": "bfloat16"}', encoding="utf-8")
    return folder


def test_the_disk_that_is_needed_goes_by_what_is_trained_and_in_which_precision(tmp_path: Path) -> None:
    def needed(**training: object) -> int:
        there, missing = ({"student": {"model": str(path)}} for path in (model, tmp_path / "missing"))
        return session.disk_needed(parse(there | {"training": training}), 0) - session.disk_needed(parse(missing), 0)

    model = weights(tmp_path / "model")
    assert needed() == 5_001_000 * 4 * (9 + 5)  # two saved states and a third, five checkpoints
    assert needed(precision="bfloat16") == 5_001_000 * (4 * 9 + 2 * 5)
    assert needed(method="lora") == needed(method="qlora") == 16 * 5 * 2_000 * 4 * (9 + 5)


def test_a_student_in_the_cache_of_the_hub_counts_and_one_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    student = {"student": {"model": "owner/model"}}
    (note,) = build_roles(recipe(tmp_path / "files", **student), encoded=False).notes
    assert "counted without owner/model" in note
    none = session.disk_needed(parse(student), 0)
    cache = tmp_path / "models--owner--model"
    weights(cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    assert session.disk_needed(parse(student), 0) - none == 5_001_000 * 4 * (9 + 5)
    assert build_roles(recipe(tmp_path / "files", **student), encoded=False).notes == []
