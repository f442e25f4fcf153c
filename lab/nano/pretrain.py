"""Pre-train the nano student: `python lab/nano/pretrain.py OUT [--minutes M]`.

A Llama of 2.8 M parameters learns easy instances and the answer format, unevenly on purpose: some
skills with worked steps at two levels, some at level 1, some only as bare answers, two not at all.
No text reserved for evaluation is ever seen (`tapir.gym.world.is_reserved`).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tapir.gym.skills import SKILLS, TRAINED, UNSEEN
from tapir.gym.steps import worked
from tapir.gym.world import Item, is_reserved, item

# skill -> (weight, levels, with worked steps)
DIET: dict[str, tuple[float, tuple[int, ...], bool]] = {
    "chain_sum": (4, (1, 2), True),
    "basic_arithmetic": (3, (1, 2), True),
    "products": (4, (1, 2), True),
    "spell_backward": (2, (1, 2), True),
    "letter_counting": (2, (1, 2), True),
    "syllogism": (1, (1, 2), False),
    "gcd": (2, (1,), True),
    "simple_equations": (2, (1,), True),
    "complex_arithmetic": (1.5, (1,), True),
    "word_sequence_reversal": (1.5, (1,), True),
    "simple_geometry": (1.5, (1,), True),
    "count_bits": (1, (1,), True),
    "number_filtering": (1, (1,), False),
    "fraction_simplification": (0.5, (1,), False),
    "prime_factorization": (0.5, (1,), False),
    "leg_counting": (0.5, (1,), False),
    "calendar_arithmetic": (0.5, (1,), False),
    "base_conversion": (0.5, (1,), False),
    "time_intervals": (0.5, (1,), False),
    "aiw": (0.5, (1,), False),
    "family_relationships": (0.5, (1,), False),
}
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<user>", "<answer>"]
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ '<answer>' }}{% generation %}{{ m['content'] + '</s>' }}{% endgeneration %}"
    "{% else %}{{ '<user>' + m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<answer>' }}{% endif %}"
)
SEED = 20261122


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Words of the instruction templates are one token each; all else is spelled in characters."""
    words: Counter[str] = Counter()
    characters = set(map(chr, range(32, 127))) | {"\n", "×", "°"}
    for skill in (*TRAINED, *UNSEEN):
        for level in (1, 2, 3, 4):
            seen: Counter[str] = Counter()
            for index in range(250):
                found = item(skill.name, level, index)
                seen.update(set(re.findall(r"[A-Za-z]{2,}", f"{found.question} {worked(found)}")))
                characters |= set(found.question) | set(found.answer)
            words.update(word for word, count in seen.items() if count >= 5)  # 2 % of the instances
    vocabulary = [*SPECIAL, "####", " ####"]
    vocabulary += [space + character for character in sorted(characters) for space in ("", " ")]
    vocabulary += [space + word for word in sorted(words) for space in ("", " ")]
    index = {token: place for place, token in enumerate(dict.fromkeys(vocabulary))}
    alternatives = "|".join(sorted(words, key=len, reverse=True))
    pattern = rf" ?####| ?(?<![A-Za-z])(?:{alternatives})(?![A-Za-z])| ?[^ ]| "
    tokenizer = Tokenizer(models.WordLevel(index, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<answer>"],
        model_max_length=512,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The student before any training."""
    torch.manual_seed(SEED)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=6,
            num_key_value_heads=6,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        )
    )


def draw(generator: random.Random) -> tuple[Item, str]:
    """One pre-training pair from the diet."""
    while True:
        name = generator.choices(list(DIET), [weight for weight, _, _ in DIET.values()])[0]
        _, levels, with_steps = DIET[name]
        found = item(name, generator.choice(levels), generator.randrange(2**31 - 1))
        if not is_reserved(found.question):
            return found, worked(found) if with_steps else found.answer


def encode(tokenizer: PreTrainedTokenizerFast, found: Item, answer: str) -> tuple[list[int], int]:
    """Token ids of prompt and answer, and the length of the prompt."""
    prompt = tokenizer.encode(f"<user>{found.question}<answer>", add_special_tokens=False)
    return prompt + tokenizer.encode(answer, add_special_tokens=False) + [2], len(prompt)


def batches(
    tokenizer: PreTrainedTokenizerFast, generator: random.Random, size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of similar length, endlessly."""
    while True:
        rows = sorted((encode(tokenizer, *draw(generator)) for _ in range(size * 16)), key=lambda row: len(row[0]))
        chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
        generator.shuffle(chunks)
        for chunk in chunks:
            width = max(len(ids) for ids, _ in chunk)
            ids = torch.zeros(len(chunk), width, dtype=torch.long)
            labels = torch.full_like(ids, -100)
            for place, (row, prompt) in enumerate(chunk):
                ids[place, : len(row)] = torch.tensor(row)
                labels[place, prompt : len(row)] = torch.tensor(row[prompt:])
            yield ids, labels


def main() -> None:
    """Pre-train for the minutes asked for, saving now and then."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    assert all(name in SKILLS for name in DIET)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    print(f"{len(tokenizer)} tokens, {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
        lr=arguments.rate,
        betas=(0.9, 0.98),
    )
    started, step, seen, average = time.monotonic(), 0, 0, 0.0
    for ids, labels in batches(tokenizer, random.Random(SEED), arguments.batch):
        progress = (time.monotonic() - started) / (arguments.minutes * 60)
        if progress >= 1:
            break
        rate = arguments.rate * min(1.0, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        mask = labels[:, 1:] != -100
        hidden = model.model(ids).last_hidden_state[:, :-1][mask]
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), labels[:, 1:][mask])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step, seen = step + 1, seen + len(ids)
        average = loss.item() if step == 1 else 0.98 * average + 0.02 * loss.item()
        if step % 100 == 0:
            print(f"{step} steps {seen} examples {time.monotonic() - started:.0f} s loss {average:.4f}", flush=True)
        if step % 1000 == 0:
            model.save_pretrained(arguments.out)
            tokenizer.save_pretrained(arguments.out)
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    (arguments.out / "pretraining.json").write_text(
        json.dumps(
            {
                "seed": SEED,
                "steps": step,
                "examples": seen,
                "minutes": arguments.minutes,
                "batch": arguments.batch,
                "rate": arguments.rate,
                "threads": arguments.threads,
                "torch": torch.__version__,
                "loss": average,
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
