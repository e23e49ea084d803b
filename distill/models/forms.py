"""Forms in which a student goes on to other tools, and how its place is told from a file of pairs; without torch."""

from collections.abc import Sequence
from pathlib import Path

from distill.models.embedded import EMBEDDED

STUDENT_FORMS = ("merged", "gguf", "ollama")
PRECISIONS = ("auto", "f32", "f16", "bf16", "q8_0")  # of a GGUF


def is_model_place(name: str) -> bool:
    """Whether a name is that of an embedded model, or of a folder with a model or an adapter in it."""
    folder = Path(name).expanduser()
    return (name in EMBEDDED and not folder.exists()) or any(
        (folder / file).is_file() for file in ("config.json", "adapter_config.json")
    )


def asks_for_a_student(argv: Sequence[str]) -> bool:
    """Whether flags of `distill export` are about a student, and not about pairs: by the form that is asked for, or by what stands first.

    Example:
        >>> asks_for_a_student(["runs/mine/student", "--to", "merged"]), asks_for_a_student(["pairs.jsonl"])
        (True, False)
    """
    values = dict(zip(argv, [*argv[1:], ""], strict=False)) | dict(
        one.split("=", 1) for one in argv if one.startswith("--") and "=" in one
    )
    named = values.get("--to")
    first = argv[0] if argv and not argv[0].startswith("-") else ""
    return (
        named in STUDENT_FORMS
        or bool({"--push", "--student"} & values.keys())
        or (bool(first) and is_model_place(first))
    )
