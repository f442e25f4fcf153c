"""Answering in this process against bare `generate`, in one process, in turn: tokens/s with the built-in student.

    python benchmarks/answering.py                  # 5,000 prompts: about five minutes on 2 quiet cores
    python benchmarks/answering.py --prompts 1000
    python benchmarks/answering.py --prompts 128 --model ~/.cache/tapir/models/smollm2-135m-instruct

With a model, in float32 and in bfloat16, and without continuous batching.

All sides go from instructions to texts, greedily. Bare `generate` takes the prompts in the order given, padded on
the left, with the fixed batch size that is fastest here. The student answers them in one call, and in chunks sorted
by length, as a run does. Continuous batching is transformers' own, with the fastest of a few settings.
"""

from __future__ import annotations

import argparse
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from tapir.config.student import LocalStudentConfig
from tapir.domain.completion import Completion
from tapir.domain.instruction import Instruction
from tapir.domain.round import Checkpoint
from tapir.gym.corpus import corpus
from tapir.gym.skills import BY_FREQUENCY
from tapir.models.local.generate import LocalStudent
from tapir.models.local.loading import ModelSettings, load

NANO = Checkpoint(str(resources.files("tapir.gym") / "nano"), 0)
LONGEST = 112
SIZES = (16, 32, 64, 128, 256)
CHUNK = 256
ROWS = 128
PAGED = {"page_size": 16, "num_blocks": 1024}
PAGED_TOKENS = (32, 64, 128)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a side said, in how many tokens, wall seconds and CPU seconds."""

    texts: Mapping[str, str]
    tokens: int
    wall: float
    cpu: float

    def __str__(self) -> str:
        rate, each = self.tokens / self.wall, self.tokens / self.cpu
        return f"{rate:7,.0f} tokens/s ({each:,.0f} a CPU second), {len(self.texts) / self.wall:,.0f} answers/s"


def instructions(count: int) -> list[Instruction]:
    """Of the gym's corpus, in no order."""
    found = [pair.instruction for pair in corpus(BY_FREQUENCY, size=count + count // 10, skew=0.6, seed=0)]
    return random.Random(0).sample(found, count)


def timed(work: Callable[[], Iterator[tuple[str, str, int]]]) -> Measured:
    """Time a side that gives id, text and tokens without the end token."""
    wall, cpu = time.perf_counter(), time.process_time()
    said = list(work())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Measured({name: text for name, text, _ in said}, sum(tokens for *_, tokens in said), wall, cpu)


def prompts_of(tokenizer: Any, items: Sequence[Instruction]) -> list[list[int]]:
    """Token ids with the chat template around them."""
    chats = [[{"role": "user", "content": one.text}] for one in items]
    found: list[list[int]] = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=False)
    return found


def spoken(one: Instruction, row: Sequence[int], tokenizer: Any) -> tuple[str, str, int]:
    """Id, text and tokens of an answer that may be padded."""
    end = tokenizer.eos_token_id
    row = row[: row.index(end)] if end in row else row
    return one.id, tokenizer.decode(row, skip_special_tokens=True), len(row)


def bare(model: Any, tokenizer: Any, items: Sequence[Instruction], size: int) -> Iterator[tuple[str, str, int]]:
    """Batches of a fixed size, in the order given."""
    tokenizer.padding_side = "left"
    for start in range(0, len(items), size):
        batch = items[start : start + size]
        inputs = tokenizer.pad({"input_ids": prompts_of(tokenizer, batch)}, return_tensors="pt")
        with torch.inference_mode():
            rows = model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)
        for one, row in zip(batch, rows[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            yield spoken(one, row, tokenizer)


def continuous(model: Any, tokenizer: Any, items: Sequence[Instruction], most: int) -> Iterator[tuple[str, str, int]]:
    """Transformers' own continuous batching with so many tokens in a step."""
    settings = GenerationConfig(
        max_new_tokens=LONGEST, do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=0
    )
    paged = ContinuousBatchingConfig(max_batch_tokens=most, **PAGED)
    found = model.generate_batch(
        prompts_of(tokenizer, items), generation_config=settings, continuous_batching_config=paged
    )
    by_place = {int(name.rpartition("_")[2]): one.generated_tokens for name, one in found.items()}
    for place, one in enumerate(items):
        yield spoken(one, by_place[place], tokenizer)


def ours(items: Sequence[Instruction], chunk: int, base: Checkpoint, dtype: str) -> Iterator[tuple[str, str, int]]:
    """The student of a run."""
    config = LocalStudentConfig(max_new_tokens=LONGEST, batch_size=ROWS)
    student = LocalStudent(config, 0, ModelSettings(dtype=dtype))
    ordered = sorted(items, key=lambda one: (len(one.text), one.id))
    for start in range(0, len(ordered), chunk):
        for name, reply in student.answer(base, ordered[start : start + chunk]):
            assert isinstance(reply, Completion)
            yield name, reply.text, reply.usage.completion_tokens


def best(name: str, settings: Sequence[int], side: Callable[[int], Iterator[tuple[str, str, int]]]) -> int:
    """The setting with the most tokens a CPU second: what other programs take meanwhile does not count."""
    rates = {}
    for one in settings:
        found = timed(lambda one=one: side(one))  # type: ignore[misc]
        rates[one] = found.tokens / found.cpu
        print(f"  {name} {one:>4}: {found}")
    return max(rates, key=lambda one: rates[one])


def compare(items: Sequence[Instruction], base: Checkpoint, dtype: str, *, repeats: int, paged: bool) -> None:
    """All sides in turn, so that a slow moment of the machine meets each."""
    model, tokenizer = load(base, ModelSettings(dtype=dtype))
    few = items[: max(1, len(items) // 10)]
    list(bare(model, tokenizer, few[:64], 32))
    sizes = [size for size in SIZES if size <= len(items)]
    size = best("generate, rows", sizes, lambda one: bare(model, tokenizer, few, one)) if paged else sizes[-1]
    sides: dict[str, Callable[[], Iterator[tuple[str, str, int]]]] = {
        f"generate, {size} rows": lambda: bare(model, tokenizer, items, size),
        "student, one call": lambda: ours(items, len(items), base, dtype),
    }
    if len(items) > CHUNK:
        sides[f"student, chunks of {CHUNK}"] = lambda: ours(items, CHUNK, base, dtype)
    found: dict[str, Measured] = {}
    for _ in range(repeats):
        for name, side in sides.items():
            one = timed(side)
            print(f"  {dtype}, {name:<24} {one}", flush=True)
            if name not in found or one.wall < found[name].wall:
                found[name] = one
    if paged:
        most = best("continuous, tokens", PAGED_TOKENS, lambda one: continuous(model, tokenizer, few, one))
        name = f"continuous, {most} tokens"
        found[name] = timed(lambda: continuous(model, tokenizer, items, most))
        print(f"  {dtype}, {name:<24} {found[name]}")
    base_line = next(iter(found.values()))
    for name, one in [*found.items()][1:]:
        other = sum(base_line.texts[key] != text for key, text in one.texts.items())
        ratio = one.tokens / one.wall / (base_line.tokens / base_line.wall)
        each = one.tokens / one.cpu / (base_line.tokens / base_line.cpu)
        print(
            f"{dtype}, {name}: {ratio:.2f} times generate ({each:.2f} by CPU time);"
            f" {other} of {len(items):,} texts differ"
        )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--model", type=Path, help="folder of a student in place of the built-in one")
    chosen = parser.parse_args()
    items = instructions(chosen.prompts)
    print(f"{len(items):,} prompts, {torch.get_num_threads()} threads")
    if not chosen.model:
        compare(items, NANO, "float32", repeats=chosen.repeats, paged=True)
        return
    for dtype in ("float32", "bfloat16"):
        compare(items, Checkpoint(str(chosen.model.expanduser()), 0), dtype, repeats=chosen.repeats, paged=False)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
