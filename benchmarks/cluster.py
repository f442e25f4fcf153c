"""What Ray costs: the built-in student answers about 1,000 gym prompts, in this process and on a Ray cluster.

    python benchmarks/cluster.py                 # one core against one worker of one core, then two against two
    python benchmarks/cluster.py --prompts 4096

Both sides have the same cores in the same run, one after the other, `--repeats` times in turn. The start is apart: Ray
has to start (where no cluster runs), a driver to connect, workers to import torch and load the checkpoint. What counts
for a large corpus is the rate between the first block and the last, and the CPU time that all processes of a side take
meanwhile, which depends less on what else the machine does. Answers have to be equal.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path

import psutil

from tapir.config.student import LocalStudentConfig, RayEngineConfig
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.progress import SilentProgress
from tapir.domain.roles import Reply, Student, answers
from tapir.domain.round import Checkpoint
from tapir.gym.skills import TRAINED
from tapir.gym.world import stream
from tapir.models.local.generate import LocalStudent
from tapir.models.local.ray import RayStudent
from tapir.models.local.ray_cluster import RayCluster

NANO = Checkpoint(str(resources.files("tapir.gym") / "nano"), 0)
SECTION = LocalStudentConfig(max_new_tokens=96, batch_size=32)
CHUNK = 32


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds until the first chunk was there; answers a second from then on, and CPU milliseconds for each."""

    start: float
    rate: float
    cpu: float
    answers: dict[int, Sequence[Reply]]

    def __str__(self) -> str:
        return f"{self.rate:.1f} answers/s, {self.cpu:.1f} ms CPU each (start {self.start:.1f} s)"


def prompts(count: int) -> list[list[Instruction]]:
    """Chunks of instructions of every skill, shortest first, as the stage makes them."""
    each = -(-count // len(TRAINED))
    found = {
        one.id: one
        for skill in TRAINED
        for item in islice(stream(skill.name, 1, key="benchmark", reserved=False), each)
        for one in [Instruction.of(item.question, Origin("corpus"))]
    }
    ordered = sorted(found.values(), key=lambda one: (len(one.text), one.id))[:count]
    return [ordered[start : start + CHUNK] for start in range(0, len(ordered), CHUNK)]


def timed(coming: Iterable[tuple[int, Sequence[Reply]]], aside: int, used: Callable[[], float]) -> Measured:
    """The first `aside` chunks are the start: while they are made, workers load the checkpoint."""
    began = time.monotonic()
    found: dict[int, Sequence[Reply]] = {}
    start = before = cpu = 0.0
    counted = 0
    for place, replies in coming:
        found[place] = replies
        if len(found) <= aside:
            start, before = time.monotonic() - began, used()
        else:
            counted += len(replies)
            cpu = max(cpu, used())  # a worker that has ended is not seen any more
    return Measured(start, counted / (time.monotonic() - began - start), 1000 * (cpu - before) / counted, found)


def by_all() -> float:
    """CPU seconds of this process and of all that it started, as far as they live."""
    found = time.process_time()
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            found += times.user + times.system
    return found


def here(chunks: Sequence[Sequence[Instruction]], threads: int) -> Measured:
    """This process, its checkpoint loaded while the first chunk is answered."""
    import torch

    torch.set_num_threads(threads)
    student: Student = LocalStudent(SECTION, seed=7)
    return timed(answers(student, NANO, chunks), 1, time.process_time)


def there(chunks: Sequence[Sequence[Instruction]], cluster: RayCluster, workers: int) -> Measured:
    """A worker for each core."""
    student = RayStudent(cluster, SECTION, seed=7)
    return timed(student.answer_all(NANO, chunks), workers, by_all)


def opened(workers: int, folder: Path) -> RayCluster:
    """A cluster on this machine that has done some work, so that it is started."""
    cluster = RayCluster(RayEngineConfig(kind="ray", workers=workers))
    cluster.open(folder, SilentProgress())
    began = time.monotonic()
    list(RayStudent(cluster, SECTION, seed=7).answer_all(NANO, prompts(CHUNK)))
    print(f"Ray and its first work, {workers} workers: {time.monotonic() - began:.1f} s")
    return cluster


def compare(chunks: Sequence[Sequence[Instruction]], cores: int, repeats: int) -> None:
    """Print both sides, and their ratio in each repeat."""
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        cluster = opened(cores, Path(folder))
        try:
            for _ in range(repeats):
                one, many = here(chunks, cores), there(chunks, cluster, cores)
                ratios.append(many.rate / one.rate)
                equal = sum(one.answers[place] == many.answers[place] for place in one.answers)
                print(
                    f"{cores} cores: this process {one}, Ray {many}; ratio {ratios[-1]:.2f}, CPU"
                    f" {one.cpu / many.cpu:.2f}; {equal} of {len(chunks)} chunks equal"
                )
        finally:
            cluster.close()
    print(f"{cores} cores: ratio {statistics.median(ratios):.2f} (median of {repeats})")


def each_in_its_own_process(arguments: Sequence[str]) -> Iterator[int]:
    """Torch takes its threads once, so each number of cores is measured by a process of its own."""
    for cores in (1, 2):
        command = [sys.executable, __file__, "--cores", str(cores), *arguments]
        # A session of its own, as Ray's processes have: Linux shares a busy machine out by sessions.
        environment = {**os.environ, "OMP_NUM_THREADS": str(cores)}
        yield subprocess.run(command, env=environment, check=True, start_new_session=True).returncode


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--prompts", type=int, default=1024)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--cores", type=int, help="measure with so many cores only")
    chosen = options.parse_args()
    if chosen.cores:
        compare(prompts(chosen.prompts), chosen.cores, chosen.repeats)
    else:
        list(each_in_its_own_process(sys.argv[1:]))


if __name__ == "__main__":
    main()
