"""Text rows of a trainer's data sets: tokenised once, in the first process, on the day of the run that is continued."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from distill.pairs.tokenising import tokenised
from distill.text.dates import day_settings, on_day
from distill.trainers import checkpoints


class TextRows:
    """Both data sets of a trainer as they were given, and with token ids; those that have them already stay as they are.

    Args:
        train: of the trainer.
        evaluation: one data set, or several by name.
        tokenizer: the student's.
        turns: see `distill.pairs.tokenising.tokenised`.
        args: `TrainingArguments`, or None.
        teacher_rows: see `tokenised`.

    Attributes:
        train, evaluation: with token ids.
        day: what a run is made of beside them: the day that the template wrote, if it wrote one.

    Raises:
        ValueError: a bad row; text and no tokenizer.
    """

    def __init__(
        self, train: Any, evaluation: Any, tokenizer: Any, turns: str, args: Any, teacher_rows: bool = False
    ) -> None:
        self._given = train, evaluation
        self._tokenizer, self._args = tokenizer, args
        self._how: dict[str, Any] = {"turns": turns, "teacher_rows": teacher_rows}
        # whether a run is continued is only said when training begins; most folders with a checkpoint are continued
        asked = None if args is None else args.resume_from_checkpoint or True
        self._make(self._decided(asked))

    def begin(self, resume_from_checkpoint: str | bool | None) -> bool:
        """A training begins: write the day of the checkpoint that it goes on from, or today's, in the place of a guess.

        Returns:
            Whether the rows are others now.
        """
        if not self.day:
            return False
        day = self._decided(resume_from_checkpoint)
        if day == self.day["template_day"]:
            return False
        self._make(day)
        return True

    def _make(self, day: str | None) -> None:
        (train, evaluation), args = self._given, self._args
        several = evaluation if isinstance(evaluation, dict) else {"": evaluation}
        first = nullcontext() if args is None else args.main_process_first(desc="tokenising")
        with first, on_day(day):
            self.train = tokenised(train, self._tokenizer, name="train_dataset", **self._how)
            others = {
                name: tokenised(
                    rows, self._tokenizer, name=f"eval_dataset[{name!r}]" if name else "eval_dataset", **self._how
                )
                for name, rows in several.items()
            }
            is_same = self.train is train and all(others[name] is rows for name, rows in several.items())
            self.day = {} if is_same else day_settings(self._tokenizer)
        self.evaluation = others if isinstance(evaluation, dict) else others[""]

    def _decided(self, asked: str | bool | None) -> str | None:
        """The day, as the first process decides it: that of the checkpoint that is asked for, else today's; None: it plays no part."""
        tokenizer, args = self._tokenizer, self._args
        if tokenizer is None or not day_settings(tokenizer):
            return None
        day = [_recorded(asked, args) or day_settings(tokenizer)["template_day"]]
        if args is not None and args.world_size > 1:
            broadcast_object_list(day)  # at midnight another process may already have the next one
        return day[0]


def _recorded(asked: str | bool | None, args: Any) -> str | None:
    """The day that the template wrote when the run of a checkpoint began."""
    if not asked or args is None:
        return None
    last = checkpoints.last_complete_checkpoint(Path(str(args.output_dir))) if asked is True else Path(asked)
    try:
        return None if last is None else checkpoints.read_record(last)["settings"].get("template_day")
    except (ValueError, KeyError):  # whoever resumes it will say so
        return None
