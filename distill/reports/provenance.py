"""What a student was trained on, as plain values: models and their licences, pairs and their hash, settings."""

import dataclasses
import hashlib
import json
import os
import statistics
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow.compute as pc
import yaml
from huggingface_hub import ModelCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from distill import __version__
from distill.basics.curation_step import Step
from distill.basics.processes import say
from distill.basics.redact import clean, hub_snapshot, public_name
from distill.models.embedded import EMBEDDED, embedded_name
from distill.pairs.batches import batches
from distill.pairs.columns import COLUMNS, OPTIONAL
from distill.teachers.base import Sampling

SHOWN = (
    "teacher_system",
    "worked_examples",
    "teacher_prompt",
)  # what the teacher alone was shown, as `generate` notes it
OF_FACTS = (
    "fact",
    "answer",
)  # columns of rows of documents that say what stands in them; in a small file they would be few
MOST_VALUES = 20  # of a user's own column that are counted: a source or a licence, and no names of people
# beside a file of pairs, after its whole name: how it was drawn, and what `distill clean` left out of it
SETTINGS, STEPS = ".settings.json", ".steps.json"

# Settings of transformers.TrainingArguments that decide what is learned.
TRAINING = (
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "bf16",
    "fp16",
    "seed",
    "data_seed",
)


def pairs_sha256(pairs: datasets.Dataset) -> str:
    """sha256 over the rows' ids and token ids: the same for the same pairs in any file format and any order.

    A row's digest is sha256 over the digests of its id (UTF-8), its `prompt_ids` and its `completion_ids` (each as
    little-endian int32), where not all of the completion carries loss, of its `loss_mask` (bytes 0 and 1), and, where the teacher
    was shown another prompt, of "teacher_prompt_ids" (ASCII) and behind it these ids. The
    pairs' digest is sha256 over the sorted digests of the rows.

    Example:
        >>> pairs_sha256(pairs) == pairs_sha256(pairs.shuffle(seed=1))
        True
    """
    rows = []
    columns = ["id", "prompt_ids", "completion_ids"]
    columns += [name for name in ("loss_mask", "teacher_prompt_ids") if name in pairs.column_names]
    for table in pairs.select_columns(columns).with_format("arrow").iter(1000):
        for row in zip(*(table[column] for column in columns), strict=True):
            of = dict(zip(columns, row, strict=True))
            parts = [row[0].as_py().encode()]
            parts += [_ids_as_bytes(ids) for ids in row[1:3]]
            if "loss_mask" in of and of["loss_mask"].is_valid and 0 in (mask := of["loss_mask"].as_py()):
                parts.append(bytes(mask))
            if "teacher_prompt_ids" in of and of["teacher_prompt_ids"].is_valid:
                parts.append(b"teacher_prompt_ids" + _ids_as_bytes(of["teacher_prompt_ids"]))
            rows.append(_sha256(b"".join(_sha256(part) for part in parts)))
    return _sha256(b"".join(sorted(rows))).hex()


def describe_pairs(pairs: datasets.Dataset, max_length: int | None = None) -> dict[str, Any]:
    """Counts, finish reasons, token sources, supervised tokens and scores of pairs, and their hash.

    Args:
        pairs: what was trained on.
        max_length: longest row in tokens; what it cuts carries no loss.
    """
    columns, count = set(pairs.column_names), len(pairs)
    # by tables and not by rows: 800,000 traces as lists of Python would not fit into memory
    lengths: list[list[np.ndarray]] = [[], []]
    prompts: set[bytes] = set()
    for table in pairs.select_columns(["prompt_ids", "completion_ids"]).with_format("arrow").iter(1000):
        for kept, column in zip(lengths, table.columns, strict=True):
            kept.append(np.asarray(pc.list_value_length(column), dtype=np.int64))
        prompts.update(_sha256(_ids_as_bytes(ids)) for ids in table["prompt_ids"])
    prompt, completion = (np.concatenate(kept) if kept else np.zeros(0, np.int64) for kept in lengths)
    whole = prompt + completion
    seen = whole if max_length is None else np.minimum(whole, max_length)
    first = np.maximum(prompt, 1)
    supervised = np.maximum(seen - first, 0)
    if "loss_mask" in columns:
        for i, mask in enumerate(pairs["loss_mask"]):
            if mask is not None:
                start = first[i] - prompt[i]
                supervised[i] = sum(mask[start : start + supervised[i]])
    described = {
        "count": count,
        "prompts": len(prompts),
        "finish_reasons": _counted(pairs, "finish_reason"),
        "token_source": _counted(pairs, "token_source"),
        "supervised_tokens": int(supervised.sum()),
        "longest_row": int(whole.max(initial=0)),
        "max_length": max_length,
        "rows_cut_at_max_length": int((seen < whole).sum()),
        "sha256": pairs_sha256(pairs),
    }
    if "teacher_prompt_ids" in columns:
        sizes = [pc.list_value_length(table["teacher_prompt_ids"]) for table in batches(pairs, ["teacher_prompt_ids"])]
        shown = np.concatenate([np.asarray(pc.drop_null(size), dtype=np.int64) for size in sizes])
        described["teacher_prompts"] = {"pairs": len(shown), "longest": int(shown.max(initial=0))}
    if own := {name: counts for name in pairs.column_names if (counts := _own_counts(pairs, name))}:
        described["own_columns"] = own
    if "score" in columns:
        scores = [score for score in pairs["score"] if score is not None]
        described["mean_score"] = statistics.fmean(scores) if scores else None
        described["without_score"] = count - len(scores)
    return described


