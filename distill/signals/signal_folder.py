"""Folder of stored signals: a manifest says whose they are and how they are written; the teacher's config, tokenizer and head lie beside.

    signals/manifest.json           teacher, tokenizer, encoding; sealed with a checksum
            config.json             the teacher's
            tokenizer/              the teacher's
            head.safetensors        its head, once, where an encoding needs it
            shard-0-00000.safetensors ...

The manifest is written last: a folder without one holds nothing yet.
"""

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from distill.basics import processes
from distill.basics.disk import make_folder, sync_folder, write_durably
from distill.basics.fingerprint import fingerprint
from distill.basics.jsonl import CHECKSUM, seal
from distill.basics.settings import differences
from distill.models.load import config_as_written, config_of_logits
from distill.signals.head import LogitTransform
from distill.signals.shards import DAMAGED, PART, as_oserror, check_opens, shards_in

FORMAT = 1
MANIFEST, CONFIG, TOKENIZER, HEAD, LOCK = "manifest.json", "config.json", "tokenizer", "head.safetensors", ".lock"
RECORD = "record"  # of the manifest: what decides nothing
# what is of the teacher is written once, with the manifest
_ANEW = "capture anew into another folder, or put back the file that was there."


@dataclass(frozen=True)
class Head:
    """A teacher's head as it was kept.

    Args:
        weight: `[V, D]`.
        bias: `[V]` or None.
        transform: what the teacher does to its logits.
    """

    weight: Tensor
    bias: Tensor | None
    transform: LogitTransform


@dataclass(frozen=True)
class Beside:
    """What of a teacher lies beside its signals.

    Args:
        tokenizer: its own.
        config: its own; None: it was a server's.
        head: where an encoding needs it.
    """

    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig | None = None
    head: Head | None = None


def describe_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Which token each id stands for, as one word."""
    words = sorted(tokenizer.get_vocab().items())
    return f"{len(words)} tokens, {fingerprint(words)}"


def is_signal_folder(name: str | os.PathLike[str]) -> bool:
    """Whether a folder holds stored signals, and not a model."""
    folder = Path(os.fspath(name)).expanduser()
    return (folder / MANIFEST).is_file() and (folder / TOKENIZER).is_dir()


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a folder says that it holds.

    Raises:
        ValueError: no folder of signals, of another version, or a manifest that was changed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        there = "has no manifest.json" if folder.is_dir() else "is not there"
        raise ValueError(f"{folder} {there}, so it is no folder of stored signals; `distill capture` makes one.")
    try:
        said = dict(json.loads(path.read_bytes().decode("utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}), so nobody knows whose signals lie beside it.") from None
    if said.get("format") != FORMAT:
        raise ValueError(
            f"{path} is of format {said.get('format')!r}, from another version of distill; this one reads {FORMAT}. Capture anew into "
            "another folder, or use that version."
        )
    if said.pop(CHECKSUM, None) != seal(said):
        raise ValueError(
            f"{path} was changed after it was written (its checksum does not agree), so nobody knows whose signals lie beside it."
        )
    return said


def whose(manifest: Mapping[str, Any]) -> str:
    """Whose signals a folder holds, as one word that each of its shards carries."""
    return fingerprint(
        sorted((name, json.dumps(manifest[name], sort_keys=True)) for name in manifest if name != RECORD)
    )


def words_of_shards(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """What shards of this folder may say of whose they are: its word; nothing, too, where a version of distill began it whose shards said nothing."""
    is_earlier = not {"config", "extra_body"} & manifest["teacher"].keys()
    return (whose(manifest), "") if is_earlier else (whose(manifest),)


def begin(folder: Path, wanted: Mapping[str, Any], record: Mapping[str, Any], beside: Beside) -> None:
    """Make the folder of these signals, or find it made; whoever calls holds its lock.

    Args:
        folder: may be there.
        wanted: plain values that decide what the rows are.
        record: plain values that decide nothing.
        beside: what else of the teacher is kept.

    Raises:
        ValueError: it holds signals of another teacher, tokenizer, precision or encoding (each is named with both values), or other
            files.
        OSError: the disk is full, say.
    """
    wanted = {"format": FORMAT, **json.loads(json.dumps(wanted))}
    if (folder / MANIFEST).exists():
        there = read_manifest(folder)
        check_files(folder, there)
        if found := _differing(folder, there, wanted, beside.config):
            raise ValueError(
                f"{folder} holds other signals ({'; '.join(found)}). Give another output, or the teacher and the settings of before."
            )
        return
    own = (CONFIG, TOKENIZER, HEAD, MANIFEST)
    strange = sorted(
        path.name
        for path in folder.glob("*")
        if path.name not in own and not path.name.endswith((PART, DAMAGED)) and not path.name.startswith(LOCK)
    )
    if strange:
        what = "shards without a manifest.json, so nobody knows whose they are" if shards_in(folder) else "other files"
        raise ValueError(f"{folder} holds {what} ({', '.join(strange[:3])}); give another output.")
    make_folder(folder)
    if beside.config is not None:
        # not save_pretrained, which copies an author's code beside it, and writes where that lies into the teacher's own config
        beside.config.to_json_file(folder / CONFIG, use_diff=True)
        _sync(folder / CONFIG)
    shutil.rmtree(folder / TOKENIZER, ignore_errors=True)
    beside.tokenizer.save_pretrained(folder / TOKENIZER)
    kept = dict(record)
    if beside.head is not None:
        kept["head_crc32"] = write_head(folder / HEAD, beside.head)
    # a tokenizer with several chat templates has a folder of its own for them
    for path in sorted((folder / TOKENIZER).rglob("*"), reverse=True):
        (sync_folder if path.is_dir() else _sync)(path)
    sync_folder(folder / TOKENIZER)
    sync_folder(folder)
    kept["files_crc32"] = _checksums(folder)
    _write_manifest(folder, {**wanted, RECORD: kept})


def note_fields(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Note with which further fields a server is asked, where an earlier version noted none: once there is an answer, and not before, for what was
    mistyped must not be fixed. Whoever calls holds the folder's lock.

    Args:
        folder: of `begin`.
        wanted: of `begin`.
    """
    there = read_manifest(folder)
    if (taken := _taken_fields(there, wanted)) is None:
        return
    # in the record, since the word of the folder's shards must not change
    _write_manifest(folder, {**there, RECORD: {**there[RECORD], "extra_body": taken}})
    processes.tell(
        f"{folder} was captured by an earlier version, which did not note the further fields of requests; they are taken to have been {taken or 'none'}."
    )


