"""Text rows of a trainer's data sets: tokenised once, in the first process, on the day of the run that is continued."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from distill.pairs.tokenising import tokenised
from distill.text.dates import day_settings, on_day
from distill.trainers import checkpoints


def tokenised_for(
    train: Any, evaluation: Any, tokenizer: Any, turns: str, args: Any
) -> tuple[Any, Any, dict[str, str]]:
    """Both data sets with token ids; those that have them already as they are.

    Args:
        train: of the trainer.
        evaluation: one data set, or several by name.
        tokenizer: the student's.
        turns: see `distill.pairs.tokenising.tokenised`.
        args: `TrainingArguments`, or None.

    Returns:
        Both, and what a run is made of beside them: the day that the template wrote, if it wrote one.

    Raises:
        ValueError: a bad row; text and no tokenizer.
    """
    several = evaluation if isinstance(evaluation, dict) else {"": evaluation}
    first = nullcontext() if args is None else args.main_process_first(desc="tokenising")
    with first, on_day(_recorded_day(tokenizer, args)):
        made = tokenised(train, tokenizer, turns=turns, name="train_dataset")
        others = {
            name: tokenised(rows, tokenizer, turns=turns, name=f"eval_dataset[{name!r}]" if name else "eval_dataset")
            for name, rows in several.items()
        }
        is_same = made is train and all(others[name] is rows for name, rows in several.items())
        day = {} if is_same else day_settings(tokenizer)
    return made, others if isinstance(evaluation, dict) else others[""], day


def _recorded_day(tokenizer: Any, args: Any) -> str | None:
    """The day that the template wrote when the run in the output folder began."""
    if args is None or tokenizer is None or not day_settings(tokenizer):
        return None
    last = checkpoints.last_complete_checkpoint(Path(str(args.output_dir)))
    return None if last is None else checkpoints.read_record(last)["settings"].get("template_day")
