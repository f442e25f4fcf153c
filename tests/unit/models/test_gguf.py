"""A GGUF file as the student: converted once, by its content alone, or refused with what is wrong."""

from __future__ import annotations

import filecmp
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from support import small
from support.gguf_files import write_gguf
from support.paths import MODELS
from support.training import EXAMPLES, FULL, LORA, answers, train
from tapir.config.toml import load as load_recipe
from tapir.config.training import SftConfig
from tapir.data.files import locked
from tapir.domain.errors import MissingExtra, RecipeError, RoleError, RunMismatch
from tapir.domain.round import Checkpoint
from tapir.models.local import gguf
from tapir.models.local.gguf import convert, converted_folder
from tapir.models.local.loading import load
from tapir.report.export.cards import HubName
from tapir.runs import session
from tapir.runs.build import build_roles, check_installed
from tapir.runs.eval_target import resolve_target
from tapir.runs.plan import plan

pytest.importorskip("gguf", reason="the package gguf is not installed (extra train)")

TINY = ["evaluation.per_task=1", "evaluation.harder_per_task=0", "evaluation.unseen_per_task=0"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    return tmp_path / "cache" / "tapir" / "gguf"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf")


def test_a_gguf_file_becomes_the_model_that_transformers_reads_from_it(file: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, tokenizer = load(Checkpoint(str(convert(file)), 0))
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    ids = tokenizer("the <|im_end|>", return_tensors="pt")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids[0]) == ["the", "Ġ", "<|im_end|>"]
    torch.testing.assert_close(model(ids).logits, read(ids).logits, rtol=0, atol=0)
    assert (tokenizer.eos_token, model.generation_config.eos_token_id) == ("<|im_end|>", 2)
    assert not hasattr(model.config, "quantization_config")


def test_it_is_converted_once_and_another_file_of_its_name_again(file: Path, cache: Path) -> None:
    folder = convert(file)
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert convert(file) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    other = convert(write_gguf(file, seed=1))
    assert other != folder
    assert {path for path in cache.iterdir() if path.name != ".lock"} == {folder, other}


def test_the_file_alone_decides_not_its_name_or_what_lies_beside_it(file: Path, tmp_path: Path) -> None:
    folder, elsewhere = convert(file), tmp_path / "hub"
    elsewhere.mkdir()
    for name in ("config.json", "tokenizer_config.json", "adapter_config.json", "generation_config.json"):
        (elsewhere / name).write_text('{"vocab_size": 7}', encoding="utf-8")
    (elsewhere / "chat_template.jinja").write_text("no template", encoding="utf-8")
    again = convert(file.rename(elsewhere / "renamed.GGUF"))
    assert again.name.startswith("renamed-")
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert filecmp.cmpfiles(folder, again, names, shallow=False)[0] == names


def test_a_conversion_that_was_killed_is_made_anew(file: Path, cache: Path) -> None:
    draft = cache / f".{converted_folder(file).name}.draft"
    draft.mkdir(parents=True)
    (draft / "model.safetensors").write_bytes(b"half")
    assert (convert(file) / "config.json").is_file()
    assert not draft.exists()


def test_of_two_processes_one_converts_and_the_other_waits(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversions, write = list[Path](), gguf.write_model

    def counted(source: Path, folder: Path) -> None:
        conversions.append(source)
        write(source, folder)

    monkeypatch.setattr(gguf, "write_model", counted)
    cache.mkdir(parents=True)
    with ThreadPoolExecutor(2) as threads:
        with locked(cache):
            waiting = [threads.submit(convert, file) for _ in range(2)]
            assert not any(future.done() for future in waiting)
            assert conversions == []
        assert {future.result() for future in waiting} == {converted_folder(file)}
    assert conversions == [file]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"architecture": "plamo"}, "architecture plamo is not supported"),
        ({"without": ["tokenizer"]}, "Cannot build a tokenizer"),
        ({"without": ["blk.1.ffn_up.weight"]}, r"it lacks the weights model\.layers\.1\.mlp\.up_proj\.weight"),
        ({"extra": ["rope_freqs.weight"]}, r"transformers drops its rope_freqs\.weight, which scale positions"),
        ({"scaling": 4.0}, r"drops its llama\.rope\.scaling\.type = linear, llama\.rope\.scaling\.factor = 4\.0"),
        (lambda whole: whole[:3000], "it is cut short"),
        (lambda whole: whole[:-2000], "cannot reshape"),
        (lambda _: b"", "empty file"),
        (lambda _: b"version https://git-lfs", "not a GGUF file"),
    ],
    ids=["architecture", "tokenizer", "weights", "positions", "scaling", "header", "tensors", "empty", "pointer"],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(
    content: dict[str, Any] | Callable[[bytes], bytes], message: str, tmp_path: Path, cache: Path
) -> None:
    file = write_gguf(tmp_path / "bad.gguf", **({} if callable(content) else content))
    if callable(content):
        file.write_bytes(content(file.read_bytes()))
    with pytest.raises(RoleError, match=rf"(?s)no student can be made of .*bad\.gguf: .*{message}") as caught:
        convert(file)
    assert "name the folder or hub id" in caught.value.remedy
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_a_file_without_a_chat_template_is_a_base_model(tmp_path: Path) -> None:
    folder = convert(write_gguf(tmp_path / "base.gguf", without=["template"]))
    with pytest.raises(RoleError, match="has no chat template"):
        load(Checkpoint(str(folder), 0))


