"""Adapters: new ones, those that go on, merged ones; and that transformers alone answers the same from every folder."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from support import small_model
from support.training import (
    EXAMPLES,
    FULL,
    LORA,
    NANO,
    answers,
    answers_of_transformers,
    changed,
    losses,
    train,
    weights,
)
from tapir.config.training import LoraConfig, SftConfig
from tapir.domain.errors import RoleError, StoreFull, TrainingError
from tapir.domain.round import Checkpoint
from tapir.models.local.loading import ModelSettings
from tapir.training.model import merge

pytestmark = pytest.mark.slow

EPOCHS = 20
PARAMETERS = 2_086_464
ADAPTER = 116_736  # of rank 8, on every linear layer but the last


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained adapter's folder."""
    folder = tmp_path_factory.mktemp("adapter")
    report = train(folder, LORA, epochs=EPOCHS)
    assert (report.parameters, report.trainable) == (PARAMETERS + ADAPTER, ADAPTER)
    assert report.loss[-1][1] < report.loss[0][1] / 2
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def learnt(adapter: Path) -> list[str]:
    """What the student answers with it."""
    replies = answers(adapter)
    assert correct(replies) >= 20
    assert replies != answers(Path(NANO.path))
    return replies


def correct(replies: list[str]) -> int:
    return sum(reply == example.answer for reply, example in zip(replies, EXAMPLES, strict=True))


def adapter_config(folder: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((folder / "adapter_config.json").read_text())
    return content


def test_transformers_alone_answers_with_an_adapter_or_a_merged_one_as_the_student_does(
    adapter: Path, learnt: list[str], tmp_path: Path
) -> None:
    assert answers_of_transformers(adapter) == learnt
    merge(adapter, tmp_path / "whole", ModelSettings())
    assert not list((tmp_path / "whole").glob("adapter*"))
    assert answers(tmp_path / "whole") == answers_of_transformers(tmp_path / "whole") == learnt


def test_transformers_alone_answers_with_a_fully_trained_model_as_the_student_does(tmp_path: Path) -> None:
    train(tmp_path, epochs=EPOCHS)
    replies = answers(tmp_path / "checkpoint")
    assert answers_of_transformers(tmp_path / "checkpoint") == replies
    assert correct(replies) >= 20


def test_a_whole_model_is_merged_by_copying_it(tmp_path: Path) -> None:
    merge(Path(NANO.path), tmp_path / "out" / "whole", ModelSettings())
    copied = tmp_path / "out" / "whole"
    assert {file.name: file.read_bytes() for file in copied.iterdir()} == {
        file.name: file.read_bytes() for file in Path(NANO.path).iterdir() if file.is_file()
    }


def test_a_merged_model_has_the_precision_asked_for(adapter: Path, tmp_path: Path) -> None:
    merge(adapter, tmp_path / "whole", ModelSettings(dtype="bfloat16"))
    assert {str(tensor.dtype) for tensor in weights(tmp_path / "whole").values()} == {"torch.bfloat16"}
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["dtype"] == "bfloat16"


def test_nothing_appears_of_a_merge_that_fails(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", full)
    with pytest.raises(StoreFull):
        merge(adapter, tmp_path / "whole", ModelSettings())
    assert not (tmp_path / "whole").exists()
    monkeypatch.undo()
    merge(adapter, tmp_path / "whole", ModelSettings())
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_an_adapter_names_its_base_and_goes_on_as_it_was_made(adapter: Path, tmp_path: Path) -> None:
    assert adapter_config(adapter)["base_model_name_or_path"] == NANO.path
    other = changed(LORA, lora=LoraConfig(rank=2, alpha=2, targets=("q_proj",)), learning_rate=1e-4)
    report = train(tmp_path, other, base=Checkpoint(str(adapter), 1))
    assert report.trainable == ADAPTER
    assert report.loss[0][1] < 1
    assert adapter_config(tmp_path / "checkpoint") == adapter_config(adapter)
    before, after = weights(adapter), weights(tmp_path / "checkpoint")
    assert before.keys() == after.keys()
    assert any((before[name] != after[name]).any() for name in before)


def test_full_fine_tuning_of_an_adapter_merges_it_first(adapter: Path, tmp_path: Path) -> None:
    report = train(tmp_path, changed(FULL, learning_rate=1e-5), base=Checkpoint(str(adapter), 1), epochs=1)
    assert (report.parameters, report.trainable) == (PARAMETERS, PARAMETERS)
    assert report.loss[0][1] < 1
    assert (tmp_path / "checkpoint" / "model.safetensors").exists()
    assert not list((tmp_path / "checkpoint").glob("adapter*"))


def test_a_base_that_is_named_from_here_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(NANO.path, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    train(tmp_path, LORA, base=Checkpoint("model", 0), epochs=1)
    assert adapter_config(tmp_path / "checkpoint")["base_model_name_or_path"] == str(tmp_path / "model")


def test_layers_that_the_student_does_not_have_are_told(tmp_path: Path) -> None:
    wrong = changed(LORA, lora=LoraConfig(targets=("qkv_proj",)))
    with pytest.raises(TrainingError, match=r"training\.lora\.targets = \['qkv_proj'\] does not fit") as caught:
        train(tmp_path, wrong)
    assert "all-linear" in caught.value.remedy


def test_an_adapter_of_another_model_is_told(adapter: Path, tmp_path: Path) -> None:
    other = small_model.make(tmp_path / "model")
    shutil.copytree(adapter, tmp_path / "strange")
    content = adapter_config(adapter) | {"base_model_name_or_path": str(other)}
    (tmp_path / "strange" / "adapter_config.json").write_text(json.dumps(content))
    with pytest.raises(RoleError, match="no student can be loaded from"):
        train(tmp_path, LORA, base=Checkpoint(str(tmp_path / "strange"), 1))


@pytest.mark.parametrize("config", [FULL, LORA], ids=["full", "lora"])
def test_gradient_checkpointing_changes_memory_and_nothing_else(config: SftConfig, tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", config)
    report = train(tmp_path / "checkpointing", changed(config, gradient_checkpointing=True))
    assert losses(report) == pytest.approx(losses(plain), rel=1e-4)


@pytest.mark.parametrize(("config", "dtype"), [(FULL, "torch.bfloat16"), (LORA, "torch.float32")], ids=["full", "lora"])
def test_training_in_bfloat16_saves_bfloat16_and_an_adapter_stays_in_float32(
    config: SftConfig, dtype: str, tmp_path: Path
) -> None:
    report = train(tmp_path, changed(config, precision="bfloat16"))
    assert report.loss[-1][1] < report.loss[0][1] / 2
    assert {str(tensor.dtype) for tensor in weights(tmp_path / "checkpoint").values()} == {dtype}


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_an_adapter_over_a_base_in_four_bits_learns_and_loads_as_any_other(tmp_path: Path) -> None:
    report = train(tmp_path, changed(LORA, method="qlora"), epochs=EPOCHS)
    assert (report.parameters, report.trainable) == (PARAMETERS + ADAPTER, ADAPTER)
    replies = answers(tmp_path / "checkpoint")
    assert answers_of_transformers(tmp_path / "checkpoint") == replies
    assert correct(replies) >= 12
    more = train(tmp_path / "more", changed(LORA, method="qlora"), base=Checkpoint(str(tmp_path / "checkpoint"), 1))
    assert more.loss[0][1] < 1
    assert adapter_config(tmp_path / "more" / "checkpoint")["base_model_name_or_path"] == NANO.path
