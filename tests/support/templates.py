"""Chat templates in the manner of families of models, and a small tokenizer that has their marks."""

from __future__ import annotations

import copy
from typing import Any

from support.training import NANO
from tapir.domain.round import Checkpoint
from tapir.models.local import loading
from tapir.models.local.loading import ModelSettings

_STRICT = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
)
_CHATML = "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
_QWEN3 = (
    "{% for m in messages %}{% set c = m['content'] %}{% if m['role'] == 'assistant' %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% set t = m.reasoning_content if m.reasoning_content else '' %}"
    "{{ '<|im_start|>assistant\n' }}{% if loop.last %}{{ '<think>\n' + t + '\n</think>\n\n' }}{% endif %}"
    "{{ c + '<|im_end|>\n' }}{% else %}" + _CHATML + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
TEMPLATES = {
    "chatml": "{% for m in messages %}"
    + _CHATML
    + "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama-3.2": "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set messages = messages[1:] %}"
    "{% else %}{% set system = '' %}{% endif %}"
    "{{ '<|start|>system\nToday: ' + date_string + '\n' + system + '<|eot_id|>' }}{% for m in messages %}"
    "{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}",
    "qwen3": _QWEN3,
    "smollm3": "{% set mode = '/think' if enable_thinking is not defined or enable_thinking else '/no_think' %}"
    "{{ '<|im_start|>system\n' + mode + '<|im_end|>\n' }}" + _QWEN3,
    "gemma-3": _STRICT + "{% set first = (system + '\n\n' if system and loop.first else '') %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' + first + m['content'] | trim"
    " + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    "gemma-2": "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + _STRICT
    + "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' + m['content']"
    " + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    "mistral": _STRICT + "{% set asked = turns | selectattr('role', 'equalto', 'user') | list %}"
    "{% if m['role'] == 'user' %}{{ '[INST]' + (system + '\n\n' if system and m == asked[-1] else '')"
    " + m['content'] + '[/INST]' }}{% else %}{{ m['content'] + '</s>' }}{% endif %}{% endfor %}",
    "r1": "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% elif m['role'] == 'user' %}"
    "{{ '<|User|>' + m['content'] }}{% else %}{{ '<|Assistant|>' + m['content'].split('</think>')[-1] + '</s>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}",
    "deepseek-v3.1": "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '<|User|>' + m['content'] }}"
    "{% else %}{{ '<|Assistant|></think>' + m['content'].split('</think>')[-1] + '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|>' + ('<think>' if thinking else '</think>') }}{% endif %}",
    "gpt-oss": "{{ '<|start|>system<|message|>' + strftime_now('%Y-%m-%d') + ' Reasoning: '"
    " + (reasoning_effort if reasoning_effort else 'medium') + '<|end|>' }}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}{% if m.thinking and loop.last %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m['content'] + ('<|return|>' if loop.last else '<|end|>') }}"
    "{% else %}{{ '<|start|>' + m['role'] + '<|message|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
}
ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "</s>", "<|return|>")
_MARKS = ["<|im_start|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<start_of_turn>", "<|User|>"]
_MARKS += ["<|Assistant|>", "[INST]", "[/INST]", *ENDS]


def tokenizer(family: str, **settings: Any) -> Any:
    """Return the small student's tokenizer with the template and marks of a family, its arguments bound."""
    chosen = ModelSettings(chat_template=TEMPLATES[family], **settings)
    loaded = loading.load_tokenizer(Checkpoint(NANO.path, 0), chosen)
    marked = copy.copy(loaded)
    marked.add_special_tokens({"additional_special_tokens": _MARKS})
    return marked
