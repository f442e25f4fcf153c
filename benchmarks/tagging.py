"""Encoder taggers: texts per second against a bare transformers loop (accuracy: benchmarks/taggers.py).

    python benchmarks/tagging.py             made-up texts
    python benchmarks/tagging.py FILE        speed on the instructions of FILE (alpaca_data.json.gz, say)
    python benchmarks/tagging.py --busy      one core, seconds of the processor: for a machine with other work

The encoders are made on the spot, with random weights: their speed is that of their size. The bare loop tokenizes,
pads and reads the texts in their order, in batches of one size; its best size counts. Rounds alternate, the best of
each counts, and labels must be the same.
"""

from __future__ import annotations

import argparse
import logging
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch

from tapir.config.annotators import EncoderTaggerConfig
from tapir.data.layouts import Row
from tapir.data.readers import read_file
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.task import TaskDistribution, TaskTag, Taxonomy
from tapir.models.taggers.encoder import EncoderTagger

Clock: TypeAlias = Callable[[], float]

TEXTS = 1_000
ROUNDS = 3
BATCHES = (8, 16, 32, 64)
MAX_LENGTH = 256
SIZES = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SECTION = EncoderTaggerConfig(kind="encoder", held_out=0.25, max_length=MAX_LENGTH, batch_size=32)
CHUNK = 512


def made_up() -> list[str]:
    """Instructions of 5 to 30 words, some of them with a long input, whose words' frequencies fall by a power law."""
    source = random.Random(7)
    vocabulary = [f"word{number}" for number in range(8_000)]
    weights = [1 / rank for rank in range(1, len(vocabulary) + 1)]
    lengths = [source.randint(5, 30) + (source.random() < 0.3) * source.randint(0, 120) for _ in range(TEXTS)]
    return [" ".join(source.choices(vocabulary, weights, k=length)) for length in lengths]


def instructions(file: Path) -> list[str]:
    """The first texts of a corpus file."""
    found = (row.text for row in read_file(file) if isinstance(row, Row))
    return [text for text, _ in zip(found, range(TEXTS), strict=False)]


def encoder(folder: Path, kind: str, texts: Sequence[str], labels: Sequence[str]) -> Path:
    """Save a small ModernBERT or DeBERTa-v2 with a vocabulary learnt from the texts."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import (
        DebertaV2Config,
        DebertaV2ForSequenceClassification,
        ModernBertConfig,
        ModernBertForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    pieces = Tokenizer(models.WordPiece(unk_token=MARKS[1]))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=6_000, special_tokens=list(MARKS), show_progress=False)
    )
    ends = [(mark, pieces.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")]
    pieces.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), MARKS, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, **names)
    shared = {
        **SIZES,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    torch.manual_seed(0)
    model: Any
    if kind == "ModernBERT":
        ids = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
        model = ModernBertForSequenceClassification(ModernBertConfig(**ids, **shared))
    else:
        attention = {"relative_attention": True, "position_buckets": 256, "pos_att_type": ["p2c", "c2p"]}
        norms = {"norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False}
        model = DebertaV2ForSequenceClassification(DebertaV2Config(type_vocab_size=0, **attention, **norms, **shared))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bare(folder: Path) -> Callable[[Sequence[str], int], list[str]]:
    """The loop that anybody would write first."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def read(texts: Sequence[str], batch: int) -> list[str]:
        found: list[str] = []
        for start in range(0, len(texts), batch):
            inputs = tokenizer(
                list(texts[start : start + batch]),
                padding=True,
                truncation=True,
                max_length=MAX_LENGTH,
                return_tensors="pt",
                return_token_type_ids=False,
            )
            with torch.inference_mode():
                rows = model(**inputs).logits.softmax(-1)
            found += [model.config.id2label[number] for number in rows.argmax(-1).tolist()]
        return found

    return read


def timed(work: Callable[[], list[str]], clock: Clock) -> tuple[float, list[str]]:
    """Seconds and what came of it."""
    began = clock()
    found = work()
    return clock() - began, found


def speed(texts: Sequence[str], clock: Clock) -> None:
    """Print texts per second of both, and their ratio."""
    labels = [f"task {number}" for number in range(33)]
    taxonomy = Taxonomy("many", "1", TaskDistribution.of(dict.fromkeys(labels, 1.0)))
    items = [Instruction.of(text, Origin("corpus")) for text in texts]
    print(f"{len(texts):,} texts, {torch.get_num_threads()} cores, best of {ROUNDS}\n")
    print(f"{'':<12}{'bare, best batch':>18}{'texts/s':>9}{'ours':>6}{'texts/s':>9}{'ratio':>7}{'same label':>12}")
    for kind in ("ModernBERT", "DeBERTa-v2"):
        with tempfile.TemporaryDirectory() as folder:
            made = encoder(Path(folder), kind, texts, labels)
            loop = bare(made)
            fixed = SECTION.model_copy(update={"model": folder, "labelled": 0})
            tagger = EncoderTagger(fixed, taxonomy, lambda _: [], 7, CHUNK)
            tagger.fit([])

            def ours(tagger: EncoderTagger = tagger) -> list[str]:
                return [tag.task for _, tag in tagger.tag(items) if isinstance(tag, TaskTag)]

            seconds: dict[int, float] = {}
            for _ in range(ROUNDS):
                for batch in BATCHES:
                    spent, plain = timed(partial(loop, texts, batch), clock)
                    seconds[batch] = min(spent, seconds.get(batch, spent))
                spent, sorted_by_length = timed(ours, clock)
                seconds[0] = min(spent, seconds.get(0, spent))
            best = min(BATCHES, key=lambda batch: seconds[batch])
            same = sum(one == other for one, other in zip(plain, sorted_by_length, strict=True)) / len(texts)
            rates = len(texts) / seconds[best], len(texts) / seconds[0]
            print(
                f"{kind:<12}{best:>18}{rates[0]:>9.0f}{32:>6}{rates[1]:>9.0f}{rates[1] / rates[0]:>7.2f}{same:>12.2%}"
            )


def main() -> None:
    """Measure speed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="a corpus file")
    parser.add_argument("--busy", action="store_true", help="one core, seconds of the processor")
    asked = parser.parse_args()
    clock = time.process_time if asked.busy else time.perf_counter
    if asked.busy:
        torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    speed(instructions(asked.file) if asked.file else made_up(), clock)


if __name__ == "__main__":
    main()
