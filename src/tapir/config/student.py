"""Sections of the recipe about the student: how it answers, and on which machines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, JsonValue, field_validator

from tapir.config.base import BY_NAME, Count, CustomConfig, Section, Temperature, Text, Whole, kind_or
from tapir.config.training import Precision
from tapir.domain.roles import Student

Seconds: TypeAlias = Annotated[float, Field(gt=0)]

# Arguments of `apply_chat_template` that are no variables of the template.
_RENDERING = frozenset(
    {"self", "conversation", "messages", "chat_template", "add_generation_prompt", "continue_final_message"}
    | {"tokenize", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"}
    | {"padding", "truncation", "max_length", "sanitize_control_tokens"}
)


class StudentSection(Section):
    """The model that learns."""

    implementation_on_ray: ClassVar[str] = ""
    """Class that implements the section where the engine is a Ray cluster, as "module:Class"."""

    model: Text = "nano"
    """"nano" for the built-in student, a folder or hub id that transformers can load, or a GGUF file."""
    revision: str = ""
    """Commit, tag or branch on the hub; empty means the newest."""
    chat_template: str = ""
    """Empty for the model's own, "alpaca" for the one shipped for base models, or a file with a Jinja template."""
    template: dict[str, JsonValue] = Field(default_factory=dict)
    """Arguments of every call of the chat template, e.g. { reasoning_effort = "low" }."""
    thinking: Literal["off", "on", "keep"] = "off"
    """off: it answers at once; on: it may think first, untaught; keep: it learns the teacher's thoughts."""
    thinking_tokens: Whole = 2048
    """Longest thought, in tokens, on top of max_new_tokens."""
    date: str = ""
    """Date for a chat template that asks for one, as in "2026-11-30"; empty: the day the run began."""
    dtype: Precision = "auto"
    """Of the weights while it answers; auto: what the device is fast in (docs/students.md)."""
    max_new_tokens: Count = 112
    """Longest answer, in tokens."""
    temperature: Temperature = 0.0
    """0 is greedy."""

    def idle(self) -> Mapping[str, str]:
        """The built-in student and a file have one revision; one that does not think needs no room for it."""
        idle = {"revision": "model"} if self.model == "nano" or self.gguf else {}
        return idle | ({"thinking_tokens": "thinking"} if self.thinking == "off" else {})

    @property
    def longest(self) -> int:
        """Tokens of a reply at most: of the answer, and of the thought where it thinks."""
        return self.max_new_tokens + (self.thinking_tokens if self.thinking != "off" else 0)

    @field_validator("template", mode="after")
    @classmethod
    def _are_variables(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if names := ", ".join(sorted(_RENDERING & value.keys())):
            other = "; name the template itself in student.chat_template" if "chat_template" in value else ""
            raise ValueError(f"{names} is no variable of a chat template: TAPIR sets how one is rendered{other}")
        return value

    @field_validator("date", mode="before")
    @classmethod
    def _is_a_date(cls, value: object) -> object:
        text = value.isoformat() if isinstance(value, date) else value  # TOML has dates of its own
        if text and isinstance(text, str):
            date.fromisoformat(text)
        return text

    @property
    def gguf(self) -> Path | None:
        """The GGUF file that `model` names; None where it names anything else."""
        path = Path(self.model).expanduser()
        return path if path.suffix.lower() == ".gguf" and not path.is_dir() else None


class LocalStudentConfig(StudentSection):
    """A model answering in this process, through transformers."""

    implementation: ClassVar[str] = "tapir.models.local.generate:LocalStudent"
    implementation_on_ray: ClassVar[str] = "tapir.models.local.ray:RayStudent"
    kind: Literal["transformers"] = "transformers"
    batch_size: Count = 128
    """Prompts answered at once, at most."""
    batch_tokens: Whole = 0
    """Tokens in one batch, prompts and answers together, at most; 0 is no limit."""


class VllmStudentConfig(StudentSection):
    """A model behind a vLLM server that the run starts and stops."""

    implementation: ClassVar[str] = "tapir.models.local.vllm:VllmStudent"
    implementation_on_ray: ClassVar[str] = "tapir.models.local.ray_vllm:RayVllmStudent"
    operational: ClassVar[frozenset[str]] = frozenset(
        {"python", "options", "start_timeout", "reply_timeout", "while_training"}
    )

    kind: Literal["vllm"] = "vllm"
    python: Text = ".venv-vllm/bin/python"
    """Python of the environment that vLLM is installed in."""
    options: tuple[str, ...] = ()
    """More arguments of the server, as in ["--gpu-memory-utilization", "0.8"]."""
    start_timeout: Seconds = 900.0
    """Seconds the server may take to start."""
    reply_timeout: Seconds = 300.0
    """Seconds without any reply after which the server counts as hung."""
    while_training: Literal["stop", "keep"] = "stop"
    """stop: the server is stopped before training, which needs its memory; keep: it has a GPU of its own."""

    @property
    def interpreter(self) -> str:
        """The program that `python` names, with the home folder in the place of ~."""
        return os.path.expanduser(self.python)  # noqa: PTH111 (a Path would lose the ./ that tells a file from a command)


class CustomStudentConfig(CustomConfig, StudentSection):
    """A student of your own, which answers with the checkpoints that training makes of `model`."""

    place: ClassVar[str] = "student"
    role: ClassVar[type] = Student


AnyStudent: TypeAlias = Annotated[
    LocalStudentConfig | VllmStudentConfig | CustomStudentConfig,
    Field(discriminator="kind"),
    kind_or("transformers"),
]


class LocalEngineConfig(Section):
    """This machine."""

    kind: Literal["local"] = "local"


class RayEngineConfig(Section):
    """A Ray cluster, whose workers make the student's answers."""

    kind: Literal["ray"]
    address: str = ""
    """Of the cluster, "auto" or "HOST:PORT" as `ray start` prints it; empty starts one on this machine."""
    workers: Count = 2
    """Workers that answer in parallel."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """Cores of each worker."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of each worker."""


AnyEngine: TypeAlias = Annotated[
    LocalEngineConfig | RayEngineConfig, Field(discriminator="kind"), kind_or("local"), BY_NAME
]
