"""A student on its way to other tools: merged, and to the Hub with its card."""

from pathlib import Path
from typing import Any

from distill.basics.processes import say
from distill.models.adapters import is_adapter_folder
from distill.models.forms import STUDENT_FORMS
from distill.models.merging import export_merged
from distill.models.tokenizer import resolve_model
from distill.reports.card import CARD
from distill.reports.carried import carry_card
from distill.running.hub import HubRepository


def export_student(args: Any, *, to: str | None, output: str | None, private: bool) -> None:
    """Write the student in another form beside itself, carry its card along, and upload it where that was asked for.

    Args:
        args: `student`, `base`, `push`.
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


_WAYS = {"merged": _merge}
