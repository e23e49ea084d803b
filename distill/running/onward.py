"""A student on its way to other tools: merged, as GGUF, for Ollama, and to the Hub with its card."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from distill.basics.processes import say
from distill.models.adapters import is_adapter_folder, tokenizer_place
from distill.models.eos import eos_ids
from distill.models.forms import STUDENT_FORMS
from distill.models.gguf_file import check_precision, write_gguf
from distill.models.merging import export_merged, whole_student
from distill.models.ollama import OllamaTemplate, ollama_template, write_modelfile
from distill.models.tokenizer import load_tokenizer, resolve_model
from distill.reports.card import CARD
from distill.reports.carried import carry_card
from distill.running.hub import HubRepository


def export_student(args: Any, *, to: str | None, output: str | None, private: bool) -> None:
    """Write the student in another form beside itself, carry its card along, and upload it where that was asked for.

    Args:
        args: `student`, `base`, `precision`, `push`.
        to: one of `STUDENT_FORMS`; None: only upload the folder as it is.
        output: what is written; None: the student's name and the form.
        private: on the Hub, for nobody but its owner.

    Raises:
        ValueError: no such form or nothing to do; whatever the form refuses; the Hub.
    """
    if to is not None and to not in STUDENT_FORMS:
        raise ValueError(
            f"to is {to!r}, and {args.student} is a student; it must be one of {', '.join(STUDENT_FORMS)}."
        )
    if to is None and not args.push:
        raise ValueError(
            f"{args.student} is a student: say its form with --to {', --to '.join(STUDENT_FORMS)}, or upload it with --push you/name."
        )
    if to is None and output:
        raise ValueError("output is what a form is written to, and none is given with --to; leave it out.")
    check_precision(args.precision)
    if to not in ("gguf", "ollama") and args.precision != "auto":
        raise ValueError(
            f"precision is {args.precision}, which a GGUF file has (--to gguf, --to ollama); leave it out."
        )
    source = Path(args.student if is_adapter_folder(args.student) else resolve_model(args.student)).expanduser()
    hub = None
    if args.push:  # before anything is made: afterwards is late
        flags = ("--no_private", "--private", "--push")
        hub = HubRepository(args.push, private=private, flags=flags)
        hub.make()
    if to is None:
        if not source.is_dir():
            raise ValueError(f"{args.student} is no folder here, so there is nothing to upload.")
        folder = source
    else:
        folder = Path(output or f"{Path(args.student).expanduser().resolve().name}-{to}")
        _WAYS[to](args, source, folder)
    if hub:
        _upload(hub, folder)


def _merge(args: Any, source: Path, folder: Path) -> None:
    check = export_merged(args.student, folder, args.base)
    # as the Hub calls it: a model of its own, and no adapter any more
    carried = carry_card(
        _home_of_card(source),
        folder,
        "The adapter that this page is about, merged into its base: load it with `transformers` alone.",
        library_name="transformers",
        base_model_relation="finetune",
    )
    say(f"{check}.")
    say(f"{args.student}, merged, in {folder}{_along(carried)}.")


def _write_gguf(args: Any, source: Path, folder: Path) -> None:
    _gguf(args, source, folder, None)


def _write_ollama(args: Any, source: Path, folder: Path) -> None:
    # before the weights are read and written
    tokenizer = load_tokenizer(
        tokenizer_place(args.student, args.base) if is_adapter_folder(args.student) else args.student
    )
    _gguf(args, source, folder, ollama_template(tokenizer))


def _gguf(args: Any, source: Path, folder: Path, template: OllamaTemplate | None) -> None:
    """A folder with the GGUF file, for Ollama with its `Modelfile`, and the card."""
    if folder.suffix == ".gguf":
        raise ValueError(
            f"output is a folder here, in which the file and its card lie; give a name without .gguf: {folder.stem}."
        )
    if folder.exists():
        raise ValueError(f"{folder} exists already; give a new folder, or remove it first.")
    config = source / "config.json"
    if config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("quantization_config"):
        raise ValueError(
            f"{args.student} has weights of few bits, and rounding them again loses more; export the model they were made from."
        )
    model, tokenizer = whole_student(args.student, args.base)
    name = Path(args.student).expanduser().resolve().name
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        kept = part / f"{name}.gguf"
        facts = write_gguf(model, tokenizer, kept, args.precision, name)
        if template:
            stops = [str(tokenizer.convert_ids_to_tokens(i)) for i in sorted(eos_ids(model, tokenizer))]
            write_modelfile(part, kept.name, template, stops)
            facts.notes += template.notes
        sentence = (
            f"Its weights as GGUF ({facts.architecture}, {facts.precision}), for llama.cpp and what is built on it."
        )
        carried = carry_card(_home_of_card(source), part, sentence, library_name="gguf")
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for note in facts.notes:
        say(f"Note: {note}.")
    also = f" and a Modelfile ({template.family})" if template else ""
    say(
        f"{args.student} as {kept.name} ({facts.architecture}, {facts.precision}, {facts.bytes / 1e6:,.1f} MB){also} in {folder}{_along(carried)}."
    )
    if template:
        say(f"ollama create {name} -f {folder}/Modelfile && ollama run {name}")


def _home_of_card(source: Path) -> Path:
    """An adapter that lies beside the student it was merged into has its card there."""
    above = source.parent
    is_beside = not (source / CARD).is_file() and (above / CARD).is_file() and (above / "config.json").is_file()
    return above if is_beside else source


def _along(carried: list[str]) -> str:
    along = f", with its {', '.join(carried)}" if carried else ""
    return along if CARD in carried else f"{along}; it has no card ({CARD}) that could go along"


def _upload(hub: HubRepository, folder: Path) -> None:
    try:
        hub.upload(folder)
    except Exception as error:
        raise ValueError(
            f"The student is in {folder}, but could not be uploaded ({type(error).__name__}: {error}). To try again: "
            f"distill export {folder} --push {hub.name}, or hf upload {hub.name} {folder}"
        ) from None
    names = sorted(p.name for p in folder.iterdir())
    say(f"Published to {hub.name} ({hub.seen}): {', '.join(names)}.")


_WAYS = {"merged": _merge, "gguf": _write_gguf, "ollama": _write_ollama}
