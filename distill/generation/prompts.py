"""Where prompts come from: a file, a dataset, or the teacher itself; and how repeated ones are left out."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from distill.basics.fingerprint import fingerprint
from distill.basics.jsonl import read_jsonl
from distill.teachers.base import Sampling
from distill.teachers.local import LocalTeacher
from distill.text.encode import Prompt, check_messages, user_header_ids
from distill.text.near_duplicates import near_duplicates


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


def read_distinct_prompts(path: str | os.PathLike[str]) -> list[Prompt]:
    """`read_prompts`, then `without_duplicates`; prints how many were left out. Errors as in both."""
    prompts = read_prompts(path)
    kept = without_duplicates(prompts)
    if len(kept) < len(prompts):
        print(
            f"{len(prompts) - len(kept)} of {len(prompts)} prompts repeat others, exactly or nearly, and are left out."
        )
    return kept


def write_prompts(
    teacher: LocalTeacher,
    count: int,
    *,
    max_new_tokens: int = 96,
    temperature: float = 1.0,
    top_p: float = 0.95,
    seed: int = 0,
    batch_size: int = 64,
    output: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> list[Prompt]:
    """Let the teacher write the users' turns itself, given only its template's user header (Magpie, Xu et al. 2024).

    Kept are turns that ended by themselves, are neither tiny nor cut, and are not near duplicates of an earlier one.

    Args:
        teacher: a local teacher with a chat template.
        count: how many prompts to return.
        max_new_tokens: longest user turn, in tokens.
        temperature, top_p, seed, batch_size: of the drawing.
        output: JSONL file with a line a batch; what is in it is not drawn again, so more prompts can be asked for later.
        progress: show a progress bar.

    Raises:
        ValueError: no chat template; an `output` of other settings; the teacher writes too few distinct turns.
    """
    sampling = Sampling(max_new_tokens, temperature, top_p, 0, seed)
    key = fingerprint(teacher.identity(), sampling.as_dict(), batch_size)
    attempts = _Attempts(output, key)
    header = user_header_ids(teacher.tokenizer)
    kept: list[str] = []
    with tqdm(total=count, desc="writing prompts", unit="prompt", disable=not progress) as bar:
        for attempt in range(4 + 4 * -(-count // batch_size)):
            if attempt == len(attempts.texts):
                batch_seed = int(fingerprint(seed, attempt)[:12], 16)
                drawn = teacher.complete([header] * batch_size, sampling, seed=batch_seed)
                texts = (c.text.strip() for c in drawn if c.finish_reason == "stop")
                attempts.add([text for text in texts if _reads_like_a_prompt(text)])
            kept = drop_duplicates([*kept, *attempts.texts[attempt]])[:count]
            bar.n = len(kept)
            bar.refresh()
            if len(kept) == count:
                return list(kept)
    raise ValueError(
        f"The teacher wrote only {len(kept)} distinct prompts of the {count} asked for; ask for fewer, raise the "
        "temperature, or give a prompt file."
    )


class _Attempts:
    """What was drawn so far, one line a batch, on disk as soon as it is drawn; a rerun goes on from there."""

    def __init__(self, path: str | os.PathLike[str] | None, key: str) -> None:
        self.path, self.key = (Path(path) if path is not None else None), key
        self.texts: list[list[str]] = []
        if self.path is not None and self.path.exists():
            data = self.path.read_bytes()
            self.path.write_bytes(data[: data.rfind(b"\n") + 1])  # a torn last line never counted
            for where, row in read_jsonl(self.path):
                if row.get("settings") != key:
                    raise ValueError(
                        f"{where}: prompts of another run (other teacher or settings); give another folder."
                    )
                self.texts.append(row["prompts"])

    def add(self, texts: list[str]) -> None:
        self.texts.append(texts)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"prompts": texts, "settings": self.key}, ensure_ascii=False) + "\n")


def drop_duplicates(texts: Sequence[str], threshold: float = 0.7) -> list[str]:
    """Texts in their order, without exact and near duplicates of an earlier one.

    Near means: estimated Jaccard similarity of the sets of three consecutive words above `threshold`, by MinHash with
    locality-sensitive hashing (Broder 1997). Case, punctuation and spacing do not count.

    Raises:
        ValueError: the `datasketch` package is missing.
    """
    return [text for text, earlier in zip(texts, near_duplicates(texts, threshold), strict=True) if earlier is None]


def without_duplicates(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Like `drop_duplicates`, for prompts that may be messages: those are compared by their text."""
    listed = list(prompts)
    texts = [p if isinstance(p, str) else "\n".join(f"{m['role']}: {m['content']}" for m in p) for p in listed]
    kept = set(drop_duplicates(texts))
    chosen = []
    for prompt, text in zip(listed, texts, strict=True):
        if text in kept:
            kept.remove(text)
            chosen.append(prompt)
    return chosen


def _reads_like_a_prompt(text: str) -> bool:
    return len(text) >= 12 and len(text.split()) >= 3 and "\ufffd" not in text
