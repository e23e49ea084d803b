"""Benchmarks of `lm-eval`, so that the ones somebody uses anyway stand in the same table as everything else."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

# of a task's own figures the first of these, else its first
_METRICS = ("exact_match", "acc", "acc_norm", "prompt_level_strict_acc", "em", "f1")


@dataclass(frozen=True)
class Benchmark:
    """What a model got in one task.

    Args:
        task: its name.
        metric: which of the task's figures.
        values: of each question, in the order of the task; most often 0 or 1.
    """

    task: str
    metric: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The figure itself, where the task takes the mean."""
        return sum(self.values) / len(self.values)


def benchmark(
    model: PreTrainedModel | Any,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    folder: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    chat: bool = False,
) -> list[Benchmark]:
    """Run tasks of `lm-eval` (EleutherAI's harness) on a model.

    With a folder of task files no hub is asked, if the tasks read local files (`dataset_path: json`). A task file may name Python functions,
    which are run: give folders that you would run a program of.

    Args:
        model, tokenizer: who answers, in its own precision.
        tasks: names; a group gives all its tasks.
        folder: of task files of one's own, beside those of the package.
        limit: first questions of each task.
        batch_size: questions at once.
        chat: ask through the chat template, as one user turn.

    Returns:
        In the order in which the harness gives them.

    Raises:
        ValueError: the extra is missing; no such task or folder; a task whose data cannot be had (offline), or whose figure is none of single
            questions (perplexity of a corpus).

    Source: Gao et al. 2021 (A framework for few-shot language model evaluation).

    Example:
        >>> benchmark(student, tokenizer, ["my_task"], folder="tasks")[0].mean
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        raise ValueError("Benchmarks need the 'lm-eval' package: pip install 'distill[benchmarks]'.") from None
    if not tasks:
        raise ValueError("There are no tasks to run.")
    if folder is not None and not Path(folder).expanduser().is_dir():
        raise ValueError(f"There is no folder {folder} of task files.")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    own = None if folder is None else str(Path(folder).expanduser())
    manager = _manager(own, own is None)
    if own is not None and not set(tasks) <= set(
        manager.all_tasks
    ):  # reading the package's thousands takes some seconds
        there, manager = sorted(manager.all_tasks), _manager(own, True)
    if unknown := [name for name in tasks if name not in set(manager.all_tasks)]:
        way = "give --task_folder for task files of your own" if own is None else f"the folder {folder} has {', '.join(there) or 'none'}"  # fmt: skip
        raise ValueError(f"There is no task {', '.join(unknown)}; {way}.")
    speaker = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal")
    try:
        found = simple_evaluate(
            speaker, tasks=list(tasks), task_manager=manager, limit=limit, bootstrap_iters=0, apply_chat_template=chat
        )
    except (OSError, ConnectionError) as error:
        raise ValueError(f"The data of {', '.join(tasks)} cannot be had: {error}. Offline, a task reads files of yours.") from None  # fmt: skip
    assert found is not None, "the harness gives nothing in other processes than the first"
    return [_figure(task, samples) for task, samples in found["samples"].items()]


@lru_cache(maxsize=4)
def _manager(folder: str | None, defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder, include_defaults=defaults)


def _figure(task: str, samples: Sequence[dict[str, Any]]) -> Benchmark:
    names = list(dict.fromkeys(name for one in samples for name in one.get("metrics", ())))
    metric = next((name for name in _METRICS if name in names), names[0] if names else "")
    values = [one.get(metric) for one in samples]
    if not metric or any(not isinstance(value, int | float) for value in values):
        raise ValueError(
            f"The task {task} has {', '.join(names) or 'no figure'}, and none is a number of each question; leave it out of --tasks."
        )
    # of several filters the first counts
    first = samples[0].get("filter")
    kept = [float(v) for v, one in zip(values, samples, strict=True) if one.get("filter") == first]  # type: ignore[arg-type]
    return Benchmark(task, metric, tuple(kept))
