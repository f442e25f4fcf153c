"""A student on the vLLM engines of a Ray cluster, through Ray Data's own stage for vLLM."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tapir.config.student import VllmStudentConfig
from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.errors import RecipeError, RoleError
from tapir.domain.instruction import Instruction
from tapir.domain.randomness import seed_for
from tapir.domain.roles import Reply
from tapir.domain.round import Checkpoint
from tapir.models.local.loading import (
    ModelSettings,
    adapter_rank,
    base_of,
    end_tokens,
    load_generation_config,
    load_tokenizer,
)
from tapir.models.local.ray import ClusterStudent
from tapir.models.local.ray_cluster import Result, Room
from tapir.models.local.template import ReplyReader, prompt_tokens
from tapir.models.local.vllm_server import check_options, engine_arguments, engine_environment

if TYPE_CHECKING:
    from tapir.models.context import BuildContext

_MISSING = "vLLM is not installed"
_ERROR = "__inference_error__"  # Ray's column for the error of one row, empty for none
_KIND = "failure"  # our column for the kind of an error that is not the engine's
_PREPROCESS_CPUS, _POSTPROCESS_CPUS = 0.5, 0.1
_BATCH_SIZE = 256  # prompts that are handed to an engine together; it works on several such batches at once
_OWN_SAMPLING = ("top_p", "top_k", "min_p", "repetition_penalty")  # settings of the model's own that hold beside ours


@dataclass(frozen=True, slots=True)
class VllmFlow:
    """Chunks of instructions become prompts, then answers."""

    checkpoint: Checkpoint
    section: VllmStudentConfig
    seed: int
    model: ModelSettings
    ends: frozenset[int]  # tokens that end an answer
    sampling: Mapping[str, float]  # settings that the model brings

    def __call__(self, blocks: Iterator[bytes], room: Room) -> Iterator[Result]:
        """Yield place and replies of each chunk."""
        import ray.data
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        chunks = [*map(pickle.loads, blocks)]
        rows = [row for place, chunk in enumerate(chunks) for row in self.rows(place, chunk)]
        processor = build_processor(
            vLLMEngineProcessorConfig(**self.processor(room)),
            preprocess=partial(preprocess, self.checkpoint, self.model),
            postprocess=postprocess,
            preprocess_map_kwargs={"num_cpus": _PREPROCESS_CPUS},
            postprocess_map_kwargs={"num_cpus": _POSTPROCESS_CPUS},
        )
        try:
            for place, replies in self.gathered(chunks, processor(ray.data.from_items(rows)).iter_rows()):
                yield place, pickle.dumps(replies)
        except ray.exceptions.RayError as error:
            if _MISSING in str(error):
                python = self._python()
                where = f"the Python {python}" if python else "the Python that Ray runs in"
                raise RoleError(
                    f"vLLM is not installed on the Ray cluster's workers, in {where}",
                    remedy="Install vLLM there on every machine, with the same version of Ray, or set student.python to"
                    ' the Python of an environment that has both; else use student.kind = "transformers".',
                ) from error
            raise

    def rows(self, place: int, chunk: Sequence[Instruction]) -> Iterator[dict[str, Any]]:
        """Yield what Ray Data is given for a chunk: one row for each instruction."""
        section = self.section
        sampling = {"temperature": section.temperature, "max_tokens": section.longest, **self.sampling}
        adapter = {"model": self.checkpoint.path} if base_of(self.checkpoint.path) else {}
        for turn, instruction in enumerate(chunk):
            seed = {"seed": seed_for(self.seed, instruction.id)} if section.temperature else {}
            params = {**sampling, **seed}
            messages = json.dumps(instruction.messages)
            yield {"place": place, "turn": turn, "messages": messages, "sampling_params": params, **adapter}

    def gathered(
        self, chunks: Sequence[Sequence[Instruction]], rows: Iterable[Mapping[str, Any]]
    ) -> Iterator[tuple[int, list[Reply]]]:
        """Yield place and replies of each chunk, once all its rows have come back."""
        pending: dict[int, dict[int, Completion | Failure]] = {place: {} for place in range(len(chunks))}
        for row in rows:
            place, replies = row["place"], pending[row["place"]]
            replies[row["turn"]] = self.reply(row)
            if len(replies) == len(chunks[place]):
                del pending[place]
                yield place, [(one.id, replies[turn]) for turn, one in enumerate(chunks[place])]
        yield from ((place, []) for place in pending)  # empty chunks

    def processor(self, room: Room) -> dict[str, Any]:
        """Return the settings of Ray Data's processor: prompts come as tokens, texts come out."""
        engine = room.engine
        gpus = max(1, int(engine.gpus))  # one bundle for each GPU of a worker, or for a worker without any
        bundle = {"CPU": engine.cpus / gpus} | ({"GPU": engine.gpus / gpus} if engine.gpus else {})
        stages = ("chat_template_stage", "tokenize_stage", "detokenize_stage")
        python = self._python()
        program = {"py_executable": str(Path(python).absolute())} if python else {}
        return {
            "model_source": base_of(self.checkpoint.path) or self.checkpoint.path,
            "engine_kwargs": self.engine_arguments(room),
            "batch_size": _BATCH_SIZE,
            "concurrency": (min(room.workers, engine.workers), engine.workers),
            "placement_group_config": {"bundle_per_worker": bundle},
            "runtime_env": {"env_vars": engine_environment(gpu=engine.gpus > 0), **program},
            "should_continue_on_error": True,
            "log_engine_metrics": False,
            **dict.fromkeys(stages, False),
        }

    def engine_arguments(self, room: Room) -> dict[str, Any]:
        """Return the arguments of vLLM's engine in each worker; those of the recipe win over ours."""
        path, gpus = self.checkpoint.path, room.engine.gpus
        base = base_of(path)
        rank = adapter_rank(path) if base else 0
        arguments = engine_arguments(base or path, self.model, rank, gpu=gpus > 0)
        return {"tensor_parallel_size": max(1, int(gpus)), **arguments, **parse_options(self.section.options)}

    def _python(self) -> str:
        """Return the Python that the recipe names for the engines; empty means that of Ray."""
        return self.section.python if "python" in self.section.model_fields_set else ""

    def reply(self, row: Mapping[str, Any]) -> Completion | Failure:
        """Return the reply in a row that came back."""
        if row.get(_ERROR):
            return Failure(row.get(_KIND) or "vllm", str(row[_ERROR]))
        tokens = list(row["tokens"])
        stopped = bool(tokens) and tokens[-1] in self.ends
        usage = Usage(int(row["prompt_tokens"]), len(tokens) - stopped)
        reply = Completion(str(row["text"]), "stop" if stopped else "length", usage, model="student")
        reader = _reader(self.checkpoint, self.model)
        if not reader.marked:
            return reader.within(reply.parted(reader.begun), self.section)
        text, thought = reader.read(tokens[:-1] if stopped else tokens)
        return reader.within(replace(reply, text=text, reasoning=thought), self.section)