def _write_manifest(folder: Path, said: Mapping[str, Any]) -> None:
    sealed = json.loads(json.dumps(said))
    write_durably(folder / MANIFEST, json.dumps({**sealed, CHECKSUM: seal(sealed)}, indent=1))


def _taken_fields(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """Further fields of requests, where they were a server's and an earlier version noted none; None: they are noted."""
    old, new = there.get("teacher", {}), wanted.get("teacher", {})
    if "weights" in new or "extra_body" in old or "extra_body" in there[RECORD]:
        return None
    return dict(new.get("extra_body") or {})


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Whether the teacher's config and tokenizer are those that were written.

    Raises:
        ValueError: one is not there, or was changed.
    """
    there = _checksums(folder)
    for name, said in manifest[RECORD].get("files_crc32", {}).items():
        if there.get(name) != said:
            what = "was changed after it was written (its checksum does not agree)" if name in there else "is gone"
            raise ValueError(f"{folder / name} {what}; {_ANEW}")


def _differing(
    folder: Path, there: dict[str, Any], wanted: dict[str, Any], config: PreTrainedConfig | None
) -> list[str]:
    """How the signals of a folder are others than are wanted.

    A teacher's config is compared field by field with the one that was written: with equal weights it may still compute something else. An earlier
    version of distill has no word of it in the manifest, nor of a server's further fields: these are taken to have been those of the first capture
    that goes on, and are noted then.
    """
    told = {name: value for name, value in there.items() if name != RECORD}
    old, new = dict(told.get("teacher", {})), dict(wanted.get("teacher", {}))
    words = old.pop("config", None), new.pop("config", None)
    if "weights" not in new and "extra_body" not in old:
        old["extra_body"] = there[RECORD].get("extra_body", new.get("extra_body"))
    found = differences({**told, "teacher": old}, {**wanted, "teacher": new})
    return found or ([] if config is None or words[0] == words[1] else _other_config(folder, config))


def _other_config(folder: Path, config: PreTrainedConfig) -> list[str]:
    """Which fields of a config differ from the file; of one that another version of transformers wrote, those that both have."""
    path = folder / CONFIG
    file = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    written = config_as_written(config)
    there, now = config_of_logits(file), config_of_logits(written)
    if file.get("transformers_version") != written.get("transformers_version"):
        there, now = ({name: one[name] for name in there.keys() & now.keys()} for one in (there, now))
    return differences({"config": there}, {"config": now})


def _checksums(folder: Path) -> dict[str, str]:
    """Of the teacher's config and of all files of its tokenizer."""
    found = [folder / CONFIG, *sorted((folder / TOKENIZER).rglob("*"))]
    return {
        path.relative_to(folder).as_posix(): f"{zlib.crc32(path.read_bytes()):08x}" for path in found if path.is_file()
    }


def remove_parts(folder: Path) -> None:
    """What a killed capture left half-written; whoever calls holds the lock."""
    for path in folder.glob(f"*{PART}"):
        path.unlink()


def write_head(path: Path, head: Head) -> str:
    """Write the head of a teacher and what is done to its logits.

    Returns:
        Its checksum.

    Raises:
        OSError: the disk is full, say; nothing is left of the file.
    """
    transform = head.transform
    tensors = {"weight": head.weight} if head.bias is None else {"weight": head.weight, "bias": head.bias}
    whole = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    said = {"transform": json.dumps([transform.scale, transform.cap])}
    part = path.with_name(path.name + PART)
    try:
        save_file(whole, part, metadata=said)
        _sync(part)
        os.replace(part, path)
    except (SafetensorError, OSError) as error:
        part.unlink(missing_ok=True)
        raise as_oserror(error, path) from error
    return _checksum(whole, said["transform"])


def read_head(folder: Path, manifest: Mapping[str, Any]) -> Head:
    """The head that lies in a folder.

    Raises:
        ValueError: it is not there, or was changed.
    """
    path = folder / HEAD
    try:
        check_opens(path)
        with safe_open(path, "pt") as file:
            said = (file.metadata() or {}).get("transform", "")
            found = {name: file.get_tensor(name) for name in ("weight", "bias") if name in set(file.keys())}
        scale, cap = json.loads(said)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {_ANEW}") from None
    if "weight" not in found or _checksum(found, said) != manifest[RECORD].get("head_crc32"):
        raise ValueError(f"{path} was changed after it was written (its checksum does not agree); {_ANEW}")
    return Head(found["weight"], found.get("bias"), LogitTransform(scale, cap))


def _checksum(tensors: Mapping[str, Tensor], said: str) -> str:
    found = zlib.crc32(said.encode())
    for name in sorted(tensors):
        found = zlib.crc32(tensors[name].contiguous().view(torch.uint8).numpy().data, zlib.crc32(name.encode(), found))
    return f"{found:08x}"


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