def test_the_package_it_takes_is_named_where_it_is_not_installed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("gym", [f"student.model={file}"])
    monkeypatch.setattr("tapir.domain.errors.find_spec", lambda name: None if name == "gguf" else name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gguf" else name)
    with pytest.raises(MissingExtra, match="gguf: not installed") as caught:
        convert(file)
    assert caught.value.remedy == "pip install 'tapir-distill[train]'"
    with pytest.raises(MissingExtra, match="needs gguf"):
        check_installed(recipe)
    planned = plan(recipe, measure=False)
    assert any("needs gguf" in obstacle for obstacle in planned.obstacles)


# In a recipe


def test_a_recipe_names_it_by_its_path_and_a_mistake_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(file.parent))
    recipe = load_recipe("gym", ["student.model=~/tiny.gguf", *TINY])
    assert build_roles(recipe).base == Checkpoint(str(converted_folder(file)), 0)
    with pytest.raises(RecipeError, match=r"student\.model = '~/tinny\.gguf': there is no such file"):
        build_roles(load_recipe("gym", ["student.model=~/tinny.gguf"]))
    with pytest.raises(RecipeError, match="revision"):
        load_recipe("gym", ["student.model=~/tiny.gguf", "student.revision=main"])


def test_another_file_of_its_name_is_another_run(file: Path, tmp_path: Path) -> None:
    recipe = load_recipe("gym", [f"student.model={file}", *TINY])
    session.claim(recipe, tmp_path / "run", build_roles(recipe))
    (tmp_path / "run" / "checksums.sha256").touch()
    session.claim(recipe, tmp_path / "run", build_roles(recipe))
    write_gguf(file, seed=1)
    with pytest.raises(RunMismatch, match=r"the content of student\.model"):
        session.claim(recipe, tmp_path / "run", build_roles(recipe))


def test_it_can_be_evaluated_and_its_digest_is_what_its_answers_depend_on(file: Path) -> None:
    target = resolve_target(str(file), "gym")
    assert target.checkpoint == Checkpoint(str(converted_folder(file)), 0)
    write_gguf(file, seed=1)
    assert resolve_target(str(file), "gym").facts["files"] != target.facts["files"]


def test_a_card_names_the_file_and_takes_it_for_no_id_of_a_hub() -> None:
    assert HubName.of("models/tiny.gguf") == HubName("tiny.gguf", hub=False)


@pytest.mark.parametrize("config", [FULL, LORA], ids=["full", "lora"])
def test_it_is_trained_and_its_checkpoint_is_a_folder_like_any_other(
    file: Path, config: SftConfig, tmp_path: Path
) -> None:
    base = Checkpoint(str(convert(file)), 0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
        report = train(tmp_path / "run", config.model_copy(update={"max_length": 256}), base)
        assert report.loss[-1][1] < report.loss[0][1]
        load(Checkpoint(str(tmp_path / "run" / "checkpoint"), 1))


@pytest.mark.slow
def test_a_run_with_it_goes_from_end_to_end_and_again_from_an_empty_cache(
    file: Path, tmp_path: Path, cache: Path
) -> None:
    changes = [*small.CHANGES, "corpus.size=50", "curriculum.size=8", "curriculum.rounds=1", *TINY]
    recipe = load_recipe("gym", [*changes, f"student.model={file}", "student.max_new_tokens=4"])
    result = session.run(recipe, tmp_path / "run")
    assert result.student == Checkpoint(str(tmp_path / "run" / "round-1" / "checkpoint"), 1)
    before = small.outcome(tmp_path / "run")
    cache.rename(tmp_path / "gone")
    session.resume(tmp_path / "run")
    assert small.outcome(tmp_path / "run") == before


@pytest.mark.slow
def test_smollm2_answers_from_its_gguf_file_as_from_its_folder() -> None:
    file, folder = MODELS / "smollm2-135m-instruct.gguf", MODELS / "smollm2-135m-instruct"
    if not (file.is_file() and folder.is_dir()):
        pytest.skip(f"`make models` has not put {folder.name} into {MODELS}")
    assert answers(convert(file), EXAMPLES[:8]) == answers(folder, EXAMPLES[:8])
