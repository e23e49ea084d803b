"""Search over settings (`Trainer.hyperparameter_search`): with what it may be made, and what a trial is judged by."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers.hyperparameter_search import default_hp_search_backend
from transformers.trainer_utils import number_of_arguments

Judge = Callable[[dict[str, float]], Any]


def check_search(backend: Any, more: dict[str, Any]) -> Any:
    """Refuse searches whose trials do not run one behind the other in this process.

    Args:
        backend: as `Trainer.hyperparameter_search` takes it; None: the one that is installed.
        more: what goes on to the backend.

    Returns:
        The backend.

    Raises:
        ValueError: Ray, or several trials at once.
    """
    found = default_hp_search_backend() if backend is None else backend
    if str(getattr(found, "value", found)) == "ray":
        raise ValueError(
            "hyperparameter_search(backend='ray') is not supported: Ray copies the trainer into processes of its own, and its trials go on "
            "from checkpoints that Ray writes without the record by which a trainer here knows its own. Install optuna and give backend='optuna'."
        )
    if (jobs := more.get("n_jobs", 1)) != 1:
        raise ValueError(
            f"hyperparameter_search(n_jobs={jobs}) would run several trials at once in one trainer, which has one model and one set of "
            "settings. Leave n_jobs out; several processes of yours may share an optuna storage."
        )
    return found


def check_direction(direction: Any) -> None:
    """Refuse to look for the largest loss: a trial is judged by its loss where nothing else is said.

    Args:
        direction: as `Trainer.hyperparameter_search` takes it; of optuna, also a member of its `StudyDirection`.

    Raises:
        ValueError: it is not "minimize".
    """
    asked = direction if isinstance(direction, list | tuple) else [direction]
    if [str(getattr(one, "name", one)).lower() for one in asked] != ["minimize"]:
        raise ValueError(
            f"direction={direction!r}, and without compute_objective= a trial is judged by its evaluation loss alone, which is to be small. Leave "
            "direction out, or say what is to be large: compute_objective=lambda metrics: metrics['eval_...']."
        )


@contextmanager
def say_without_a_trial(model_init: Any, trial: Any) -> Iterator[None]:
    """Say why `model_init(trial)` failed over a trial that is not there."""
    try:
        yield
    except Exception as error:
        if trial is None and number_of_arguments(model_init) == 1:
            error.add_note(
                "model_init(trial) gets None when the trainer is made, and in every training outside of a search: give a student then, too."
            )
        raise


def loss_alone(evaluation: Any) -> Judge:
    """What a trial is judged by where nothing is said: its evaluation loss; of several sets, the sum of theirs.

    Trainer's own choice is the sum of all metrics where there is one beside the loss: in a white box that would be the terms without their weights.

    Args:
        evaluation: the trainer's `eval_dataset`.
    """
    names = [f"eval_{name}_loss" for name in evaluation] if isinstance(evaluation, dict) else ["eval_loss"]

    def judge(metrics: dict[str, float]) -> float:
        return sum(metrics[name] for name in names)

    return judge
