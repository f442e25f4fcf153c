"""Sections of the recipe about the student: how it answers, how it is trained, and on which machines.

The line under a field is its help.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from tapir.sections import Count, LlmTagger, NoTagger, Section, Share, Temperature, Text, TfidfTagger, Whole, kind_or

Precision: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
Seconds: TypeAlias = Annotated[float, Field(gt=0)]


class StudentSection(Section):
    """The model that learns."""

    model: Text = "nano"
    """"nano" for the built-in student, or a folder or hub id that transformers can load."""
    revision: str = ""
    """Commit, tag or branch on the hub; empty means the newest."""
    chat_template: str = ""
    """Empty for the model's own, "alpaca" for the one shipped for base models, or a file with a Jinja template."""
    dtype: Precision = "auto"
    """Of the weights while it answers; auto: bfloat16 on a GPU (float16 on one without it), float32 on the CPU."""
    max_new_tokens: Count = 112
    """Longest answer, in tokens."""
    temperature: Temperature = 0.0
    """0 is greedy."""

    def idle(self) -> Mapping[str, str]:
        """The built-in student has one revision and its own template."""
        return {"revision": "model"} if self.model == "nano" else {}


class LocalStudent(StudentSection):
    """A model answering in this process, through transformers."""

    kind: Literal["transformers"] = "transformers"
    """How the student answers."""
    batch_size: Count = 128
    """Prompts answered at once, at most."""
    batch_tokens: Whole = 0
    """Tokens in one batch, prompts and answers together, at most; 0 is no limit."""


class VllmStudent(StudentSection):
    """A model behind a vLLM server that the run starts and stops."""

    operational: ClassVar[frozenset[str]] = frozenset(
        {"python", "options", "start_timeout", "reply_timeout", "while_training"}
    )
    """Keys that do not change what is computed: a run may go on with others."""

    kind: Literal["vllm"] = "vllm"
    """How the student answers."""
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


AnyStudent: TypeAlias = Annotated[LocalStudent | VllmStudent, Field(discriminator="kind"), kind_or("transformers")]


class Lora(Section):
    """A low-rank adapter."""

    rank: Count = 16
    """Rank of the update."""
    alpha: Count = 32
    """The update is scaled by alpha / rank."""
    dropout: Share = 0.0
    """Dropout before the adapter."""
    targets: tuple[str, ...] = ("all-linear",)
    """Names of the layers that get an adapter."""


class Dpo(Section):
    """Direct preference optimisation after every round's fine-tuning."""

    gap: Annotated[float, Field(gt=0)] = 4.0
    """The trained answer is preferred to the student's own where the judge's gap is at least this."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """How closely the student stays to what it was before."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-6
    """Peak learning rate."""
    epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the pairs."""


class Here(Section):
    """Training in this process."""

    kind: Literal["here"] = "here"
    """Where training runs."""


class Accelerate(Section):
    """Training in processes that `accelerate launch` starts."""

    kind: Literal["accelerate"]
    """Where training runs."""
    processes: Count = 1
    """Processes, one for each GPU of this machine."""
    config: Text = "ddp"
    """How they share the work: ddp, fsdp2, zero2, zero3, or a configuration file of accelerate."""


class RayTrain(Section):
    """Training in workers of a Ray cluster."""

    kind: Literal["ray"]
    """Where training runs."""
    workers: Count = 1
    """Workers that train together."""
    gpus: Whole = 0
    """GPUs of each worker."""


AnyLaunch: TypeAlias = Annotated[Here | Accelerate | RayTrain, Field(discriminator="kind"), kind_or("here")]


class Sft(Section):
    """Fine-tuning of the student, on answer tokens only."""

    operational: ClassVar[frozenset[str]] = frozenset(
        {"micro_batch", "gradient_checkpointing", "save_every", "report_to", "launch"}
    )
    """Keys that change nothing but the last bits of what is computed: a run may go on with others."""

    kind: Literal["sft"] = "sft"
    """How the student is trained."""
    method: Literal["full", "lora", "qlora"] = "full"
    """full: every weight; lora: a low-rank adapter; qlora: the same over a base in 4 bits."""
    lora: Lora = Lora()
    """The adapter."""
    epochs: Annotated[float, Field(gt=0)] = 2.0
    """Passes over a round's examples."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    """Peak learning rate (AdamW)."""
    batch_size: Count = 32
    """Examples per step, over all processes."""
    micro_batch: Whole = 0
    """Examples in one forward pass of one process; 0 takes its whole part of the step."""
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """Learning rate over the steps of its span."""
    span: Literal["round", "run"] = "round"
    """round: it rises and falls in each round; run: it falls once, from the first round to the last."""
    warmup_share: Share = 0.05
    """Share of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay."""
    max_length: Count = 512
    """Longest example in tokens."""
    too_long: Literal["drop", "cut"] = "drop"
    """drop: a longer example is left out and counted; cut: its answer loses its end, which is counted too."""
    packing: bool = False
    """Several examples in a row of max_length tokens, none of which sees another."""
    precision: Precision = "auto"
    """Of the arithmetic; auto: bfloat16 where an accelerator computes in it, else float32."""
    gradient_checkpointing: bool = False
    """Compute activations twice to keep fewer of them."""
    save_every: Count = 50
    """Steps between two training checkpoints."""
    report_to: tuple[Text, ...] = ()
    """Trackers that are told too, as in ["tensorboard"]: wandb, mlflow, trackio, tensorboard."""
    launch: AnyLaunch = Here()
    """Where training runs."""
    dpo: Dpo | None = None
    """Preference optimisation on the pairs that judging yields; without this table there is none."""

    def idle(self) -> Mapping[str, str]:
        """Full fine-tuning has no adapter."""
        return {"lora": "method"} if self.method == "full" else {}

    @model_validator(mode="after")
    def _falls_over_its_span(self) -> Sft:
        if self.span == "run" and self.scheduler != "linear":
            raise ValueError(
                f"span = 'run' with scheduler = {self.scheduler!r}: only 'linear' can fall over all rounds"
            )
        return self


