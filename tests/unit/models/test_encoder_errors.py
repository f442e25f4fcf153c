"""The encoder tagger where something is wrong: with the model, its labels, its numbers, the memory or the disk."""

from __future__ import annotations

import errno
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import encoders, fakes
from support.encoders import INSTRUCTIONS, LABELS
from support.scripted import Watcher
from support.training import files_of_at_most
from tapir.data.files import replacing_folder
from tapir.domain.completion import Failure
from tapir.domain.errors import Interrupted, MissingExtra, RoleError, StoreFull, TrainingError
from tapir.domain.round import Checkpoint
from tapir.domain.task import TaskTag
from tapir.models.local.loading import load_tokenizer
from tapir.models.memory import free_memory
from tapir.models.taggers import classifier as loading
from tapir.models.taggers.classifier import match_labels

PAPER = ("Common-Sense", "Code Generation", "Math")


@pytest.mark.parametrize(("model", "labelled"), [("a folder", 0), ("a folder", 60), ("someone/nothing", 60)])
def test_a_folder_or_a_hub_without_the_model_is_an_error_that_names_the_key(
    tmp_path: Path, model: str, labelled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name = tmp_path if model == "a folder" else model
    with pytest.raises(RoleError, match=f"no encoder can be loaded from {name} at v2") as caught:
        fakes.taught(encoders.tagger(name, labelled=labelled, revision="v2"), INSTRUCTIONS)
    assert "tagger.model" in caught.value.remedy
    assert "cache" in caught.value.remedy


def test_a_vocabulary_that_needs_another_library_names_the_library(
    bare: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("`tiktoken` is required to read a `tiktoken` file.")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", refuse)
    monkeypatch.setattr("tapir.models.local.loading.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="sentencepiece is not installed") as caught:
        fakes.taught(encoders.tagger(bare["deberta"]), INSTRUCTIONS)
    assert "sentencepiece" in caught.value.remedy
    with pytest.raises(MissingExtra, match="sentencepiece is not installed"):
        load_tokenizer(Checkpoint(str(bare["deberta"]), 0))  # a student's


def test_an_encoder_without_a_head_can_be_trained_but_is_no_published_tagger(bare: dict[str, Path]) -> None:
    with pytest.raises(RoleError, match=r"no classifier: .*classifier\.weight") as caught:
        encoders.tagger(bare["modernbert"], labelled=0).fit([])
    assert "tagger.labelled" in caught.value.remedy


def test_an_encoder_kept_in_half_precision_is_trained_in_full(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel

    encoders.deberta(tmp_path, head=False)
    AutoModel.from_pretrained(tmp_path, dtype=torch.float16).save_pretrained(tmp_path)
    tagger = encoders.tagger(tmp_path)
    measured = fakes.taught(tagger, INSTRUCTIONS)
    assert measured is not None
    assert measured.accuracy > 0.8
    assert tagger._classifier is not None
    assert {one.dtype for one in tagger._classifier._model.parameters()} == {torch.float32}


@pytest.mark.parametrize("labelled", [0, 60])
def test_more_tokens_than_the_model_reads_are_refused(run: Path, labelled: int) -> None:
    with pytest.raises(RoleError, match=r"max_length = 65, but .* reads 64 tokens") as caught:
        fakes.taught(encoders.tagger(run / "tagger", labelled=labelled, max_length=65), INSTRUCTIONS)
    assert "tagger.max_length to 64" in caught.value.remedy


@pytest.mark.parametrize(
    "names",
    [
        {0: "Common-Sense", 1: "Code Generation", 2: "Math"},
        {0: "common-sense", 1: "codegeneration", 2: " MATH "},
        {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"},
        {2: "LABEL_2", 1: "LABEL_1", 0: "LABEL_0"},
        {0: "0", 1: "1", 2: "2"},
    ],
)
def test_labels_match_but_for_case_and_white_space_and_numbers_stand_in_order(names: Mapping[int, str]) -> None:
    assert match_labels(names, PAPER, "x") == list(PAPER)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({0: "Common-Sense", 1: "Code", 2: "Math"}, "only in the model: Code; only in the taxonomy: Code Generation"),
        ({0: "Common-Sense", 1: "Math"}, "only in the taxonomy: Code Generation"),
        ({0: "Common-Sense", 1: "Code Generation", 2: "Math", 3: "Law"}, "only in the model: Law"),
        ({0: "Math", 1: "Code Generation", 2: "Common-Sense", 3: "math"}, "it has 4 labels, the taxonomy has 3"),
        ({0: "LABEL_0", 1: "LABEL_1"}, "2 labels without names, the taxonomy has 3"),
        ({0: "LABEL_1", 1: "LABEL_0", 2: "LABEL_2"}, "only in the model: LABEL_1, LABEL_0, LABEL_2"),
    ],
)
def test_other_labels_are_an_error_that_names_those_that_differ(names: Mapping[int, str], said: str) -> None:
    with pytest.raises(RoleError, match=r"labels of x are not those of the taxonomy") as caught:
        match_labels(names, PAPER, "x")
    assert said in str(caught.value)
    assert "curriculum.taxonomy" in caught.value.remedy


@pytest.mark.parametrize("kind", encoders.KINDS)
@pytest.mark.parametrize("names", [None, {0: "LIST", 1: "add", 2: "Spell"}], ids=["numbered", "named"])
def test_a_published_classifier_tags_with_its_labels_whatever_their_order(
    tmp_path: Path, kind: str, names: Mapping[int, str] | None
) -> None:
    from transformers import pipeline

    encoders.KINDS[kind](tmp_path, names or {number: f"LABEL_{number}" for number in range(3)})
    tagger = encoders.tagger(tmp_path, labelled=0)
    assert tagger.sample(INSTRUCTIONS, 7) == []
    assert tagger.fit([]) is None
    said = pipeline("text-classification", model=str(tmp_path))
    for one in INSTRUCTIONS[:6]:
        ((_, tag),) = tagger.tag([one])
        assert isinstance(tag, TaskTag)
        expected = said(one.text, truncation=True, max_length=16)[0]
        assert expected["score"] == pytest.approx(tag.confidence, abs=1e-5)
        label = expected["label"]
        assert tag.task == (LABELS[int(label[-1])] if label.startswith("LABEL") else label.lower())


def broken(folder: Path) -> Path:
    """A classifier with weights that are no numbers."""
    import torch
    from transformers import AutoModelForSequenceClassification

    made = encoders.modernbert(folder, {number: f"LABEL_{number}" for number in range(3)})
    model = AutoModelForSequenceClassification.from_pretrained(made)
    with torch.no_grad():
        model.get_input_embeddings().weight[5:] = float("nan")
    model.save_pretrained(made)
    return made


def test_a_loss_that_is_no_number_is_an_error_with_the_remedy_and_keeps_nothing(tmp_path: Path) -> None:
    tagger = encoders.tagger(broken(tmp_path / "model"))
    tagger.open(tmp_path / "run", Watcher())
    with pytest.raises(TrainingError, match="loss is nan") as caught:
        fakes.taught(tagger, INSTRUCTIONS)
    assert "tagger.learning_rate" in caught.value.remedy
    assert not (tmp_path / "run" / "tagger").exists()


def test_probabilities_that_are_no_numbers_are_failures(tmp_path: Path) -> None:
    tagger = encoders.tagger(broken(tmp_path), labelled=0)
    tagger.fit([])
    assert {tag.kind for _, tag in tagger.tag(INSTRUCTIONS) if isinstance(tag, Failure)} == {"no label"}


def test_a_run_that_is_stopped_while_it_learns_keeps_nothing_and_learns_again(
    bare: dict[str, Path], tmp_path: Path
) -> None:
    progress = Watcher(stop_after=3)
    tagger = encoders.tagger(bare["modernbert"])
    tagger.open(tmp_path, progress)
    with pytest.raises(Interrupted):
        fakes.taught(tagger, INSTRUCTIONS)
    assert (progress.started, progress.advanced) == ([(0, "fit", 36, 0)], 3)
    assert list(tmp_path.iterdir()) == []
    progress.stop_after = None
    assert fakes.taught(tagger, INSTRUCTIONS) is not None


@contextmanager
def memory_for(instructions: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So many fit into memory at once."""
    import torch
    from transformers import ModernBertForSequenceClassification

    forward = ModernBertForSequenceClassification.forward

    def narrow(self: Any, input_ids: Any, **others: Any) -> Any:
        if len(input_ids) > instructions:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, input_ids=input_ids, **others)

    with monkeypatch.context() as patch:
        patch.setattr(ModernBertForSequenceClassification, "forward", narrow)
        yield


def test_learning_that_does_not_fit_is_tried_once_with_half_batches_and_said(
    bare: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress, models, freed = Watcher(), weakref.WeakSet[Any](), list[int]()
    train = loading._train

    def watched(model: Any, *others: Any) -> Any:
        models.add(model)
        return train(model, *others)

    def free() -> None:
        free_memory()
        freed.append(len(models))

    monkeypatch.setattr(loading, "_train", watched)
    monkeypatch.setattr(loading, "free_memory", free)
    tagger = encoders.tagger(bare["modernbert"])
    tagger.open(tmp_path, progress)
    with memory_for(8, monkeypatch):
        measured = fakes.taught(tagger, INSTRUCTIONS)
        assert measured is not None
        assert measured.accuracy > 0.8
    assert freed[:2] == [0, 1]  # nothing of the first attempt is left when its memory is given back
    assert progress.notes == [
        "out of memory while the tagger learns: tried again with 8 instructions at once",
        "out of memory while tagging: from now on 8 instructions at once",
    ]
    with memory_for(7, monkeypatch), pytest.raises(RoleError, match="out of memory with 8 instructions") as caught:
        fakes.taught(encoders.tagger(bare["modernbert"]), INSTRUCTIONS)
    assert "tagger.batch_size" in caught.value.remedy


def test_tagging_that_does_not_fit_goes_on_with_half_batches_and_the_same_labels(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Watcher()
    tagger = encoders.tagger(run / "tagger", labelled=0)
    tagger.open(tmp_path, progress)
    tagger.fit([])
    before = [tag.task for _, tag in tagger.tag(INSTRUCTIONS) if isinstance(tag, TaskTag)]
    with memory_for(8, monkeypatch):
        assert [tag.task for _, tag in tagger.tag(INSTRUCTIONS) if isinstance(tag, TaskTag)] == before
    assert progress.notes == ["out of memory while tagging: from now on 8 instructions at once"]
    with memory_for(7, monkeypatch), pytest.raises(RoleError, match="out of memory with 8 instructions"):
        list(tagger.tag(INSTRUCTIONS))


def test_a_full_disk_is_said_so_and_the_run_can_go_on(
    bare: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def drafting(home: Path) -> Iterator[Path]:
        with replacing_folder(home) as draft, files_of_at_most(20_000):
            yield draft

    tagger = encoders.tagger(bare["modernbert"])
    tagger.open(tmp_path, Watcher())
    with monkeypatch.context() as patch:
        patch.setattr("tapir.models.taggers.encoder.replacing_folder", drafting)
        with pytest.raises(StoreFull):
            fakes.taught(tagger, INSTRUCTIONS)
    assert list(tmp_path.iterdir()) == []
    assert fakes.taught(tagger, INSTRUCTIONS) is not None
    assert (tmp_path / "tagger").is_dir()


def test_a_disk_that_fills_up_while_a_model_is_fetched_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/cache/model.safetensors")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", fetch)
    with pytest.raises(StoreFull, match=r"/cache/model\.safetensors"):
        fakes.taught(encoders.tagger("someone/something"), INSTRUCTIONS)
