"""Tasks that can be made without end and checked by a program: those of `reasoning-gym`."""

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from distill.curation.verifiers.match import FINAL, final_answer


def task_rows(
    task: str, size: int, seed: int, *, instruction: str = "", system: str | None = None, **config: Any
) -> list[dict[str, Any]]:
    """Prompt rows of a `reasoning-gym` task.

    The same arguments give the same rows. A question that was drawn before is left out, so a small task gives fewer rows
    than `size`. Rows of two seeds are *not* apart: in most tasks, row i of seed s is row 0 of seed s + i. So make
    training and held-out rows in one call, and cut them there.

    Args:
        task: a name of `reasoning_gym`, e.g. `"basic_arithmetic"`, `"chain_sum"`, `"gsm_symbolic"`.
        size: how many questions are drawn, at least 1.
        seed: of the task's generator.
        instruction: put after each question, e.g. how the answer shall be given.
        system: a system turn; the prompts are then messages.
        config: the task's own settings, e.g. `min_digits=1`.

    Returns:
        Rows of `prompt`, `answer`, `task`, `task_config` and `metadata`: plain values, so a file can hold them.

    Raises:
        ValueError: the extra is missing; no such task or setting; a task whose rows a file cannot hold.

    Example:
        >>> task_rows("chain_sum", 2, seed=0, min_terms=2, max_terms=2)[0]["prompt"]
        'State the final answer to the following arithmetic problem: 1663 - 5242 ='
    """
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1.")
    settings = {**config, "size": size, "seed": seed}
    dataset = _dataset(task, json.dumps(settings, sort_keys=True))
    rows: dict[str, dict[str, Any]] = {}
    for i in range(size):
        entry = dataset[i]
        if entry["question"] not in rows:
            rows[entry["question"]] = _row(entry, dataset, task, settings, instruction, system)
    return list(rows.values())


def _row(
    entry: dict[str, Any], dataset: Any, task: str, settings: dict[str, Any], instruction: str, system: str | None
) -> dict[str, Any]:
    row = {
        "prompt": _prompt(entry["question"] + instruction, system),
        "answer": entry["answer"],
        "task": task,
        "task_config": settings,
        "metadata": json.loads(json.dumps(entry["metadata"])),
    }
    right = entry["answer"]
    if isinstance(right, str) and dataset.score_answer(right, entry) != _score(row, right):
        raise ValueError(
            f"The rows of the task {task!r} do not survive being written to a file: its own check of its own answer "
            "changes. Use another task, or a verifier of your own."
        )
    return row


def task_score(final: str = "tag") -> Callable[[dict[str, Any], str], float]:
    """The task's own score of the answer, for rows of `task_rows`.

    Many tasks give a small score for a wrong answer in the right form, or one that contains the right one: only 1 is
    correct. Some of them evaluate the answer as an expression, so treat text of an untrusted teacher with the care
    that asks for.

    Args:
        final: where the answer stands: `"tag"`, `"last_line"`, `"boxed"` or `"all"`, see `final_answer`. Without one the
            score is 0.

    Raises:
        ValueError: another `final`.
    """
    if final not in FINAL:
        raise ValueError(f"final is {final!r}, expected one of {', '.join(FINAL)}.")

    def verifier(row: dict[str, Any], completion: str) -> float:
        if missing := [name for name in ("task", "task_config", "metadata") if name not in row]:
            raise ValueError(f"The prompt row has no {', '.join(missing)}; make it with task_rows.")
        given = final_answer(completion, final)
        return 0.0 if given is None else float(_score(row, given))

    return verifier


def _score(row: dict[str, Any], answer: str) -> float:
    dataset = _dataset(row["task"], json.dumps(row["task_config"], sort_keys=True))
    # no task's check reads the question: the entry's own words are in its metadata
    return float(dataset.score_answer(answer, {"answer": row["answer"], "metadata": row["metadata"], "question": ""}))


def _prompt(question: str, system: str | None) -> Any:
    if system is None:
        return question
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


@lru_cache(maxsize=64)
def _dataset(task: str, settings: str) -> Any:
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise ValueError("Tasks need the 'reasoning-gym' package: pip install 'distill[tasks]'.") from None
    if task not in DATASETS:
        raise ValueError(f"There is no task {task!r}; there are {', '.join(sorted(DATASETS))}.")
    try:
        return reasoning_gym.create_dataset(task, **json.loads(settings))
    except (TypeError, AssertionError) as error:  # how its configurations refuse a setting
        raise ValueError(f"The task {task!r} does not take the settings {settings}: {error}") from None