def describe_origin(model: Any) -> dict[str, Any]:
    """Where a loaded model came from: `name`, `hub_id`, `revision`, `license`; None where it is not known. And `terms`, if it has some."""
    config = getattr(model, "config", None)
    source = str(getattr(config, "name_or_path", "") or "")
    revision = getattr(config, "_commit_hash", None)
    found: dict[str, Any] = {
        "name": public_name(source) if source else None,
        "hub_id": None,
        "revision": revision,
        "license": None,
    }
    if embedded := embedded_name(source):
        known = EMBEDDED[embedded]
        found |= {
            "hub_id": known.hub_id,
            "license": known.license,
            "revision": f"{known.requirement}, sha256 {known.sha256}",
        }
    elif snapshot := hub_snapshot(source):
        found |= {"hub_id": snapshot[0], "revision": snapshot[1]}
    elif revision:
        found["hub_id"] = found["name"]
    if terms := _terms_of(source):
        found["terms"] = terms
    if found["license"] is None and source:
        found["license"] = _license_of_folder(Path(source)) or _license_on_hub(found["hub_id"], found["revision"])
    return found


def describe_terms(student: Mapping[str, Any], teachers: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Terms of use that come with the start or with a teacher, each once: a student made with them is under them, too.

    Args:
        student: as `describe_origin` says it.
        teachers: as `describe_teachers` says them.
    """
    found: list[dict[str, Any]] = []
    for one in (student, *teachers):
        found += [terms for terms in one.get("terms") or [] if terms not in found]
    return found


def _terms_of(source: str) -> list[dict[str, Any]]:
    """Of an embedded model, or of a student of this program that was made with one."""
    if embedded := embedded_name(source):
        terms = EMBEDDED[embedded].terms
        return [] if terms is None else [terms.as_dict()]
    try:
        noted = json.loads((Path(source) / "provenance.json").read_text(encoding="utf-8")).get("terms")
    except (OSError, ValueError, AttributeError):
        return []
    return [one for one in noted if isinstance(one, dict)] if isinstance(noted, list) else []


def describe_teachers(
    pairs: datasets.Dataset, teacher: Any | None = None, license: str | None = None
) -> list[dict[str, Any]]:
    """Who wrote the pairs, the most frequent first; with `teacher`, what it says of itself.

    Of several that have one name and are not the same, the others have a number behind it: nobody could tell their pairs apart.
    A teacher that wrote none of them (its inside was matched, or the student was cut from it) is listed with 0 pairs.

    Args:
        pairs: what was trained on; the column `teacher` counts.
        teacher: the one at hand, if any: a `LocalTeacher`, a `ServerTeacher`, a loaded model, a signal source; or its identity, as `drawn_as`
            finds it; or several, as a list or by their routing values.
        license: its licence, if the user knows it.
    """
    written = Counter(pairs["teacher"] if "teacher" in pairs.column_names else ["unknown"] * len(pairs))
    known = known_teachers(teacher)
    for name in list(known):
        if name not in written:  # stored signals know the public part of a path alone
            same = [raw for raw in written if raw not in known and public_name(raw) == name]
            known[same[0] if len(same) == 1 else name] = known.pop(name)
    for name in known:
        written.setdefault(name, 0)
    listed = []
    for name, count in written.most_common():
        entry: dict[str, Any] = {"name": public_name(name), "pairs": count, "license": license}
        entry |= {"hub_id": None, "revision": None, "identity": {}}
        embedded = EMBEDDED.get(embedded_name(name) or "")
        if terms := _terms_of(name):
            entry["terms"] = terms
        if embedded:
            entry |= {"license": license or embedded.license, "hub_id": embedded.hub_id}
        if name in known:
            one = known[name]
            identity = _identity(one)
            origin = describe_origin(getattr(one, "model", None))
            entry |= {k: origin[k] for k in ("license", "hub_id", "revision") if origin[k] and not entry.get(k)}
            if origin.get("terms"):
                entry["terms"] = origin["terms"]
            entry["identity"] = clean({k: v for k, v in identity.items() if k not in ("teacher", "journal_format")})
        listed.append(entry)
    return listed


def known_teachers(teacher: Any) -> dict[str, Any]:
    """Teachers by their names, each once; see `describe_teachers`."""
    if teacher is None:
        return {}
    from distill.signals.base import named_teachers  # with torch, which a look at pairs and their records does without

    found: dict[str, Any] = {}
    for one in named_teachers(teacher):
        name = one["teacher"] if isinstance(one, Mapping) else one.name
        number, chosen = 1, name
        while chosen in found and not _are_same(found[chosen], one):
            number += 1
            chosen = f"{name} ({number})"
        found.setdefault(chosen, one)
    return found


def _are_same(one: Any, other: Any) -> bool:
    """One teacher given in two forms: equal in all that both say of its weights and its signals; or one of them is a name alone."""
    ours, theirs = _identity(one), _identity(other)
    signals = ours.get("teacher_signals"), theirs.get("teacher_signals")
    if None not in signals and signals[0] != signals[1]:
        return False  # sources of one model that say different things
    weights = ours.get("teacher_weights"), theirs.get("teacher_weights")
    return ours == theirs or not ours or not theirs or (None not in weights and weights[0] == weights[1])


def _identity(teacher: Any) -> dict[str, Any]:
    return (
        dict(teacher)
        if isinstance(teacher, Mapping)
        else {**teacher.identity(), **getattr(teacher, "incidental", dict)()}
    )


def describe_steps(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """Steps in their order, without examples: these are texts of rows, maybe of an evaluation set."""
    return [clean({k: v for k, v in step.as_dict().items() if k != "examples"}) for step in steps]


def describe_training(training: Any | None) -> dict[str, Any] | None:
    """The settings of `TrainingArguments` that decide what is learned, or the user's own mapping, cleaned."""
    if training is None:
        return None
    if isinstance(training, Mapping):
        return dict(clean(training))
    found = {name: getattr(training, name) for name in TRAINING if getattr(training, name, None) is not None}
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size
    return {**clean(found), "rows_in_a_step": batch}


def describe_objective(objective: Any) -> dict[str, Any]:
    """Name and settings of a white-box objective; text is taken as the name."""
    if isinstance(objective, str):
        return {"name": clean(objective)}
    names = ("name", "weight", "divergence", "temperature", "cross_entropy", "distance", "relations", "layers")
    return clean({name: getattr(objective, name) for name in names if hasattr(objective, name)})


class Drawn(NamedTuple):
    """How a file of pairs came to be: who was asked and how (None where nobody noted it), and what was then left out."""

    teacher: dict[str, Any] | None
    sampling: dict[str, Any] | None
    steps: tuple[Step, ...]


def drawn_as(path: str | os.PathLike[str]) -> Drawn:
    """What `generate` (`.settings.json`) or `distill clean` (`.steps.json`) wrote beside a file of pairs.

    All of it is empty where there is nothing beside the file, or something else.

    Example:
        >>> teacher, sampling, steps = drawn_as("runs/demo/pairs.jsonl")
    """
    found, cleaned = _read_beside(Path(path), SETTINGS), _read_beside(Path(path), STEPS)
    found = found or cleaned.get("drawn") or {}
    try:
        steps = tuple(Step(**{**step, "examples": tuple(step["examples"])}) for step in cleaned.get("steps", []))
    except (TypeError, KeyError):
        steps = ()
    if not isinstance(found, dict) or not isinstance(found.get("teacher"), str):
        return Drawn(None, None, steps)
    names = {*(field.name for field in dataclasses.fields(Sampling)), *SHOWN}
    incidental = found.pop("incidental", None)
    if isinstance(incidental, dict):
        found = {**found, **incidental}
    apart = [{k: v for k, v in found.items() if (k in names) is side} for side in (False, True)]
    return Drawn(apart[0], apart[1] or None, steps)


def write_steps(path: str | os.PathLike[str], steps: Iterable[Step], source: str | os.PathLike[str]) -> None:
    """Write beside a file of pairs what was left out of it, after all that is known of the file it was made from."""
    before = drawn_as(source)
    drawn = {**before.teacher, **(before.sampling or {})} if before.teacher else None
    listed = [step.as_dict() for step in (*before.steps, *steps)]
    beside = Path(path).with_name(f"{Path(path).name}{STEPS}")
    text = json.dumps({"of": Path(path).name, "drawn": drawn, "steps": listed}, indent=1, ensure_ascii=False)
    _make_room(Path(path), beside)
    beside.write_text(text + "\n", encoding="utf-8")


def _make_room(path: Path, beside: Path) -> None:
    """Put away what lies where steps are written, or where an earlier version wrote them, and is another's."""
    if path.suffix == ".jsonl" and not beside.exists():
        named = path.with_suffix(STEPS)
        if _read_object(named).get("of") == path.name:  # its own, which would be left to `pairs`
            named.rename(beside)
    elif beside.is_file() and _may_be_of_jsonl(path, STEPS):
        found = _read_object(beside)
        if found.get("of") == f"{path.name}.jsonl":
            beside.rename(kept := beside.with_name(f"{path.name}.jsonl{STEPS}"))
            say(f"{beside} was the record of {found['of']}; it is {kept} now.")
        elif "of" not in found:
            kept, number = beside.with_name(f"{beside.name}.earlier"), 1
            while kept.exists():
                number += 1
                kept = beside.with_name(f"{beside.name}.earlier.{number}")
            beside.rename(kept)
            say(f"{beside} did not say whose record it is; it is {kept} now.")


def _read_beside(path: Path, ending: str) -> dict[str, Any]:
    """The object in a file beside another; also under the name that earlier versions gave it, without `.jsonl`."""
    whole = path.with_name(f"{path.name}{ending}")
    is_earlier = path.suffix == ".jsonl" and not whole.exists()
    named = path.with_suffix("") if is_earlier else path
    found = _read_object(path.with_suffix(ending) if is_earlier else whole)
    if "of" in found:
        if is_earlier:
            return found if found["of"] == path.name else {}
        # under another whole name it was renamed with its pairs, unless these read it themselves
        is_others = found["of"] == f"{path.name}.jsonl" and _may_be_of_jsonl(path, ending)
        return {} if is_others else found
    if (
        ending == SETTINGS
    ):  # only a journal has them: they are those of `pairs` where that is a file, else of `pairs.jsonl`
        return found if named.is_file() != is_earlier or not _may_be_of_jsonl(named, ending) else {}
    if found and named.exists() and _may_be_of_jsonl(named, ending):
        say(
            f"{named.name}{ending} does not say whose record it is, of {named.name} or of {named.name}.jsonl, and is taken for nobody's; "
            f'write "of": "{path.name}" into it if it is.'
        )
        return {}
    return found


def _may_be_of_jsonl(path: Path, ending: str) -> bool:
    """Whether the record beside `pairs` may be that of a `pairs.jsonl`, which an earlier version wrote under this name."""
    other = path.with_name(f"{path.name}.jsonl")
    return other.is_file() and not other.with_name(f"{other.name}{ending}").exists()


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no such file; not JSON in UTF-8
        return {}
    return found if isinstance(found, dict) else {}


def describe_program() -> dict[str, Any]:
    """Version of this package, and the git commit if it runs from a checkout (`-dirty`: with changes of its own)."""
    root = Path(__file__).parent.parent
    described: dict[str, Any] = {"version": __version__, "commit": None}
    if not (root / ".git").exists():
        return described
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return described
    return described | {"commit": found.stdout.strip() or None}


def _ids_as_bytes(ids: Any) -> bytes:
    return np.asarray(ids.values, dtype="<i4").tobytes()


def _counted(pairs: datasets.Dataset, column: str) -> dict[str, int]:
    if column not in pairs.column_names:
        return {"unknown": len(pairs)}
    return dict(Counter(value if value is not None else "unknown" for value in pairs[column]).most_common())


def _own_counts(pairs: datasets.Dataset, column: str) -> dict[str, int] | None:
    """How often each value of a column of the user's own stands there; None where there are many, or none that can be counted."""
    if column in (*COLUMNS, *OPTIONAL, *OF_FACTS):
        return None
    kind = pairs.features[column]
    if getattr(kind, "dtype", None) not in ("string", "bool", "int64", "int32"):
        return None
    found = pc.value_counts(pairs.select_columns([column]).with_format("arrow")[:][column].combine_chunks())
    if len(found) > MOST_VALUES:
        return None
    counts = {str(clean(str(one["values"].as_py())))[:80]: one["counts"].as_py() for one in found}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _license_of_folder(folder: Path) -> str | None:
    """The licence field of a model folder's README.md."""
    return _license_of_card(folder / "README.md") if (folder / "README.md").is_file() else None


def _license_on_hub(hub_id: str | None, revision: str | None) -> str | None:
    """The licence field of a model card on the Hub; asked only for models that came from there."""
    if hub_id is None:
        return None
    try:
        return _license_of_card(Path(hf_hub_download(hub_id, "README.md", revision=revision)))
    except (OSError, ValueError, EntryNotFoundError):  # no connection, no card
        return None


def _license_of_card(path: Path) -> str | None:
    try:
        data = ModelCard.load(path, ignore_metadata_errors=True).data
    except (OSError, ValueError, TypeError, yaml.YAMLError):  # not a card: somebody's own README
        return None
    named = data.license_name if data.license == "other" else data.license
    return str(clean(named)) if named and isinstance(named, str) else None


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
