"""The tagger on sentence embeddings joined with TF-IDF: what it reads, chooses, hands back and refuses."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from support import encoders, fakes
from support.encoders import INSTRUCTIONS, LABELS
from support.paths import MODELS
from support.scripted import Watcher
from tapir.config.annotators import EmbeddingTaggerConfig
from tapir.data.run.store import RunStore
from tapir.domain.completion import Failure
from tapir.domain.errors import Interrupted, RoleError
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.task import TaskDistribution, TaskTag, Taxonomy
from tapir.models.taggers import embedding
from tapir.models.taggers.embedding import MIXES, EmbeddingTagger, SentenceEncoder
from tapir.stages.base import StageContext
from tapir.stages.tag import FitTagger, Tag

TEXTS = ["add number 3", "list number 4 please please", "spell"]


def packaged(folder: Path, bare: Path, pooling: object, *, modules: tuple[str, ...] = ("Normalize",)) -> Path:
    """An encoder in the layout of sentence-transformers."""
    shutil.copytree(bare, folder, dirs_exist_ok=True)
    kinds = ("Transformer", "Pooling", *modules)
    paths = ("", "1_Pooling", *(f"{place}_{kind}" for place, kind in enumerate(modules, 2)))
    listed = [
        {"path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in zip(kinds, paths, strict=True)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def encoder(model: Path, **settings: Any) -> SentenceEncoder:
    return SentenceEncoder.load(encoders.embedding_tagger(model, **settings)._section)


def embedded(model: Path, texts: list[str], **settings: Any) -> Any:
    return np.stack([vector for _, vector in encoder(model, **settings).read(texts, print)])


def tokens(model: Path, text: str) -> Any:
    """The last hidden state of a text alone."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    with torch.inference_mode():
        batch = AutoTokenizer.from_pretrained(model)(text, return_tensors="pt", return_token_type_ids=False)
        return AutoModel.from_pretrained(model).eval()(**batch).last_hidden_state[0].numpy()


@pytest.mark.parametrize(
    ("config", "pooled"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, lambda hidden: hidden.mean(0)),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, lambda hidden: hidden[0]),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, lambda hidden: hidden[-1]),
        ({"pooling_mode": "cls"}, lambda hidden: hidden[0]),
    ],
    ids=["mean", "cls", "last", "named"],
)
@pytest.mark.parametrize("side", ["right", "left"])
def test_tokens_are_pooled_as_the_model_says_whatever_they_are_padded_with(
    bare: dict[str, Path], tmp_path: Path, config: dict[str, bool], pooled: Any, side: str
) -> None:
    model = packaged(tmp_path, bare["deberta"], config)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": side}))
    for text, vector in zip(TEXTS, embedded(model, TEXTS), strict=True):
        expected = pooled(tokens(model, text))
        assert vector == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)


def test_a_plain_encoder_is_pooled_by_the_mean(bare: dict[str, Path], tmp_path: Path) -> None:
    model = packaged(tmp_path, bare["modernbert"], {"pooling_mode_mean_tokens": True}, modules=())
    assert np.array_equal(embedded(bare["modernbert"], TEXTS), embedded(model, TEXTS))


def test_the_prefix_is_embedded_and_no_word_of_tf_idf(bare: dict[str, Path]) -> None:
    model = bare["modernbert"]
    read = encoder(model, prefix="list ").read(TEXTS, print)
    assert [text for text, _ in read] == TEXTS
    assert np.array_equal(np.stack([one for _, one in read]), embedded(model, [f"list {text}" for text in TEXTS]))


@pytest.mark.parametrize(
    ("pooling", "modules", "said"),
    [
        ({"pooling_mode_max_tokens": True}, (), "by max_tokens; mean, cls"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, (), r"by mean_tokens \+ max_tokens"),
        ({"pooling_mode": "weightedmean"}, (), "by weightedmean"),
        ({"pooling_mode_mean_tokens": True}, ("Dense", "Normalize"), r"by Pooling \+ Dense"),
        ({"pooling_mode_mean_tokens": False}, (), "no encoder can be loaded .*pooling_mode"),
        (["mean"], (), "no encoder can be loaded"),
    ],
)
def test_another_way_to_a_vector_is_an_error_that_names_it(
    bare: dict[str, Path], tmp_path: Path, pooling: object, modules: tuple[str, ...], said: str
) -> None:
    with pytest.raises(RoleError, match=said) as caught:
        encoder(packaged(tmp_path, bare["modernbert"], pooling, modules=modules))
    assert "tagger.model" in caught.value.remedy


@pytest.mark.parametrize("model", ["a folder", "someone/nothing"])
def test_a_folder_or_a_hub_without_the_model_is_an_error_that_names_the_key(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RoleError, match="no encoder can be loaded from") as caught:
        encoder(tmp_path / model if model == "a folder" else Path(model))
    assert "tagger.model" in caught.value.remedy


def test_a_hub_that_does_not_answer_leaves_the_pooling_unknown_and_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    loaded = SimpleNamespace(name_or_path="someone/half-fetched")
    monkeypatch.setattr(embedding, "load_encoder", lambda _: (loaded, None))
    with pytest.raises(RoleError, match=r"no encoder can be loaded from someone/half-fetched: .*modules\.json"):
        encoder(Path("someone/half-fetched"))


