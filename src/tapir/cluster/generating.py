"""Chunks of instructions through Ray Data's own stage for vLLM: what it is given, and how its rows are read."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from tapir.cluster.wire import Note, Result, Room
from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.instruction import Instruction
from tapir.domain.randomness import seed_for
from tapir.domain.round import Checkpoint
from tapir.errors import RoleError
from tapir.students.checkpoint import ADAPTER, base_of
from tapir.students.load import ModelSettings, load_tokenizer

_MISSING = "vLLM is not installed"
_ERROR = "__inference_error__"  # Ray's column for the trouble with one row
_TO_PROMPT, _TO_READ = 0.5, 0.1  # cores of a task that makes prompts, and of one that reads replies
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # of adapters that vLLM makes room for


@dataclass(frozen=True, slots=True)
class RayVllmSettings:
    """How the student answers.

    Attributes:
        temperature: 0 is greedy.
        seed: of the run; with the instruction's id it seeds each reply that is sampled.
        engine: further arguments of vLLM's engine, for example from `engine_arguments`; they win over ours.
        batch_size: prompts that are handed to an engine together; it works on several such batches at once.
        python: of the environment on the workers that has vLLM and the same Ray; empty where they are all of one.
    """

    max_new_tokens: int
    temperature: float
    seed: int
    engine: Mapping[str, Any]
    batch_size: int = 256
    python: str = ""


@dataclass(frozen=True, slots=True)
class Generating:
    """Chunks of instructions become prompts, then answers.

    Attributes:
        ends: tokens that end an answer.
        own: sampling settings that the model brings.
        light: a worker needs its place.
    """

    checkpoint: Checkpoint
    settings: RayVllmSettings
    model: ModelSettings
    ends: frozenset[int]
    own: Mapping[str, float]
    light: bool = False

    def results(self, blocks: Iterator[bytes], room: Room) -> Iterator[Result | Note]:
        """Place of a chunk, with the turn of an instruction in it and its reply."""
        import ray.data
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        rows = [
            row
            for place, block in enumerate(blocks)
            for row in self.rows(place, pickle.loads(block))  # noqa: S301
        ]
        processor = build_processor(
            vLLMEngineProcessorConfig(**self.processor(room)),
            preprocess=partial(prompted, self.checkpoint, self.model),
            postprocess=read,
            preprocess_map_kwargs={"num_cpus": _TO_PROMPT},
            postprocess_map_kwargs={"num_cpus": _TO_READ},
        )
        try:
            for row in processor(ray.data.from_items(rows)).iter_rows():
                yield Result(row["place"], pickle.dumps((row["turn"], self.reply(row))))
        except ray.exceptions.RayError as error:
            if _MISSING in str(error):
                raise _without_vllm(self.settings.python) from error
            raise

    def rows(self, place: int, chunk: Sequence[Instruction]) -> Iterator[dict[str, Any]]:
        """What Ray Data is given for a chunk: one row for each instruction."""
        settings = self.settings
        sampling: dict[str, Any] = {"temperature": settings.temperature, "max_tokens": settings.max_new_tokens}
        adapter = {"model": self.checkpoint.path} if base_of(self.checkpoint.path) else {}
        for turn, one in enumerate(chunk):
            seed = {"seed": seed_for(settings.seed, one.id)} if settings.temperature else {}
            params = {**sampling, **self.own, **seed}
            yield {"place": place, "turn": turn, "text": one.text, "sampling_params": params, **adapter}

    def processor(self, room: Room) -> dict[str, Any]:
        """The settings of Ray Data's processor: prompts come as tokens, texts come out."""
        order = room.order
        workers = min(room.workers, order.workers)
        return {
            "model_source": base_of(self.checkpoint.path) or self.checkpoint.path,
            "engine_kwargs": self.engine(room),
            "batch_size": self.settings.batch_size,
            "concurrency": (workers, order.workers),
            "placement_group_config": {"bundle_per_worker": _bundle(room)},
            "runtime_env": self._environment(room),
            "should_continue_on_error": True,
            "log_engine_metrics": False,
            "chat_template_stage": False,
            "tokenize_stage": False,
            "detokenize_stage": False,
        }

    def engine(self, room: Room) -> dict[str, Any]:
        """The arguments of vLLM's engine in each worker."""
        found: dict[str, Any] = {"tensor_parallel_size": max(1, int(room.order.gpus))}
        if self.model.dtype != "auto":
            found["dtype"] = self.model.dtype
        elif not room.order.gpus:
            found["dtype"] = "float32"  # as every other student on a CPU
        if self.model.revision and not Path(self.checkpoint.path).is_dir():
            found |= {"revision": self.model.revision, "tokenizer_revision": self.model.revision}
        if base_of(self.checkpoint.path):
            found |= {"enable_lora": True, "max_lora_rank": _rank(self.checkpoint.path)}
        return found | dict(self.settings.engine)

    def _environment(self, room: Room) -> dict[str, Any]:
        """Of the engines."""
        variables = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        if not room.order.gpus:  # GiB; vLLM's own choice is half of the machine
            variables["VLLM_CPU_KVCACHE_SPACE"] = os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1")
        python = {"py_executable": str(Path(self.settings.python).absolute())} if self.settings.python else {}
        return {"env_vars": variables, **python}

    def reply(self, row: Mapping[str, Any]) -> Completion | Failure:
        """What came back for a row."""
        if row.get(_ERROR):
            return Failure("vllm", str(row[_ERROR]))
        tokens = list(row["tokens"])
        stopped = bool(tokens) and tokens[-1] in self.ends
        usage = Usage(int(row["prompt_tokens"]), len(tokens) - stopped)
        return Completion(str(row["text"]), "stop" if stopped else "length", usage, model="student")


