"""A student that answers on many accelerators, through Ray Data's own stage for vLLM."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from tapir.cluster.connection import RayCluster
from tapir.cluster.student import everywhere
from tapir.cluster.wire import Note, Result, Room
from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.instruction import Instruction
from tapir.domain.randomness import seed_for
from tapir.domain.round import Checkpoint
from tapir.errors import RecipeError, RoleError
from tapir.roles import Reply, Watch
from tapir.students.checkpoint import ADAPTER, base_of
from tapir.students.load import AS_IT_IS, ModelSettings, load_tokenizer

_MISSING = "vLLM is not installed"
_ERROR = "__inference_error__"  # Ray's column for the trouble with one row
_OWN = ("top_p", "top_k", "min_p", "repetition_penalty")  # settings of the model's own that hold beside ours
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
        order, python = room.order, self.settings.python
        quiet = {"env_vars": {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}}
        workers = min(room.workers, order.workers)
        return {
            "model_source": base_of(self.checkpoint.path) or self.checkpoint.path,
            "engine_kwargs": self.engine(room),
            "batch_size": self.settings.batch_size,
            "concurrency": (workers, order.workers),
            "placement_group_config": {"bundle_per_worker": _bundle(room)},
            "runtime_env": {**quiet, "py_executable": python} if python else quiet,
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

    def reply(self, row: Mapping[str, Any]) -> Completion | Failure:
        """What came back for a row."""
        if row.get(_ERROR):
            return Failure("vllm", str(row[_ERROR]))
        tokens = list(row["tokens"])
        stopped = bool(tokens) and tokens[-1] in self.ends
        usage = Usage(int(row["prompt_tokens"]), len(tokens) - stopped)
        return Completion(str(row["text"]), "stop" if stopped else "length", usage, model="student")


class RayVllmStudent:
    """Each worker is an engine of vLLM with its GPUs; adapters are loaded beside their base."""

    def __init__(self, cluster: RayCluster, settings: RayVllmSettings, model: ModelSettings = AS_IT_IS) -> None:
        """Take the cluster, how to answer, and how the model is read."""
        self._cluster = cluster
        self._settings = settings
        self._model = model

    def open(self, folder: Path, watch: Watch) -> None:
        """A session begins."""
        self._cluster.open(folder, watch)

    def rest(self) -> None:
        """Its engines ended with their work."""
        self._cluster.rest()

    def close(self) -> None:
        """The session ends."""
        self._cluster.close()

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        """One reply for each instruction.

        Raises:
            RoleError: the cluster cannot be used, vLLM is not on it, or the checkpoint cannot be loaded.
            Interrupted: the user stopped.
        """
        for _, replies in self.answer_all(checkpoint, [instructions]):
            yield from replies

    def answer_all(
        self, checkpoint: Checkpoint, chunks: Iterable[Sequence[Instruction]]
    ) -> Iterator[tuple[int, Sequence[Reply]]]:
        """Place of a chunk and its replies, once all of them are there; raises what `answer` raises."""
        ids: list[list[str]] = []

        def taken() -> Iterator[list[Instruction]]:
            for chunk in chunks:
                ids.append([one.id for one in chunk])
                yield list(chunk)

        owed: dict[int, dict[int, Completion | Failure]] = {}
        for place, (turn, reply) in self._cluster.map(self._flow(checkpoint), taken()):
            found = owed.setdefault(place, {})
            found[turn] = reply
            if len(found) == len(ids[place]):
                del owed[place]
                yield place, [(name, found[number]) for number, name in enumerate(ids[place])]
        yield from ((place, []) for place, names in enumerate(ids) if not names)

    def _flow(self, checkpoint: Checkpoint) -> Generating:
        there = everywhere(checkpoint)
        own = _generation(base_of(there.path) or there.path, self._model.revision)
        named = own.get("eos_token_id")
        ends = [load_tokenizer(there, self._model).eos_token_id, *(named if isinstance(named, list) else [named])]
        settings = {name: own[name] for name in _OWN if own.get(name) is not None}
        return Generating(
            there, self._settings, self._model, frozenset(int(one) for one in ends if one is not None), settings
        )


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


def engine_arguments(options: Sequence[str]) -> dict[str, Any]:
    """The options of a vLLM server as arguments of its engine: `--max-model-len 4096` is `max_model_len = 4096`.

    Raises:
        RecipeError: they are no options.
    """
    found: dict[str, Any] = {}
    name = ""
    for part in options:
        if part.startswith("--"):
            name, given, value = part[2:].partition("=")
            name = name.replace("-", "_")
            if not given and name.startswith("no_"):
                found[name[3:]] = False
            else:
                found[name] = _value(value) if given else True
        elif name:
            found[name] = _value(part)
            name = ""
        else:
            raise RecipeError(
                f"student.options: {part!r} belongs to no option",
                remedy='Write each option with its value, as in ["--max-model-len", "4096"].',
            )
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


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


def _generation(model: str, revision: str) -> dict[str, Any]:
    """What the model's own generation settings say; nothing where it brings none."""
    from transformers import GenerationConfig

    try:
        found: dict[str, Any] = GenerationConfig.from_pretrained(model, revision=revision or "main").to_diff_dict()
    except OSError:
        return {}
    return found
