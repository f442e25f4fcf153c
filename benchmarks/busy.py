"""Training on a busy machine: steps per second beside 0, 1 and 3 busy processes, with and without `limit_threads`.

    python benchmarks/busy.py                # some three minutes
    python benchmarks/busy.py --seconds 3    # shorter trainings

The student is a small Llama with random weights, large enough that OpenMP uses several threads. Every training is a
process of its own, as the setting counts only before torch is loaded; OMP_NUM_THREADS and the like are unset for it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

BUSY = (0, 1, 3)
UNSET = ("OMP_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "MKL_NUM_THREADS")

TRAIN = """
import sys, time
if sys.argv[1] == "limited":
    from tapir.models.memory import limit_threads
    limit_threads()
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=2048, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=4,
))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
ids = torch.randint(0, 2048, (8, 64))


def step():
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


for _ in range(3):
    step()
began, steps = time.perf_counter(), 0
while (elapsed := time.perf_counter() - began) < float(sys.argv[2]):
    step()
    steps += 1
print(steps / elapsed)
"""


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many cores busy meanwhile."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def steps_per_second(setting: str, seconds: float) -> float:
    """Train for a while in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    command = [sys.executable, "-c", TRAIN, setting, str(seconds)]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure both settings in turn, so that a slow moment of the machine meets both."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=8.0, help="of each training (default 8)")
    options.add_argument("--repeats", type=int, default=3, help="of which the median counts (default 3)")
    chosen = options.parse_args()
    print(f"{os.cpu_count()} cores; steps/s, and their share of the steps/s as it is on the free machine")
    free = 0.0
    for count in BUSY:
        rates: dict[str, list[float]] = {"as it is": [], "limited": []}
        with busy(count):
            for _ in range(chosen.repeats):
                for setting, values in rates.items():
                    values.append(steps_per_second(setting, chosen.seconds))
        plain, limited = (statistics.median(values) for values in rates.values())
        free = free or plain
        print(
            f"beside {count} busy: as it is {plain:6.2f} ({plain / free:4.0%}), limited {limited:6.2f}"
            f" ({limited / free:4.0%}), limited / as it is = {limited / plain:.2f}"
        )


if __name__ == "__main__":
    main()