def test_weights_of_another_architecture_are_no_encoder(bare: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(bare["deberta"], tmp_path, dirs_exist_ok=True)
    shutil.copy(bare["modernbert"] / "model.safetensors", tmp_path)
    with pytest.raises(RoleError, match="are not in it"):
        encoder(tmp_path)


def test_embeddings_that_are_no_numbers_are_an_error(bare: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel

    shutil.copytree(bare["modernbert"], tmp_path, dirs_exist_ok=True)
    model = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        model.get_input_embeddings().weight[5:] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(RoleError, match="are not numbers") as caught:
        fakes.taught(encoders.embedding_tagger(tmp_path), INSTRUCTIONS)
    assert "tagger.model" in caught.value.remedy


@pytest.mark.parametrize(("informative", "mix"), [("words", MIXES[0]), ("vectors", MIXES[-1])])
def test_what_tells_the_tasks_apart_gets_the_weight(
    bare: dict[str, Path], informative: str, mix: tuple[float, float]
) -> None:
    source = np.random.default_rng(3)
    tasks = np.array(LABELS)[source.integers(3, size=200)]
    vectors = source.normal(size=(200, 32))
    if informative == "vectors":
        vectors[np.arange(200), [LABELS.index(task) for task in tasks]] += 4
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    noise = [" ".join(source.choice(["one", "two", "three", "four", "five"], size=4)) for _ in tasks]
    texts = [f"{task} {text}" if informative == "words" else text for task, text in zip(tasks, noise, strict=True)]
    tagger = encoders.embedding_tagger(bare["modernbert"])
    chosen, heat = tagger._cross_validate(list(zip(texts, vectors, strict=True)), tasks, np.arange(200).astype(str))
    assert chosen == mix
    assert heat > 0


def test_the_folds_never_part_a_conversation_and_stay_as_they_were_without_one(
    bare: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.model_selection import KFold

    learnt: list[list[int]] = []
    tagger = encoders.embedding_tagger(bare["modernbert"])
    fit = EmbeddingTagger.fit_pipeline

    def remember(known: Any, *arguments: Any) -> Any:
        learnt.append([int(text.split()[1]) for text, _ in known])
        return fit(known, *arguments)

    monkeypatch.setattr(tagger, "fit_pipeline", remember)
    read = [(f"{LABELS[place % 3]} {place}", np.ones(4) / 2) for place in range(40)]
    tasks = np.array([LABELS[place % 3] for place in range(40)])
    folds = list(KFold(5, shuffle=True, random_state=tagger._seed % 2**32).split(read))
    tagger._cross_validate(read, tasks, np.arange(40).astype(str))
    assert learnt[::2] == [places.tolist() for places, _ in folds]
    learnt.clear()
    talks = np.arange(40) // 4
    tagger._cross_validate(read, tasks, talks.astype(str))
    assert all(set(talks[mine]).isdisjoint(talks[left]) for mine, (_, left) in zip(learnt[::2], folds, strict=True))
    assert tagger._cross_validate(read, tasks, np.zeros(40).astype(str)) == (MIXES[-1], 1.0)


def test_a_task_with_one_example_and_labels_too_few_to_choose_by_are_learnt_all_the_same(bare: dict[str, Path]) -> None:
    tagger = encoders.embedding_tagger(bare["modernbert"])
    rare = [*[(one, "add") for one in INSTRUCTIONS[0:33:3]], (INSTRUCTIONS[1], "spell"), (INSTRUCTIONS[4], "spell")]
    tagger.fit(rare)
    assert tagger._classifier.temperature == 1.0
    many = [(one, one.text.split()[0]) for one in INSTRUCTIONS if not one.text.startswith("spell")]
    tagger.fit([*many, (INSTRUCTIONS[1], "spell")])
    fakes.check_tags(tagger, INSTRUCTIONS)


def test_texts_that_share_no_words_are_told_apart_by_their_embeddings(bare: dict[str, Path]) -> None:
    tagger = encoders.embedding_tagger(bare["modernbert"])
    texts = [f"{'甲' if number % 2 else '乙'}{chr(0x4E00 + number)}。" for number in range(40)]
    ours = [Instruction.of(text, Origin("corpus")) for text in texts]
    tagger.fit([(one, LABELS[number % 2]) for number, one in enumerate(ours)])
    fakes.check_tags(tagger, ours)


def test_without_labels_the_nearest_name_decides_and_nobody_is_asked(bare: dict[str, Path]) -> None:
    tagger = encoders.embedding_tagger(bare["modernbert"], labelled=0)
    assert tagger.sample(INSTRUCTIONS, 7) == []
    assert tagger.fit([]) is None
    named = [Instruction.of(label, Origin("corpus")) for label in LABELS]
    assert [tag.task for _, tag in tagger.tag(named) if isinstance(tag, TaskTag)] == list(LABELS)
    fakes.check_tags(tagger, INSTRUCTIONS)


def test_what_it_is_too_unsure_of_has_no_label_and_is_counted(bare: dict[str, Path]) -> None:
    tagger = encoders.embedding_tagger(bare["modernbert"], abstain_below=0.9)
    sample = tagger.sample(INSTRUCTIONS, 7)
    measured = tagger.fit([(one, LABELS[number % 3]) for number, one in enumerate(sample)])
    assert measured is not None
    assert measured.abstained > 10
    tags = [tag for _, tag in tagger.tag(INSTRUCTIONS)]
    assert {tag.kind for tag in tags if isinstance(tag, Failure)} == {"abstained"}
    assert all(tag.confidence >= 0.9 for tag in tags if isinstance(tag, TaskTag))


def test_a_run_that_is_stopped_while_tagging_ends_with_the_same_table(bare: dict[str, Path], tmp_path: Path) -> None:
    tables = []
    for name, stops in (("whole", [None]), ("cut", [70, 120, None])):
        for stop in stops:
            progress = Watcher(stop_after=stop)
            tagger = encoders.embedding_tagger(bare["modernbert"])
            tagger.open(tmp_path / name, progress)
            place = StageContext(RunStore(tmp_path / name), progress, 0, 7)
            with suppress(Interrupted):
                FitTagger(tagger, 25).run(place, INSTRUCTIONS)
                tables.append(Tag(tagger, 25).run(place, INSTRUCTIONS))
            tagger.close()
    assert len(tables) == 2
    assert tables[0] == tables[1]
    for file in ("tags.parquet", "tagger.json"):
        assert (tmp_path / "whole/round-0" / file).read_bytes() == (tmp_path / "cut/round-0" / file).read_bytes()


def test_memory_that_does_not_suffice_halves_the_batches_once(
    bare: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import ModernBertModel

    forward, progress = ModernBertModel.forward, Watcher()

    def narrow(self: Any, input_ids: Any, **others: Any) -> Any:
        if len(input_ids) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, input_ids=input_ids, **others)

    monkeypatch.setattr(ModernBertModel, "forward", narrow)
    tagger = encoders.embedding_tagger(bare["modernbert"])
    tagger.open(tmp_path, progress)
    assert fakes.taught(tagger, INSTRUCTIONS) is not None
    assert progress.notes == ["out of memory while tagging: from now on 8 instructions at once"]
    with pytest.raises(RoleError, match="out of memory with 10 instructions") as caught:
        fakes.taught(encoders.embedding_tagger(bare["modernbert"], batch_size=20), INSTRUCTIONS)
    assert "tagger.batch_size" in caught.value.remedy


def test_resting_changes_nothing_and_closing_ends_it(bare: dict[str, Path]) -> None:
    tagger = encoders.embedding_tagger(bare["modernbert"])
    tagger.rest()
    fakes.taught(tagger, INSTRUCTIONS)
    before = list(tagger.tag(INSTRUCTIONS))
    tagger.rest()
    assert list(tagger.tag(INSTRUCTIONS)) == before
    tagger.close()
    with pytest.raises(RoleError, match="before it was fitted"):
        next(tagger.tag(INSTRUCTIONS))


def test_a_real_encoder_knows_subjects_by_words_it_has_not_learnt() -> None:
    model = MODELS / "all-minilm-l6-v2"
    if not model.is_dir():
        pytest.skip(f"no {model}: run `make models`")
    cooking = "Boil rice|Fry an egg|Bake bread|Roast a chicken|Simmer a soup|Grill a trout|Knead dough|Chop onions"
    space = "Orbit of Mars|Moons of Jupiter|How stars form|Distance to a galaxy|Phases of Venus|A comet's tail"
    topics = {"cooking": cooking.split("|"), "space": [*space.split("|"), "Rings of Saturn", "Landing on Titan"]}
    items = {Instruction.of(text, Origin("corpus")): topic for topic, texts in topics.items() for text in texts}
    taxonomy = Taxonomy("two", "1", TaskDistribution.of(dict.fromkeys(topics, 1.0)))
    section = EmbeddingTaggerConfig(kind="embedding", model=str(model))
    tagger = EmbeddingTagger(section, taxonomy, lambda _: [], seed=7, chunk=4)
    report = tagger.fit([pair for turn in range(4) for pair in list(items.items())[turn::4]])
    unseen = {"Steam some vegetables": "cooking", "Is there water on Pluto?": "space", "Make pancakes": "cooking"}
    asked = [Instruction.of(text, Origin("corpus")) for text in unseen]
    tags = [tag.task for _, tag in tagger.tag(asked) if isinstance(tag, TaskTag)]
    assert tags == list(unseen.values())
    assert report is not None
    assert report.n == 4
    nearest = EmbeddingTagger(section.model_copy(update={"labelled": 0}), taxonomy, lambda _: [], seed=7, chunk=4)
    nearest.fit([])
    assert [tag for _, tag in nearest.tag(asked)] != [tag for _, tag in tagger.tag(asked)]
    assert [tag.task for _, tag in nearest.tag(asked) if isinstance(tag, TaskTag)] == list(unseen.values())