class CommandTraining(Section):
    """Fine-tuning by a program of your own."""

    kind: Literal["command"]
    """How the student is trained."""
    command: Annotated[tuple[Text, ...], Field(min_length=1)]
    """The program and its arguments; {base} {data} {out} {work} {seed} {epochs} {round} are filled in."""
    format: Literal["messages", "alpaca", "sharegpt"] = "messages"
    """How the examples are written for it."""
    epochs: Annotated[float, Field(gt=0)] = 2.0
    """Passes over a round's examples."""


AnyTraining: TypeAlias = Annotated[Sft | CommandTraining, Field(discriminator="kind"), kind_or("sft")]


class LocalEngine(Section):
    """This machine."""

    kind: Literal["local"] = "local"
    """What carries the load."""


class RayEngine(Section):
    """A Ray cluster: the student's answers, tags and the judge's free calls are made by its workers."""

    kind: Literal["ray"]
    """What carries the load."""
    address: str = ""
    """Of the cluster, as in "ray://head:10001" or "auto"; empty starts one on this machine."""
    workers: Count = 2
    """Workers that answer, tag or judge beside each other."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """Cores of each worker."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of each worker."""


def _by_name(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


AnyEngine: TypeAlias = Annotated[
    LocalEngine | RayEngine, Field(discriminator="kind"), kind_or("local"), BeforeValidator(_by_name)
]


class EncoderTagger(Section):
    """An encoder classifier, fine-tuned in the run from labels, or a published one."""

    kind: Literal["encoder"]
    """Who tags."""
    model: Text = "answerdotai/ModernBERT-base"
    """The encoder, a folder or hub id that transformers can load; with labelled = 0 a classifier of the taxonomy."""
    revision: str = ""
    """Commit, tag or branch on the hub; empty means the newest."""
    labelled: Whole = 5000
    """Instructions labelled to learn from; 0 for a published classifier, which learns nothing."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the labels kept to measure the tagger."""
    epochs: Annotated[float, Field(gt=0)] = 3.0
    """Passes over the labels."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """Peak learning rate (AdamW)."""
    batch_size: Count = 32
    """Instructions per step, and tagged at once."""
    max_length: Count = 256
    """Tokens read of an instruction; what follows is not seen."""
    abstain_below: Share = 0.0
    """An instruction whose best label is less probable than this gets none; 0 labels all."""
    endpoints: tuple[str, ...] = ()
    """Names of the endpoints that label; empty means the gym's teacher."""
    max_tokens: Count = 32
    """Longest label, in tokens."""

    def idle(self) -> Mapping[str, str]:
        """A published classifier learns nothing; the gym's teacher writes no tokens."""
        found: dict[str, str] = {}
        if not self.labelled:
            found = dict.fromkeys(("held_out", "epochs", "learning_rate", "endpoints", "max_tokens"), "labelled")
        elif not self.endpoints:
            found = {"max_tokens": "endpoints"}
        return found

    @model_validator(mode="after")
    def _enough_labels(self) -> EncoderTagger:
        if 0 < self.labelled < 20:  # noqa: PLR2004
            raise ValueError(f"labelled = {self.labelled} is too few to learn from: use 20 or more, or 0")
        return self


AnyTagger: TypeAlias = Annotated[
    TfidfTagger | LlmTagger | EncoderTagger | NoTagger, Field(discriminator="kind"), kind_or("tfidf")
]
