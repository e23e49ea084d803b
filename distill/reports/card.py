"""The model card: which facts (their values: `provenance`; its words: templates/card.md.jinja)."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import datasets
import jinja2
from huggingface_hub import ModelCardData

from distill.basics.curation_step import Step
from distill.basics.disk import write_durably
from distill.basics.processes import say
from distill.basics.redact import clean, public_name
from distill.models.students import KEPT_LAYERS, TEACHER_DEPTH
from distill.reports.provenance import (
    describe_objective,
    describe_origin,
    describe_pairs,
    describe_program,
    describe_steps,
    describe_teachers,
    describe_terms,
    describe_training,
    known_teachers,
)
from distill.teachers.base import Sampling

CARD, PROVENANCE = "README.md", "provenance.json"
NOTICE = "NOTICE"  # beside a student whose start or teacher has terms that ask for one
WAYS = {
    "black box": "Black box: it was fine-tuned on text its teacher wrote.",
    "white box": "White box: on the pairs below it was brought near to the inside of its teacher.",
}
_REASONS = {"stop": "by itself", "length": "cut at the limit (no end of text was put there)", "unknown": "unknown"}
_SOURCES = {
    "teacher": "as the teacher emitted them",
    "text": "made from its text with the student's tokenizer",
    "unknown": "origin not on record",
}
_MARK = re.compile(r"\n<!-- card of distill, sha256 ([0-9a-f]{64}) -->\n\Z")


def write_card(
    folder: Path,
    *,
    student: Any,
    pairs: datasets.Dataset,
    how: str,
    teacher: Any | None = None,
    teacher_license: str | None = None,
    sampling: Sampling | Mapping[str, Any] | None = None,
    objectives: Sequence[Any] = (),
    rollouts: Any | None = None,
    steps: Iterable[Step] = (),
    training: Any | None = None,
    max_length: int | None = None,
    metrics: Mapping[str, Any] | None = None,
    hub_datasets: Sequence[str] = (),
) -> dict[str, Any]:
    """Write `README.md` (a Hub model card) and `provenance.json` into a student's folder.

    No keys, no absolute paths, no names of private machines are written (`distill.basics.redact`), and no time: the same
    training gives the same files. Where the start or a teacher has terms of use (`distill.models.terms`), the card says so, and the notice that
    they ask for is in `NOTICE`. A `README.md` that somebody wrote or changed is left as it is, and this is said.

    Args:
        folder: of the student's weights.
        student: the model.
        pairs: what it was trained on.
        how: `"black box"` or `"white box"`.
        teacher: who wrote the pairs or whose inside was matched (a list of several), or its identity (`distill.reports.provenance.drawn_as`); None:
            only the names in the pairs are known.
        teacher_license: its licence, if you know it; else the licence field of its model card is looked for.
        sampling: `Sampling`, or a mapping, of the pairs' completions; None: not known. Of a `teacher_system` in it, which only the teacher
            saw, a hash is written and not the words.
        objectives: of a white box; objects or text.
        rollouts: of a white box that learned from the student's own text, too (`distill.trainers.Rollouts`).
        steps: what was removed from the pairs, in order.
        training: `TrainingArguments`, or a mapping.
        max_length: longest training row, in tokens.
        metrics: held-out figures; what is no number is left out, and so is what measures time.
        hub_datasets: Hub ids of data sets the prompts or pairs came from, for the front matter.

    Returns:
        What `provenance.json` holds.

    Raises:
        ValueError: an unknown `how`.

    Example:
        >>> facts = write_card(folder, student=model, pairs=pairs, teacher=teacher, how="black box")
    """
    if how not in WAYS:
        raise ValueError(f"how is {how!r}; it must be one of {', '.join(map(repr, WAYS))}.")
    facts: dict[str, Any] = {
        "format": 1,
        "distill": describe_program(),
        "how": how,
        "student": _describe_student(student),
        "teachers": describe_teachers(pairs, teacher, teacher_license),
        "sampling": clean(_without_words(sampling.as_dict() if isinstance(sampling, Sampling) else sampling)),
        "pairs": describe_pairs(pairs, max_length),
        "steps": describe_steps(steps),
        "objectives": [describe_objective(objective) for objective in objectives],
        "rollouts": None if rollouts is None else clean(rollouts.as_dict()),
        "training": describe_training(training),
        "held_out": _figures(metrics or {}),
    }
    inside = (
        [public_name(name) for name, one in known_teachers(teacher).items() if not isinstance(one, Mapping)]
        if how == "white box"
        else []
    )
    facts["inside_of"] = ", ".join(inside) or None
    facts["license"] = _common_license(facts)
    facts["terms"] = describe_terms(facts["student"], facts["teachers"])
    facts["datasets"] = clean(list(hub_datasets))
    folder = Path(folder)
    if is_edited(folder):
        say(
            f"{CARD} beside the student is not this program's any more and is left as it is; the facts are in {PROVENANCE}."
        )
    else:
        (folder / CARD).write_text(_marked(_render(facts, folder)), encoding="utf-8")
    _write_notices(folder / NOTICE, [one["notice"] for one in facts["terms"]])
    (folder / PROVENANCE).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return facts


def _write_notices(file: Path, notices: Sequence[str]) -> None:
    """What terms want to stand beside every copy; what stands there already is kept."""
    there = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    if missing := [notice for notice in notices if notice not in there]:
        file.write_text("".join(f"{part.rstrip()}\n" for part in (there, *missing) if part.strip()), encoding="utf-8")


def is_edited(folder: Path) -> bool:
    """Whether the folder has a `README.md` that this program did not write, or that was changed since."""
    file = folder / CARD
    if not file.is_file():
        return False
    text = file.read_bytes().decode("utf-8", errors="replace").replace("\r\n", "\n")
    mark = _MARK.search(text)
    return mark is None or mark[1] != _sha256(text[: mark.start()])


def put_block(folder: Path, name: str, block: str) -> None:
    """Put a block of Markdown on the card of a folder, in place of one of that name if there is one.

    A card that this program wrote stays its own; one that somebody else wrote or changed gets the block at its end, and nothing else of it is
    touched. Where there is no card, the block is one.

    Args:
        folder: of a student.
        name: of the block.
        block: Markdown.
    """
    begin, end = f"<!-- distill {name} -->", f"<!-- end of distill {name} -->"
    file, edited = Path(folder) / CARD, is_edited(Path(folder))
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    own = text if edited else _MARK.sub("", text)
    whole = f"{begin}\n{block.strip()}\n{end}"
    found = re.compile(rf"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    made = found.sub(lambda _: whole, own) if found.search(own) else f"{own.rstrip()}\n\n{whole}".lstrip()
    made = made.rstrip() + "\n"
    write_durably(file, made if edited else _marked(made))


def _marked(text: str) -> str:
    return f"{text}\n<!-- card of distill, sha256 {_sha256(text)} -->\n"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _describe_student(model: Any) -> dict[str, Any]:
    config = model.config
    kept = getattr(config, KEPT_LAYERS, None)
    return {
        **describe_origin(model),
        "kept_layers": list(kept) if kept else None,
        "teacher_depth": getattr(config, TEACHER_DEPTH, None),
        "architecture": (config.architectures or [type(model).__name__])[0],
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _without_words(sampling: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A system text that only the teacher saw is told from others and not published: it may be what the student is to hide."""
    text = (sampling or {}).get("teacher_system")
    if not text:
        return sampling
    return {**(sampling or {}), "teacher_system": f"{len(text)} characters, sha256 {_sha256(text)[:16]}"}


