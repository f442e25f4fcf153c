"""Encoders of some ten thousand random weights, made on the spot with the tokenizers of the real ones' kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tapir.config.annotators import EmbeddingTaggerConfig, EncoderTaggerConfig
from tapir.domain.completion import Failure
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.task import TaskDistribution, TaskTag, Taxonomy
from tapir.models.taggers.embedding import EmbeddingTagger
from tapir.models.taggers.encoder import EncoderTagger

LABELS = ("add", "spell", "list")
TAXONOMY = Taxonomy("three", "1", TaskDistribution.of(dict.fromkeys(LABELS, 1.0)))
SECTION = EncoderTaggerConfig(
    kind="encoder",
    model="unset",
    labelled=60,
    held_out=0.25,
    epochs=12,
    learning_rate=0.01,
    batch_size=16,
    max_length=16,
)
_MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def instruction(task: str, number: int) -> Instruction:
    """The task is the first word; lengths differ."""
    return Instruction.of(f"{task} number {number % 10}{' please' * (number // 10)}", Origin("corpus"))


INSTRUCTIONS = [instruction(task, number) for number in range(70) for task in LABELS]


def truth(instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
    """The first word of each."""
    for one in instructions:
        yield one.id, TaskTag(one.text.split()[0])


def tagger(model: Path | str, **settings: Any) -> EncoderTagger:
    """A tagger of the three tasks."""
    section = SECTION.model_copy(update={"model": str(model), **settings})
    return EncoderTagger(section, TAXONOMY, truth, seed=7, chunk=25)


def embedding_tagger(model: Path | str, **settings: Any) -> EmbeddingTagger:
    """A tagger of the three tasks on embeddings and words."""
    fitting = {"labelled": 60, "batch_size": 16, "max_length": 16, **settings}
    section = EmbeddingTaggerConfig(kind="embedding", model=str(model), **fitting)
    return EmbeddingTagger(section, TAXONOMY, truth, seed=7, chunk=25)


def modernbert(folder: Path, labels: Mapping[int, str] | None = None, *, head: bool = True) -> Path:
    """Words are tokens; rotary positions, local and global attention."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import (
        ModernBertConfig,
        ModernBertForSequenceClassification,
        ModernBertModel,
        PreTrainedTokenizerFast,
    )

    words = Tokenizer(models.WordLevel(unk_token=_MARKS[1]))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(_texts(), trainers.WordLevelTrainer(special_tokens=list(_MARKS), show_progress=False))
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(mark, words.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **_roles())
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        cls_token_id=2,
        sep_token_id=3,
        **_SIZES,
        **_head(labels),
    )
    return _saved(folder, tokenizer, config, ModernBertForSequenceClassification if head else ModernBertModel)


def deberta(folder: Path, labels: Mapping[int, str] | None = None, *, head: bool = True) -> Path:
    """Pieces of words are tokens; the attention of DeBERTa-v3."""
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification, DebertaV2Model, DebertaV2Tokenizer

    words = sorted({f"\u2581{word}" for text in _texts() for word in text.split()})
    letters = sorted({letter for word in words for letter in word})
    marks = [(mark, 0.0) for mark in _MARKS]
    tokenizer = DebertaV2Tokenizer(
        vocab=[*marks, *((word, -3.0) for word in words), *((letter, -9.0) for letter in letters)]
    )
    config = DebertaV2Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        relative_attention=True,
        position_buckets=8,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
        type_vocab_size=0,
        pad_token_id=0,
        **_SIZES,
        **_head(labels),
    )
    return _saved(folder, tokenizer, config, DebertaV2ForSequenceClassification if head else DebertaV2Model)


KINDS: dict[str, Callable[..., Path]] = {"modernbert": modernbert, "deberta": deberta}


def _texts() -> Sequence[str]:
    return [one.text for one in INSTRUCTIONS]


def _roles() -> dict[str, str]:
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return dict(zip(names, _MARKS, strict=True))


def _head(labels: Mapping[int, str] | None) -> dict[str, Any]:
    return {"id2label": dict(labels), "label2id": {name: key for key, name in labels.items()}} if labels else {}


def _saved(folder: Path, tokenizer: Any, config: Any, kind: Any) -> Path:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
