"""How fast a student answers and learns here: a short measurement for the plan."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tapir.domain.instruction import Instruction
from tapir.domain.round import Checkpoint
from tapir.roles import Resource, Student
from tapir.students.load import AS_IT_IS, load
from tapir.students.local import LocalStudent


@dataclass(frozen=True, slots=True)
class Speed:
    """Items per second."""

    answers: float
    examples: float


def measure(student: Student, checkpoint: Checkpoint, instructions: Sequence[Instruction], batch_size: int) -> Speed:
    """Time one batch of answers, and one forward and backward pass over prompts and answers.

    Args:
        student: answers the instructions once to warm up on the first few, once to be timed.
        checkpoint: its weights.
        instructions: what it answers; also what the pass reads.
        batch_size: examples in the pass.
    """
    import torch

    list(student.answer(checkpoint, instructions[:2]))
    began = time.monotonic()
    answered = dict(student.answer(checkpoint, instructions))
    answers = len(answered) / (time.monotonic() - began)
    if isinstance(student, Resource):
        student.rest()  # the memory may not hold two of it
    model, tokenizer = load(checkpoint, student.model if isinstance(student, LocalStudent) else AS_IT_IS)
    texts = [one.text + str(getattr(answered[one.id], "text", "")) for one in instructions[:batch_size]]
    batch = tokenizer(texts, return_tensors="pt", padding=True).to(model.device)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    passes = []
    for _ in range(3):
        began = time.monotonic()
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        loss.backward()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        passes.append(time.monotonic() - began)
    return Speed(answers, len(texts) / min(passes))
