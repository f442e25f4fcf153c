"""Fine-tuning against a bare TRL script, in one run: the same examples, batches, steps, precision and checkpoints.

    python benchmarks/training.py                    # what a person waits for: about a minute and a half
    python benchmarks/training.py --examples 4000 --only lora
    python benchmarks/training.py --examples 64 --model ~/.cache/tapir/models/smollm2-135m-instruct

With a model, both train it in float32 and in bfloat16.

Both begin with the base's folder and the examples as text, and end with the new checkpoint in its folder. Ours also
checks every mask, lays out the order, and loads what it saved to compare it with what it trained.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tapir.config.training import SftConfig
from tapir.domain.progress import SilentProgress
from tapir.domain.round import Checkpoint
from tapir.domain.training import Example, TrainJob
from tapir.gym.corpus import corpus
from tapir.gym.skills import TRAINED
from tapir.models.local.loading import load_tokenizer
from tapir.training import checkpoints
from tapir.training import loop as fit
from tapir.training.dataset import encode, training_order
from tapir.training.model import load_for_training
from tapir.training.sft import SftTrainer

NANO = Checkpoint(str(resources.files("tapir.gym") / "nano"), 0)
SEED = 7
_inside: list[float] = []  # seconds, one entry for each call of TRL's train
CONFIG = SftConfig(batch_size=32, save_every=25)


@dataclass(frozen=True, slots=True)
class Measured:
    """Tokens read, wall and CPU seconds of all of it, and wall seconds inside TRL's `train`."""

    tokens: int
    wall: float
    cpu: float
    inside: float

    def __str__(self) -> str:
        return (
            f"{self.tokens:,} tokens in {self.wall:.2f} s: {self.tokens / self.wall:,.0f} tokens/s,"
            f" {self.cpu:.2f} s of CPU time, {self.inside / self.wall:.1%} of the wall time inside TRL's train"
        )


def timed(work: Callable[[], int]) -> Measured:
    """Time one training, which says how many tokens it read."""
    gc.collect()
    _inside.clear()
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = work()
    return Measured(tokens, time.perf_counter() - wall, time.process_time() - cpu, sum(_inside))


def ours(examples: Sequence[Example], config: SftConfig, folder: Path, base: Checkpoint) -> int:
    """Our trainer."""
    job = TrainJob(base, examples, folder / "checkpoint", folder / "training", 1, epochs=1, seed=SEED)
    return SftTrainer(config).train(job, SilentProgress()).tokens