def prompted(checkpoint: Checkpoint, model: ModelSettings, row: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens that an engine reads for a row: those that every other student reads, begun and marked as they are."""
    chat = [{"role": "user", "content": row["text"]}]
    tokenizer = _tokenizer(checkpoint, model)
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
    return {**row, "tokenized_prompt": list(ids)}


@lru_cache(1)
def _tokenizer(checkpoint: Checkpoint, model: ModelSettings) -> Any:
    return load_tokenizer(checkpoint, model)


def read(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a row that an engine has answered."""
    return {
        "place": row["place"],
        "turn": row["turn"],
        "text": row["generated_text"],
        "tokens": row["generated_tokens"],
        "prompt_tokens": row["num_input_tokens"],
    }


def _bundle(room: Room) -> dict[str, float]:
    """What Ray sets aside for each GPU of a worker, or for a worker without any."""
    order = room.order
    many = max(1, int(order.gpus))
    found = {"CPU": order.cpus / many}
    return {**found, "GPU": order.gpus / many} if order.gpus else found


def _without_vllm(python: str) -> RoleError:
    where = f"the Python {python}" if python else "the Python that Ray runs in"
    return RoleError(
        f"vLLM is not installed on the Ray cluster's workers, in {where}",
        remedy="Install vLLM there on every machine, beside the same version of Ray, or set student.python to the"
        ' Python of an environment that has both; else use student.kind = "transformers".',
    )


def _rank(adapter: str) -> int:
    """Room for the largest matrices of an adapter."""
    try:
        described = json.loads((Path(adapter) / ADAPTER).read_text("utf-8"))
        largest = max(int(described["r"]), *map(int, (described.get("rank_pattern") or {}).values()), 1)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RoleError(
            f"{adapter} is an adapter that vLLM cannot load: {error!r}",
            remedy='Use LoRA (training.method = "lora" or "qlora"), or student.kind = "transformers".',
        ) from error
    return next((rank for rank in _RANKS if rank >= largest), largest)
