"""One full round with a student of the size people use: tokens/s, memory, share of the card's rate, hand-over.

`python benchmarks/full_round.py` makes a Llama of 0.5 B random parameters and takes it through answering, judging,
training and evaluation in the embedded world, on the best device there is. `--tiny` makes it small enough for a CPU,
which shows that the script works and nothing else.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from importlib import resources
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tapir.config.toml import load
from tapir.data.run.rows import AnswerRow
from tapir.data.run.store import RunStore
from tapir.runs import session

HALF_A_BILLION = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
VOCABULARY = 151_936  # as Qwen2.5 has it: the output layer is a large part of a small model's work
FORWARD_AND_BACKWARD = 6  # floating-point operations for each parameter and token
FORWARD = 2


def make(folder: Path, *, tiny: bool) -> int:
    """Save the student; returns how many parameters it has."""
    tokenizer = AutoTokenizer.from_pretrained(str(resources.files("tapir.gym") / "nano"))
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        **(TINY if tiny else HALF_A_BILLION),
        num_key_value_heads=2,
        vocab_size=len(tokenizer) if tiny else VOCABULARY,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.float32 if tiny else torch.bfloat16)
    model.save_pretrained(folder)
    return sum(one.numel() for one in model.parameters())


def matrix_rate() -> float:
    """Floating-point operations per second of a large bfloat16 product on this card, best of ten."""
    size = 8192
    left = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        began = time.perf_counter()
        left @ left
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def seconds_of(events: Path) -> dict[str, float]:
    """Seconds of every stage, and from the end of the stage before training to its first figures."""
    found: dict[str, float] = {}
    ended = 0.0
    for line in events.read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "finished":
            found[f"{event['stage']} {event['round']}"] = event["seconds"]
            ended = event["time"]
        if event["event"] == "stage" and event["stage"] == "train":
            found["hand-over to training"] = event["time"] - ended
        if event["event"] == "stage" and event["stage"] == "evaluate" and event["round"] == 1:
            found["hand-over to answering"] = event["time"] - ended
    return found


def main() -> None:
    """Make the student, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes of the recipe")
    parser.add_argument("--out", type=Path, help="file for the figures, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = make(folder / "student", tiny=options.tiny)
        size = 200 if options.tiny else 8000
        changes = [
            f"student.model={folder / 'student'}",
            f"student.max_new_tokens={16 if options.tiny else 256}",
            f"student.batch_size={32 if options.tiny else 512}",
            f"corpus.size={size}",
            f"curriculum.size={size // 2}",
            "curriculum.rounds=1",
            "training.epochs=1",
            "training.batch_size=32",
            "training.max_length=512",
            "evaluation.per_task=5",
            *options.set,
        ]
        session.run(load("gym", changes), folder / "run")
        store = RunStore(folder / "run")
        took = seconds_of(folder / "run" / "events.jsonl")
        trained = json.loads((folder / "run" / "round-1" / "training.json").read_text())
        written = sum(row.tokens for row in store.each("round-0/answers", AnswerRow))
    figures: dict[str, float] = {
        "parameters": parameters,
        "answer tokens/s": written / took["answer 0"],
        "training tokens/s": trained["tokens_per_second"],
    } | took
    if torch.cuda.is_available():
        rate = matrix_rate()
        figures |= {
            "matrix TFLOP/s": rate / 1e12,
            "share in training": FORWARD_AND_BACKWARD * parameters * trained["tokens_per_second"] / rate,
            "share in answering": FORWARD * parameters * written / took["answer 0"] / rate,
            "most memory GB": torch.cuda.max_memory_allocated() / 1e9,
        }
    for what, figure in figures.items():
        print(f"{what:<28} {figure:,.3f}")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