def bare(examples: Sequence[Example], config: SftConfig, folder: Path, base: Checkpoint) -> int:
    """What the documentation of TRL shows, with the arguments of ours."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer
    from trl.kernels.chunked_logprob import _use_triton
    from trl.trainer import utils

    utils._use_triton = _use_triton  # noqa: SLF001 (ours puts another in its place)
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    rows = [
        {
            "prompt": [{"role": "user", "content": one.prompt}],
            "completion": [{"role": "assistant", "content": one.answer}],
        }
        for one in examples
    ]
    steps = -(-len(rows) // config.batch_size)
    lora = config.lora
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(folder / "training"),
            num_train_epochs=1,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            lr_scheduler_type=config.scheduler,
            warmup_steps=round(config.warmup_share * steps),
            weight_decay=config.weight_decay,
            max_length=config.max_length,
            train_sampling_strategy="sequential",
            save_steps=config.save_every,
            save_total_limit=2,
            logging_steps=max(1, steps // 50),
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=config.precision == "bfloat16",
            activation_checkpointing=False,
            dataloader_pin_memory=False,
            seed=SEED,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        if config.method == "lora"
        else None,
    )
    trainer.train()
    trainer.save_model(str(folder / "checkpoint"))
    return int(trainer.state.log_history[-2]["num_tokens"])


def in_our_order(examples: Sequence[Example], config: SftConfig, base: Checkpoint) -> list[Example]:
    """The examples as ours trains on them, so that both make the same steps."""
    encoded = encode(examples, load_tokenizer(base), max_length=config.max_length).examples
    lengths = [len(example.input_ids) for example in encoded]
    order = training_order(lengths, batch_size=config.batch_size, epochs=1, seed=SEED)
    return [examples[place] for place in order]


def compare(config: SftConfig, examples: Sequence[Example], repeats: int, folder: Path, base: Checkpoint) -> Measured:
    """Both in turn, so that a slow moment of the machine meets both; return the best of ours."""
    name, ordered = f"{config.method}, {config.precision}", in_our_order(examples, config, base)
    best: dict[str, Measured] = {}
    for turn in range(repeats):
        sides: dict[str, Callable[[Path], int]] = {
            "bare TRL": lambda where: bare(ordered, config, where, base),
            "ours": lambda where: ours(examples, config, where, base),
        }
        for side, work in sides.items():
            where = folder / f"{side}-{turn}"
            where.mkdir()
            one = timed(lambda work=work, where=where: work(where))  # type: ignore[misc]
            shutil.rmtree(where)
            print(f"  {name}, {side:<8} {one}")
            if side not in best or one.wall < best[side].wall:
                best[side] = one
    mine, other = best["ours"], best["bare TRL"]
    assert mine.tokens == other.tokens, (mine.tokens, other.tokens)
    print(
        f"{name}, best of {repeats}: ours / bare = {other.wall / mine.wall:.3f} of its tokens/s,"
        f" {other.inside / mine.inside:.3f} inside TRL's train; CPU time {mine.cpu / other.cpu:.3f} of its"
    )
    return mine


def verification(config: SftConfig, examples: Sequence[Example], folder: Path, base: Checkpoint) -> None:
    """How much of one training goes into each part of it."""
    spent: dict[str, float] = {}

    def measured(label: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def around(*what: Any, **how: Any) -> Any:
            began = time.perf_counter()
            try:
                return work(*what, **how)
            finally:
                spent[label] = spent.get(label, 0.0) + time.perf_counter() - began

        return around

    fit.load_for_training = measured("loading", load_for_training)  # type: ignore[attr-defined]
    checkpoints.save = measured("saving", checkpoints.save)
    checkpoints.reload = measured("reading what was saved", checkpoints.reload)
    one = timed(lambda: ours(examples, config, folder / "parts", base))
    spent["TRL's train"] = one.inside
    shares = ", ".join(f"{label} {seconds / one.wall:.1%} ({seconds:.2f} s)" for label, seconds in spent.items())
    print(f"of {one.wall:.2f} s: {shares}")


def watch_trl() -> None:
    """Keep the seconds spent inside TRL's `train`, on both sides alike."""
    from trl import SFTTrainer

    plain = SFTTrainer.train

    def train(self: Any, *what: Any, **how: Any) -> Any:
        began = time.perf_counter()
        found = plain(self, *what, **how)
        _inside.append(time.perf_counter() - began)
        return found

    SFTTrainer.train = train


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--examples", type=int, default=1600)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--only", choices=("full", "lora"), default="full")
    options.add_argument("--model", type=Path, help="folder of a student in place of the built-in one")
    chosen = options.parse_args()
    config = CONFIG.model_copy(update={"method": chosen.only, "precision": "float32"})
    base = Checkpoint(str(chosen.model.expanduser()), 0) if chosen.model else NANO
    pairs = corpus([skill.name for skill in TRAINED], size=chosen.examples, skew=0.0, seed=SEED)
    examples = [Example(one.instruction.id, one.instruction.text, one.response.text) for one in pairs]
    watch_trl()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side in (bare, ours):  # what is imported and compiled once is nobody's time
            side(examples[:64], config, folder / side.__name__, NANO)
        exact = compare(config, examples, chosen.repeats, folder, base)
        if chosen.model:
            half = compare(config.model_copy(update={"precision": "bfloat16"}), examples, chosen.repeats, folder, base)
            print(f"ours in bfloat16 / in float32 = {exact.wall / half.wall:.3f} of its tokens/s")
        verification(config, examples, folder, base)


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    main()
