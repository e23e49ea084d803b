"""Prompts read from a file."""

import os
from pathlib import Path

from distill.basics.jsonl import read_jsonl
from distill.text.encode import Prompt, check_messages


def read_prompts(path: str | os.PathLike[str], column: str = "prompt") -> list[Prompt]:
    """Prompts from a `.jsonl` file (one object a line) or a text file (one prompt a line; blank lines are skipped).

    Args:
        path: the file.
        column: the key of the prompt in each JSON object; a text, or messages.

    Raises:
        ValueError: no such file, no prompts in it, or a bad line (file and line number are named).
    """
    source = Path(path)
    prompts: list[Prompt] = []
    if source.suffix == ".jsonl":
        for where, row in read_jsonl(source):
            if column not in row:
                raise ValueError(f"{where}: no {column!r}; the line has {', '.join(row) or 'no keys'}.")
            if not row[column]:
                raise ValueError(f"{where}: the prompt is empty.")
            try:
                if not isinstance(row[column], str):
                    check_messages(row[column])
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            prompts.append(row[column])
    else:
        if not source.is_file():
            raise ValueError(f"No file {source}.")
        try:
            lines = source.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{source} is not text in UTF-8 ({error}).") from None
        prompts.extend(line.strip() for line in lines if line.strip())
    if not prompts:
        raise ValueError(f"{source} has no prompts; it needs at least one line.")
    return prompts
