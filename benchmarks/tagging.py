"""Encoder taggers: texts per second against a bare transformers loop, and accuracy beside TF-IDF.

    python benchmarks/tagging.py             made-up texts; accuracy where ../shared/data/task_types has labels
    python benchmarks/tagging.py FILE        speed on the instructions of FILE (alpaca_data.json.gz, say)
    python benchmarks/tagging.py --busy      one core, seconds of the processor: for a machine with other work

The encoders are made on the spot, with random weights: their speed is that of their size, and what they know they
learnt here. The bare loop tokenizes, pads and reads the texts in their order, in batches of one size; its best size
counts. Rounds alternate, the best of each counts, and labels must be the same.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch

from tapir.data.readers import Row, read_file
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.task import TaskDistribution, TaskTag, Taxonomy
from tapir.roles import TaggerReport
from tapir.tagging.encoder import EncoderSettings, EncoderTagger
from tapir.tagging.measure import macro_f1
from tapir.tagging.tfidf import TfidfTagger

Clock: TypeAlias = Callable[[], float]

TEXTS = 1_000
ROUNDS = 3
BATCHES = (8, 16, 32, 64)
MAX_LENGTH = 256
LABELLED = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "task_types" / "dolly_3k.jsonl.gz"
SIZES = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SETTINGS = {"revision": "", "held_out": 0.25, "max_length": MAX_LENGTH, "abstain_below": 0.0, "chunk": 512}


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
            fixed = EncoderSettings(model=folder, labelled=0, epochs=1, learning_rate=1e-3, batch_size=32, **SETTINGS)
            tagger = EncoderTagger(taxonomy, lambda _: [], fixed, 7)
            tagger.fit([])

            def ours(tagger: EncoderTagger = tagger) -> list[str]:
                return [tag.task for _, tag in tagger.tag(items) if isinstance(tag, TaskTag)]

            seconds: dict[int, float] = {}
            for _ in range(ROUNDS):
                for batch in BATCHES:
                    spent, plain = timed(lambda batch=batch, loop=loop: loop(texts, batch), clock)
                    seconds[batch] = min(spent, seconds.get(batch, spent))
                spent, sorted_by_length = timed(ours, clock)
                seconds[0] = min(spent, seconds.get(0, spent))
            best = min(BATCHES, key=lambda batch: seconds[batch])
            same = sum(one == other for one, other in zip(plain, sorted_by_length, strict=True)) / len(texts)
            rates = len(texts) / seconds[best], len(texts) / seconds[0]
            print(
                f"{kind:<12}{best:>18}{rates[0]:>9.0f}{32:>6}{rates[1]:>9.0f}{rates[1] / rates[0]:>7.2f}{same:>12.2%}"
            )


def labelled() -> list[tuple[Instruction, str]]:
    """Instructions with the category that people gave them."""
    with gzip.open(LABELLED, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    found = {}
    for row in rows:
        one = Instruction.of("\n\n".join(filter(None, (row["instruction"], row["input"]))), Origin("corpus"))
        found[one.id] = (one, row["category"])
    return list(found.values())


def accuracy(clock: Clock) -> None:
    """Print how well TF-IDF and an encoder without pre-training learn the same labels."""
    pairs = labelled()
    truth = {one.id: category for one, category in pairs}
    labels = sorted(set(truth.values()))
    taxonomy = Taxonomy("categories", "1", TaskDistribution.of(dict.fromkeys(labels, 1.0)))
    items = [one for one, _ in pairs]

    def label(several: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag]]:
        return ((one.id, TaskTag(truth[one.id])) for one in several)

    def learn(tagger: TfidfTagger | EncoderTagger) -> tuple[float, TaggerReport]:
        sample = tagger.sample(items, 7)
        began = clock()
        found = tagger.fit([(one, truth[one.id]) for one in sample])
        assert found is not None
        return clock() - began, found

    print(f"\n{len(items):,} instructions with {len(labels)} categories of people, a quarter held out\n")
    print(f"{'':<26}{'seconds':>9}{'accuracy':>10}{'macro F1':>10}{'calibration error':>19}")
    with tempfile.TemporaryDirectory() as folder:
        encoder(Path(folder), "ModernBERT", [one.text for one in items], labels)
        rows = {"TF-IDF": TfidfTagger(taxonomy, label, labelled=len(items), held_out=0.25)}
        taggers: dict[str, TfidfTagger | EncoderTagger] = {**rows}
        for epochs, rate in ((5, 1e-3), (10, 1e-3)):
            learning = {"epochs": epochs, "learning_rate": rate, "batch_size": 32}
            settings = EncoderSettings(model=folder, labelled=len(items), **learning, **SETTINGS)
            taggers[f"ModernBERT {epochs} epochs {rate:g}"] = EncoderTagger(taxonomy, label, settings, 7)
        for name, tagger in taggers.items():
            seconds, found = learn(tagger)
            figures = f"{found.accuracy:>10.3f}{macro_f1(found.f1):>10.3f}{found.calibration_error:>19.3f}"
            print(f"{name:<26}{seconds:>9.1f}{figures}")


def main() -> None:
    """Measure speed, and accuracy where there are labels."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="a corpus file")
    parser.add_argument("--busy", action="store_true", help="one core, seconds of the processor")
    asked = parser.parse_args()
    clock = time.process_time if asked.busy else time.perf_counter
    if asked.busy:
        torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    speed(instructions(asked.file) if asked.file else made_up(), clock)
    if LABELLED.exists():
        accuracy(clock)
    else:
        print("\nno labelled instructions in ../shared/data/task_types: accuracy not measured")


if __name__ == "__main__":
    main()