def _figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Numbers only, and none of time (they would differ between two equal trainings) or of progress."""
    timed = re.compile(r"_(runtime|per_second|time)$|^(seconds|epoch|num_input_tokens_seen)$")
    return {
        clean(str(name)): value
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and not timed.search(str(name))
    }


def _common_license(facts: dict[str, Any]) -> str | None:
    """The licence of the start and of every teacher, if all are known and the same; else nobody but a person can say."""
    named = {facts["student"]["license"], *(teacher["license"] for teacher in facts["teachers"])}
    return named.pop() if len(named) == 1 else None


def _render(facts: dict[str, Any], folder: Path) -> str:
    student, is_adapter = facts["student"], (folder / "adapter_config.json").is_file()
    front_matter = ModelCardData(
        base_model=student["hub_id"],
        base_model_relation=("adapter" if is_adapter else "finetune") if student["hub_id"] else None,
        datasets=facts["datasets"] or None,
        library_name="peft" if is_adapter else "transformers",
        license=facts["license"],
        pipeline_tag="text-generation",
        tags=["distillation", "distill", facts["how"].replace(" ", "-")],
    )
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters |= {
        "code": _code, "counts": _counts, "number": _number, "plain": _plain, "settings": _settings,
    }  # fmt: skip
    source = resources.files("distill.reports.templates").joinpath("card.md.jinja").read_text(encoding="utf-8")
    text = environment.from_string(source).render(
        **facts,
        front_matter=front_matter.to_yaml().strip(),
        title=_title([teacher["name"] for teacher in facts["teachers"]]),
        way_in_words=WAYS[facts["how"]],
        teacher_sentence=_teacher_sentence(facts),
        limits=_limits(facts),
        reasons=_REASONS,
        sources=_SOURCES,
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _title(names: list[str]) -> str:
    known = [_plain(name[:80]) for name in names if name != "unknown"]
    more = " and others" if len(known) > 2 else ""
    return f"Student of {' and '.join(known[:2])}{more}" if known else "Student of an unknown teacher"


def _teacher_sentence(facts: dict[str, Any]) -> str:
    unknown = [teacher for teacher in facts["teachers"] if teacher["license"] is None]
    sentences = [f"The inside that was matched is that of {_code(facts['inside_of'])}."] if facts["inside_of"] else []
    if any(teacher["name"] == "unknown" for teacher in facts["teachers"]):
        sentences.append("Some pairs do not say who wrote them: their teacher is unknown.")
    if unknown:
        sentences.append(
            "A licence is unknown here. Many hosted APIs forbid training other models on their outputs: before you publish "
            "or use this student, read the terms under which its pairs were made."
        )
    else:
        sentences.append("The licence field is what the teacher's model card states; it was copied and not judged.")
    return " ".join(sentences)


def _limits(facts: dict[str, Any]) -> list[str]:
    pairs, sampling = facts["pairs"], facts["sampling"] or {}
    limits = [
        f"It has seen {pairs['count']} pairs; what lies far from their {pairs['prompts']} prompts was neither trained nor tested.",
        "Nothing but the figures on this page was measured: no test of safety, of facts, or of fairness was made.",
    ]
    if cut := pairs["finish_reasons"].get("length", 0):
        limits.append(f"{cut} of {pairs['count']} completions were cut at the limit; of these it learned no ending.")
    if shown := pairs.get("teacher_prompts", {}).get("pairs", 0):
        limits.append(
            f"In {shown} of {pairs['count']} pairs the teacher was shown another prompt than the student is: it stands in for the teacher "
            "that was told more, on prompts like these."
        )
    if sampling.get("temperature", 1) != 1 or sampling.get("top_p", 1) != 1 or sampling.get("top_k", 0) != 0:
        limits.append(
            "Its pairs were not drawn from the teacher's own distribution but from one altered by the sampling settings."
        )
    if facts["steps"]:
        limits.append("Filters changed the distribution it learned, as the table of steps says.")
    return limits


def _code(value: Any) -> str:
    """Text of others as a code span that cannot break out of it, nor out of a table."""
    if value is None or value == "":
        return "unknown"
    text = " ".join(str(value).replace("`", "'").replace("|", "¦").split())
    return f"`{text if len(text) <= 120 else text[:119] + '…'}`"


def _plain(value: Any) -> str:
    """Text of others as plain words: no markup, no HTML, one line."""
    text = " ".join(str(value).replace("`", "'").split())
    return re.sub(r"([\\*_\[\]|~#])", r"\\\1", text).replace("<", "&lt;").replace(">", "&gt;")


def _number(value: Any) -> str:
    return "unknown" if value is None else f"{value:.6g}"


def _counts(counts: Mapping[str, int], words: Mapping[str, str]) -> str:
    total = sum(counts.values())
    return "; ".join(f"{words.get(k) or _plain(k)}: {n} ({n / total:.1%})" for k, n in counts.items())


def _settings(settings: Mapping[str, Any] | None, shortened: bool = False) -> str:
    """Names and values in one line; shortened: without what is off (0, no, none), but for a seed of 0."""
    if settings is None:
        return "not on record"
    shown = {k: v for k, v in settings.items() if v or k == "seed" or not shortened}
    return ", ".join(f"{_plain(name.replace('_', ' '))} {_code(value)}" for name, value in shown.items()) or "none"
