"""The `distill` command. Thin: each verb runs one recipe."""

import difflib
import gc
import importlib
import sys

from distill import __version__
from distill.basics.lazy import do_without_torch
from distill.running.help_page import kept_page, show_page

VERBS = {
    "compare": "train a student both ways, black box and white box, and write a report (the main job)",
    "equivalence": "show that black-box distillation is SFT, why, and when it stops being true",
    "inspect": "look at pairs before a training: what is in them, and which tokens carry loss",
    "clean": "leave out repetitions, broken text, evaluation questions; say what that changes",
    "export": "write pairs or a student in the form of other tools: ShareGPT, Parquet; merged, GGUF, Ollama",
    "chat": "talk with a student, its teacher beside it if you like",
    "generate": "let a teacher answer prompts: pairs for the black box",
    "capture": "store what a teacher says about pairs, for a white box without a teacher",
    "preflight": "look at an on-policy training before it: the student writes, the teacher reads",
    "plan": "how much memory a training will need and what a step costs, before anything is loaded",
    "retrieval": "tune, retrieve, or both: one table on facts that change",
    "abilities": "teach abilities one by one; one table on what each training did to all the others",
    "memorisation": "plant secrets, tune a teacher, and see what its students give away",
    "evaluate": "what tuning changed and what it puts at risk: one page with a verdict that can fail",
    "forgetting": "teach one new skill; what is forgotten, and which means hold it",
    "reasoning": "learn verified reasoning traces, and see what the verifier adds",
    "black_box": "fine-tune a student on a teacher's answers",
    "white_box": "match a teacher's distributions, hidden states and attention maps",
}
LOOKING = ("inspect", "clean", "export")  # at text and tokens: no model is loaded, and torch neither
# A script named inspect.py would take the place of Python's own module for every other script of its folder.
RECIPES = {"inspect": "inspect_pairs"}


def main() -> None:
    """`distill VERB FLAGS`; `distill VERB --help` shows its flags."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in ("-h", "--help"):
        lines = (f"  {name:11} {text}" for name, text in VERBS.items())
        print("usage: distill VERB [flags]\n\n" + "\n".join(lines) + "\n\n`distill VERB --help` shows a verb's flags.")
        return
    if verb in ("-V", "--version"):
        print(f"distill {__version__}")
        return
    if verb not in VERBS:
        near = difflib.get_close_matches(verb.replace("-", "_"), VERBS, 1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise SystemExit(f"distill: no verb {verb!r}; it must be one of {', '.join(VERBS)}.{meant}")
    if {"--help", "-h"} & set(sys.argv[2:]) and (page := kept_page(verb)):
        print(show_page(page, f"distill {verb}"))
        return
    if sys.stderr.isatty():
        print(f"distill {verb}: loading ...", file=sys.stderr, flush=True)
    if verb in LOOKING and not _is_of_a_student(verb):
        do_without_torch()
    gc.disable()  # what is imported stays; looking through it again and again costs a tenth of the start
    try:
        recipe = importlib.import_module(f"distill.recipes.{RECIPES.get(verb, verb)}")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        gc.enable()
    parsing = importlib.import_module("distill.running.parsing")
    parsing.program = f"distill {verb}"  # type: ignore[attr-defined]
    recipe.main(sys.argv[2:])


def _is_of_a_student(verb: str) -> bool:
    """Only `export` takes a student, too, in place of pairs."""
    return verb == "export" and bool(importlib.import_module("distill.models.forms").asks_for_a_student(sys.argv[2:]))


if __name__ == "__main__":
    main()
