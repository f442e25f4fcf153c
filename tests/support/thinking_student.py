"""A student of half a million parameters that thinks before it answers, taught a few conversations on the spot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from support.templates import TEMPLATES
from support.training import NANO
from tapir.data.run.rows import EvaluationRow
from tapir.data.run.store import RunStore
from tapir.domain.completion import after_thought
from tapir.domain.evaluation import Prompt
from tapir.domain.instruction import Instruction, Origin, Turn
from tapir.domain.progress import SilentProgress
from tapir.domain.roles import Student
from tapir.domain.round import Checkpoint
from tapir.evaluation.exact import ExactBenchmark, plain
from tapir.stages.base import StageContext
from tapir.stages.evaluate import Evaluate

Mode: TypeAlias = Literal["off", "on", "keep"]

BUDGETS = {"max_new_tokens": 16, "thinking_tokens": 24}
ENDLESS = "no, " * 24
"""Where a thought or an answer has no end."""
_LEARNT = 0.9  # the probability of every token; then sums in another order choose no other one
_STEPS = 500
_TALK = (
    Turn("system", "You add, and answer in one word."),
    *(Turn("user", "Add 1 and 2."), Turn("assistant", "3")),
    *(Turn("user", "And 3 more?"), Turn("assistant", "6")),
)
KNOWN = {
    Instruction.of(text, Origin("corpus"), context): (thought, answer)
    for text, context, thought, answer in (
        ("Calculate 3 + 4.", (), "3 and 4 are 7.", "7"),
        ("Spell tap.", (), "t, then a.\n\nThen p.", "    t\n    a\n    p"),  # its indentation is part of the answer
        ("Which tag ends a thought?", _TALK[:1], "It has a slash.", "The one with a slash."),
        ("Say it at once.", (), "", "It."),
        ("And 4 more?", _TALK, "6 and 4 are 10.", "10"),
        ("And 4 more?", (), "More than what?", "4"),
        ("Think for ever.", (), ENDLESS, "No."),
        ("Talk for ever.", (), "All right.", ENDLESS),
    )
}
ASKED = list(KNOWN)


@dataclass(frozen=True)
class Family:
    """How thoughts stand in a chat template; `special`: its marks are special tokens, `begins`: the prompt has one."""

    template: str
    end: str
    special: bool = False
    begins: bool = False

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The settings of `student.thinking` that such a template can have."""
        return ("on", "keep") if self.begins else ("off", "on", "keep")

    def written(self, instruction: Instruction, *, thinks: bool) -> str:
        """What the student writes, if nothing cuts it."""
        thought, answer = KNOWN[instruction]
        if not thinks:
            return answer
        if thought is ENDLESS:
            return thought if self.begins else f"<think>\n{thought}"
        return f"{thought}\n</think>\n\n{answer}" if self.begins else after_thought(thought, answer)


FAMILIES = {
    "switch": Family(TEMPLATES["qwen3"], "<|im_end|>"),
    "special": Family(TEMPLATES["qwen3"], "<|im_end|>", special=True),
    "begun": Family(TEMPLATES["r1"], "</s>", begins=True),
}


def make(folder: Path) -> dict[str, Checkpoint]:
    """Train a student until it knows every conversation by heart, and save it with each family's tokenizer."""
    import torch

    tokenizers = {name: tokenizer_of(family) for name, family in FAMILIES.items()}
    rows = [
        _encoded(tokenizers[name], family, instruction, thinks=thinks)
        for name, family in FAMILIES.items()
        for thinks in {mode != "off" for mode in family.modes}
        for instruction in ASKED
        if not family.special  # the same tokens
    ]
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
    learnt = torch.tensor([[at <= place < len(ids) for place in range(1, width)] for ids, at in rows])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _model(tokenizers["switch"])
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
        for _ in range(_STEPS):
            losses = torch.nn.functional.cross_entropy(
                model(ids).logits[:, :-1][learnt], ids[:, 1:][learnt], reduction="none"
            )
            least = float(losses.detach().max().neg().exp())
            if least > _LEARNT:
                break
            losses.mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
    assert least > _LEARNT, f"not learnt: {least:.4f}"
    for name, tokenizer in tokenizers.items():
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {name: Checkpoint(str(folder / name), 1) for name in FAMILIES}


def save_tokenizer(folder: Path, family: Family) -> None:
    """Save a tokenizer with the config of its model, without weights."""
    tokenizer = tokenizer_of(family)
    tokenizer.save_pretrained(folder)
    _model(tokenizer).config.save_pretrained(folder)


def tokenizer_of(family: Family) -> Any:
    """The tokenizer of the small student with the marks of all families."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(NANO.path)
    marks = ["<|im_start|>", "<|im_end|>", "<|User|>", "<|Assistant|>"]
    tokenizer.add_special_tokens({"eos_token": family.end, "additional_special_tokens": marks})
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=family.special)
    tokenizer.chat_template = family.template
    return tokenizer


def _model(tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _encoded(tokenizer: Any, family: Family, instruction: Instruction, *, thinks: bool) -> tuple[list[int], int]:
    """The tokens of a prompt with its reply, and where that begins; a reply without end has no end token."""
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": False, "enable_thinking": thinks}
    prompt = list(tokenizer.apply_chat_template(instruction.messages, **options))
    text = family.written(instruction, thinks=thinks)
    reply = tokenizer(text, add_special_tokens=False)["input_ids"]
    end = [] if text.endswith(ENDLESS) else [tokenizer.eos_token_id]
    return prompt + reply + end, len(prompt)


def evaluation(student: Student, checkpoint: Checkpoint, folder: Path) -> tuple[list[EvaluationRow], float]:
    """Every answer as a run keeps it, and the success rate; thoughts and answers without end are not expected."""
    prompts = [Prompt(one, "Math", answer.strip()) for one, (_, answer) in KNOWN.items()]
    stage = Evaluate(student, [ExactBenchmark("known", lambda: prompts, plain)], len(prompts))
    store = RunStore(folder)
    (found,) = stage.run(StageContext(store, SilentProgress(), 1, 7), checkpoint)
    return store.read("round-1/evaluation", EvaluationRow), found.overall.value
