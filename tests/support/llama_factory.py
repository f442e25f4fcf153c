"""What LLaMA-Factory makes of data sets; a program for its own Python: JOBS, a JSON list of [folder, name, settings].

It prints the token ids and the labels of every example, a line of JSON for each job.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any


def main() -> None:
    """Print the examples of every job."""
    for job in json.loads(sys.argv[1]):
        with contextlib.redirect_stdout(sys.stderr):
            rows = [[list(row["input_ids"]), list(row["labels"])] for row in _read(*job)]
        print(json.dumps(rows))  # noqa: T201


def _read(folder: str, name: str, settings: dict[str, Any]) -> Any:
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    wanted = {"stage": "sft", "do_train": True, "dataset_dir": folder, "dataset": name, "output_dir": f"{folder}/out"}
    model_args, data_args, training_args, *_ = get_train_args({**wanted, "overwrite_cache": True, **settings})
    loaded = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data_args)
    return get_dataset(template, model_args, data_args, training_args, stage="sft", **loaded)["train_dataset"]


if __name__ == "__main__":
    main()
