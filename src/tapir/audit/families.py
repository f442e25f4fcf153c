"""Which models are kin: a judge may favour texts of its own family."""

from __future__ import annotations

import re

_FAMILIES = {
    "GPT": r"gpt-?[345]|gpt4|chat-?gpt|text-davinci|davinci|\bo[134]\b|^gpt$",
    "Claude": r"claude",
    "Gemini": r"gemini|palm-?2|\bbard\b",
    "Gemma": r"gemma",
    "Llama": r"llama",
    "Qwen": r"qwen|qwq",
    "Mistral": r"mistral|mixtral",
    "Phi": r"\bphi\b",
    "DeepSeek": r"deepseek",
    "Command": r"command-?r|\bcohere\b",
    "EXAONE": r"exaone",
    "Yi": r"\byi-",
    "GLM": r"\b(chat)?glm",
    "Pythia": r"pythia",
    "BLOOM": r"\bbloomz?\b",
    "OPT": r"\bopt\b",
    "Cerebras-GPT": r"cerebras-gpt",
}
_ORDERED = {
    name: re.compile(pattern) for name, pattern in sorted(_FAMILIES.items(), key=lambda one: one[0] != "Cerebras-GPT")
}


def family(model: str) -> str:
    """The family a model's name tells, "" where it tells none.

    A fine-tuned model under a name of its own (Vicuna, PandaLM) has no family here: its texts are no longer those
    of the model it comes from.
    """
    name = model.casefold().replace("_", "-")
    return next((kin for kin, pattern in _ORDERED.items() if pattern.search(name)), "")
