"""One training from its base to a checkpoint that was compared with what was trained, whatever it optimises.

What is particular to supervised or to preference optimisation is a `Lesson`; resuming, saving, comparing, a lack of
memory and giving memory back are the same for both, and here.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tapir.errors import TrainingError
from tapir.roles import TrainJob, Watch
from tapir.store.files import disk_errors
from tapir.training import saving, verify
from tapir.training.arguments import arguments, log_every
from tapir.training.batches import Layout
from tapir.training.memory import give_back, given_back, ran_out
from tapir.training.model import Device, counted, device, open_model, to_load_again
from tapir.training.progress import Pulse, callback, curve
from tapir.training.ranks import first, processes, wait
from tapir.training.settings import SftSettings, halved, shared_out
from tapir.training.trackers import own_callbacks


class Lesson(Protocol):
    """What a training learns from, and by which trainer of TRL."""

    @property
    def probes(self) -> Sequence[Sequence[int]]:
        """Token ids of a few examples, for comparing what was saved with what was trained."""

    @property
    def read(self) -> Sequence[int]:
        """Tokens read before each step, and in all as the last."""

    def layout(self, micro: int, processes: int) -> Layout:
        """All steps, with forward passes of so many examples in each of so many processes."""

    def config(self, shared: dict[str, Any]) -> Any:
        """TRL's arguments: those that all trainers share, and its own."""

    def trainer(self, model: Any, config: Any, layout: Layout, callbacks: list[Any]) -> Any:
        """A trainer of TRL whose every step reads what the layout says."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a training did; see `TrainReport` for the fields."""

    steps: int
    loss: list[tuple[int, float]]
    parameters: int
    trainable: int
    seconds: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class _Course:
    """Everything a try at a training needs."""

    job: TrainJob
    settings: SftSettings
    lesson: Lesson
    tokenizer: Any
    watch: Watch
    where: Device


def fit(job: TrainJob, settings: SftSettings, lesson: Lesson, tokenizer: Any, watch: Watch) -> Fitted:
    """Train, or go on from the last complete training checkpoint in `job.work`; leave the new checkpoint in `job.out`.

    A whole model is saved in the precision it was trained in: float32, or bfloat16 where that is what the
    arithmetic was done in, although the weights were kept in float32 during training; the next round starts from
    what was saved. An adapter is saved in float32 (over a base in 4 bits: bfloat16) and names its base.

    If memory runs out, the training goes on once with half as many examples in a pass, and so with the same steps;
    where several processes train, it ends.

    Raises:
        TrainingError: the loss is not a number, memory ran out, or the saved checkpoint is not what was trained.
        StoreFull: the disk filled up; what was saved before stays.
        Interrupted: the user asked to stop; a training checkpoint was saved.
    """
    micro, accumulation = shared_out(settings, processes())
    course = _Course(job, settings, lesson, tokenizer, watch, device(settings.precision))
    with disk_errors(job.work):
        job.work.mkdir(parents=True, exist_ok=True)
    done = _tried(course, micro)
    if isinstance(done, Fitted):
        return done
    smaller = halved(micro, accumulation) if processes() == 1 else 0
    if not smaller:
        raise _out_of_memory(done, micro)
    watch.note(f"out of memory with {micro} examples in a pass: going on with training.micro_batch = {smaller}")
    done = _tried(course, smaller)
    if isinstance(done, Fitted):
        return done
    raise _out_of_memory(done, smaller)


def _tried(course: _Course, micro: int) -> Fitted | str:
    """What the training did, or the message with which memory ran out."""
    try:
        with given_back():
            return _train(course, micro)
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        return str(error).partition("\n")[0][:200]


def _train(course: _Course, micro: int) -> Fitted:
    from transformers import PrinterCallback, set_seed

    job, watch, lesson = course.job, course.watch, course.lesson
    layout = lesson.layout(micro, processes())
    config = lesson.config(arguments(job, course.settings, layout, course.where))  # before the model, for ZeRO-3
    if config.n_gpu > 1:
        watch.note(f"one of {config.n_gpu} GPUs trains: with training.launch, several do")
        config._n_gpu = 1  # noqa: SLF001 (transformers would use them in a way that TRL does not support)
    set_seed(job.seed)  # an adapter begins at random
    model = open_model(job.base, course.settings, course.where)
    parameters, trainable = counted(model)
    last = saving.last_complete(job.work)
    watch.start(job.number, "train", layout.steps, saving.step_of(last))
    pulse = Pulse(watch, lesson.read)
    callbacks = [callback(pulse), *own_callbacks(course.settings.report_to, job.out.parent / "tensorboard")]
    with saving.writing(job.work):
        trainer = lesson.trainer(model, config, layout, callbacks)
        trainer.remove_callback(PrinterCallback)  # the watch is told
        trainer.train(resume_from_checkpoint=str(last) if last else None)
        watch.check()
        trained = _save(course, trainer)
    loss = curve(trainer.state.log_history, log_every(layout.steps), layout.steps)
    del trainer, model  # before the checkpoint is loaded: there may not be room for both
    give_back()
    if first():
        _check(course, trained, config.device)
        with disk_errors(job.out):
            saving.publish(saving.draft_of(job.out), job.out)
    wait()
    watch.finish()
    return Fitted(layout.steps, loss, parameters, trainable, pulse.seconds, pulse.tokens_per_second)


def _save(course: _Course, trainer: Any) -> verify.Logits:
    """Write the checkpoint beside its place; the logits of the model in memory, in the precision it is saved in."""
    lowered = course.where.dtype if course.settings.method == "full" and course.where.precision != "float32" else None
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if lowered is not None and not sharded:
        saving.lower(trainer.model, lowered)
    asked = course.lesson.probes if sharded or first() else []  # a sharded model answers only to all of its processes
    trained = verify.logits(trainer.model_wrapped if sharded else trainer.model, asked, trainer.args.device)
    saving.save(trainer, course.tokenizer, saving.draft_of(course.job.out), lowered)
    return trained


def _check(course: _Course, trained: verify.Logits, where: Any) -> None:
    """Raise `TrainingError` unless what was saved says the same as what was trained; it is removed then."""
    draft = saving.draft_of(course.job.out)
    try:
        model = verify.reload(draft, where, **to_load_again(course.settings, course.where))
        # TRL keeps an adapter over 4 bits in bfloat16
        precision = "bfloat16" if course.settings.method == "qlora" else course.where.precision
        verify.compare(draft, trained, verify.logits(model, course.lesson.probes, where), precision)
    except TrainingError:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _out_of_memory(message: str, micro: int) -> TrainingError:
    return TrainingError(
        f"out of memory with {micro} examples in a pass: {message}",
        remedy="Set training.micro_batch to a smaller divisor of training.batch_size, gradient_checkpointing = true, "
        'method = "lora" or "qlora", or a smaller training.max_length; then `tapir resume`.',
    )