_tokenizer = lru_cache(1)(load_tokenizer)


def preprocess(checkpoint: Checkpoint, model: ModelSettings, row: Mapping[str, Any]) -> dict[str, Any]:
    """Add the tokens that an engine reads to a row: those that every other student reads.

    A row whose prompt the template refuses becomes one with an error, which no engine reads. The others have an empty
    one: where it is missing beside such a row, Ray takes that for an error too.
    """
    (tokens,) = prompt_tokens(_tokenizer(checkpoint, model), [json.loads(row["messages"])])
    if isinstance(tokens, Failure):
        return {**row, "tokenized_prompt": [0], _ERROR: tokens.message, _KIND: tokens.kind}
    return {**row, "tokenized_prompt": tokens, _ERROR: "", _KIND: ""}


@lru_cache(1)
def _reader(checkpoint: Checkpoint, model: ModelSettings) -> ReplyReader:
    return ReplyReader(_tokenizer(checkpoint, model))


def postprocess(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a row that an engine has answered."""
    renamed = {"text": "generated_text", "tokens": "generated_tokens", "prompt_tokens": "num_input_tokens"}
    return {"place": row["place"], "turn": row["turn"], **{name: row[theirs] for name, theirs in renamed.items()}}


class RayVllmStudent(ClusterStudent[VllmStudentConfig]):
    """Each worker is an engine of vLLM with its GPUs; adapters are loaded beside their base."""

    @classmethod
    def build(cls, section: VllmStudentConfig, context: BuildContext) -> Self:
        """Build the student of a run; raises where an option cannot be used."""
        parse_options(section.options)
        return super().build(section, context)

    def flow(self, checkpoint: Checkpoint) -> VllmFlow:
        """Return the flow of prompts and replies, with the tokens that end one and the model's own sampling."""
        config = load_generation_config(base_of(checkpoint.path) or checkpoint.path, self._model.revision)
        own = config.to_diff_dict() if config else {}
        sampling = {name: own[name] for name in _OWN_SAMPLING if own.get(name) is not None}
        ends = end_tokens(load_tokenizer(checkpoint, self._model), config)
        return VllmFlow(checkpoint, self._section, self._seed, self._model, ends, sampling)


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Return options of a vLLM server as arguments of its engine: `--max-model-len 4096` is `max_model_len = 4096`."""
    check_options(options)
    arguments: dict[str, Any] = {}
    name = ""
    for part in options:
        if part.startswith("--"):
            name, equals, value = part[2:].partition("=")
            name = name.replace("-", "_")
            off = not equals and name.startswith("no_")
            arguments[name.removeprefix("no_") if off else name] = _parse(value) if equals else not off
        elif name:
            arguments[name] = _parse(part)
            name = ""
        else:
            raise RecipeError(
                f"student.options: {part!r} belongs to no option",
                remedy='Write each option with its value, as in ["--max-model-len", "4096"].',
            )
    return arguments


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
