"""What a verifier is, how one is named on a command line, and how pairs get their scores."""

import importlib
import importlib.util
import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from types import FrameType
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from distill.basics.fingerprint import fingerprint
from distill.curation.verifiers.match import exact_match, number_match, regex_match
from distill.curation.verifiers.tasks import task_score
from distill.pairs.prompts import prompt_rows
from distill.text.encode import OPEN, Prompt, check_messages, opens_trace

# (prompt row, completion) -> score; True and 1 mean correct
Verifier = Callable[[dict[str, Any], str], float | bool]


def verify(
    pairs: datasets.Dataset,
    rows: Iterable[dict[str, Any]],
    verifier: Verifier,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    timeout: float | None = None,
) -> datasets.Dataset:
    """Give every pair a score.

    The verifier sees the row of the pair's prompt and the completion's text; where the prompt had opened the trace, the
    text begins with the `<think>` that stands in the prompt, so that it can be understood alone. A verifier that
    raises, or gives something that is no finite number, marks that pair (`score` null, `score_error` says why) and the
    run goes on.

    Args:
        pairs: as `distill.pairs` describes them.
        rows: the prompt rows with all their fields, e.g. of `read_rows` or `task_rows`; found by their `prompt`. A bare
            string is the same prompt as one user message of it.
        verifier: `(row, completion) -> score`.
        tokenizer: of the pairs; needed where its template ends the prompt in an open `<think>`, because without it the
            unfinished reasoning of a cut completion would be taken for an answer.
        timeout: seconds for one score; then the pair is marked and the next one follows. It interrupts Python, and
            no code in C that does not look up; only in a process's main thread, and not on Windows.

    Returns:
        The pairs with the columns `score` and `score_error`; those that were there before are replaced.

    Raises:
        ValueError: a prompt that stands in two rows with different fields; a pair whose prompt is in no row; a timeout
            that cannot be kept here.

    Example:
        >>> scored = verify(pairs, read_rows("questions.jsonl"), number_match())
    """
    _check_timeout(timeout)
    by_prompt = _by_prompt(rows)
    scores: list[float | None] = []
    errors: list[str | None] = []
    columns = pairs.select_columns(["prompt", "completion", "prompt_ids"])
    for i, pair in enumerate(columns):
        row = by_prompt.get(_key(pair["prompt"]))
        if row is None:
            raise ValueError(
                f"Pair {i} has a prompt that is in none of the {len(by_prompt)} prompt rows: {_short(pair['prompt'])}. "
                "Give the rows these pairs were generated from."
            )
        opened = tokenizer is not None and opens_trace(pair["prompt_ids"], tokenizer)
        score, error = score_of(verifier, dict(row), f"{OPEN}\n" * opened + pair["completion"], timeout)
        scores.append(score)
        errors.append(error)
    rest = pairs.remove_columns([name for name in ("score", "score_error") if name in pairs.column_names])
    number, text = datasets.Value("float64"), datasets.Value("string")
    return rest.add_column("score", scores, feature=number).add_column("score_error", errors, feature=text)


def read_rows(path: str | os.PathLike[str], **reading: Any) -> list[dict[str, Any]]:
    """Prompt rows of a file of any format and shape that `read_prompts` reads, each with its `prompt` and all its other fields.

    Args:
        path: see `distill.pairs.prompts.read_prompts`.
        reading: `columns`, `split`, `limit`, `skip_bad`, as there.

    Raises:
        ValueError: as `read_prompts`.
    """
    return prompt_rows(path, doing="Beside the prompts, for the verifier", whole=True, **reading)


READY: dict[str, Callable[..., Verifier]] = {
    "exact": lambda final="all": exact_match(final=final),
    "number": lambda where="auto": number_match(where=where),
    "regex": lambda pattern="": regex_match(_needed(pattern)),
    "task": lambda final="tag": task_score(final),
}


def _needed(pattern: str) -> str:
    if not pattern:
        raise ValueError("'regex' needs its pattern, as in regex:PATTERN; an empty one is found in every answer.")
    return pattern


def load_verifier(spec: str) -> Verifier:
    """A verifier by its name on a command line.

    Args:
        spec: `"exact"`, `"exact:last_line"`, `"number"`, `"number:boxed"`, `"regex:PATTERN"`, `"task"`, `"task:all"`
            (what stands after the colon is the place of the answer); or a function of yours, as
            `"package.module:function"` or `"path/file.py:function"`.

    Raises:
        ValueError: nothing of that name, or it is no function.

    Example:
        >>> load_verifier("number:boxed")({"answer": 4}, "It is \\boxed{4}.")
        True
    """
    name, colon, rest = spec.partition(":")
    if name in READY:
        return READY[name](rest) if colon else READY[name]()
    place, colon, function = spec.rpartition(":")
    if not colon or not place or not function:
        raise ValueError(
            f"{spec!r} is no verifier: there are {', '.join(READY)}, 'package.module:function' and 'path/file.py:function'."
        )
    module = _module_of_file(Path(place)) if place.endswith(".py") else _module_of_name(place)
    found = getattr(module, function, None)
    if not callable(found):
        names = ", ".join(name for name, value in vars(module).items() if callable(value) and not name.startswith("_"))
        raise ValueError(f"{place} has no function {function!r}; it has {names or 'none'}.")
    return found


def _module_of_file(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"No file {path}, where a verifier should be.")
    spec = importlib.util.spec_from_file_location(f"verifier_{path.stem}", path)
    assert spec is not None, "a .py file has a spec"
    assert spec.loader is not None, "and a loader"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _module_of_name(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        file = Path(*name.split(".")).with_suffix(".py")
        way = f"; for the file here, give {file}:FUNCTION" if file.is_file() else ""
        raise ValueError(f"Cannot import {name}, where a verifier should be: {error}{way}") from None


def _check_prompt(row: dict[str, Any]) -> None:
    if not row.get("prompt"):
        raise ValueError(f"a prompt row needs a prompt; this one has {', '.join(row) or 'nothing'}.")
    if not isinstance(row["prompt"], str):
        check_messages(row["prompt"])


def _by_prompt(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows):
        try:
            _check_prompt(row)
        except ValueError as error:
            raise ValueError(f"Row {number}: {error}") from None
        before = found.setdefault(_key(row["prompt"]), row)
        if differing := [name for name in {**before, **row} if name != "prompt" and before.get(name) != row.get(name)]:
            raise ValueError(
                f"Row {number} repeats a prompt with another {', '.join(differing)}, so it is not clear which one a "
                f"completion answers: {_short(row['prompt'])}. Keep one of the two."
            )
    return found


def _key(prompt: Prompt) -> str:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return fingerprint([[message["role"], message["content"]] for message in messages])


def _short(prompt: Prompt) -> str:
    return json.dumps(prompt, ensure_ascii=False)[:80]


def score_of(
    verifier: Verifier, row: dict[str, Any], completion: str, timeout: float | None
) -> tuple[float | None, str | None]:
    """The score of one completion; or None, and why there is none: the verifier raised, took too long, or gave no finite number."""
    try:
        with _time_limit(timeout):
            score = verifier(row, completion)
    except _TimeUp:
        return None, f"no score after {timeout} seconds"
    except (
        Exception
    ) as error:  # somebody else's code on a teacher's text: whatever it raises must cost one row, not all
        return None, f"{type(error).__name__}: {error}"[:500]
    if not isinstance(score, Real) and type(score).__name__ != "bool":  # numpy's bool is no Real
        return None, f"the verifier gave {str(score)[:60]!r}, which is no number"
    if not math.isfinite(float(score)):
        return None, f"the verifier gave {float(score)}"
    return float(score), None


class _TimeUp(BaseException):
    """Not an Exception, so that no `except Exception` of a verifier swallows it."""


def _check_timeout(timeout: float | None) -> None:
    if timeout is None:
        return
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout}; it must be above 0 seconds, or None.")
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        raise ValueError("A timeout needs the main thread of a process on Linux or macOS; leave it out.")


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    if seconds is None:
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
