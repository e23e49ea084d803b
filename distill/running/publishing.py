"""Publishing: a finished student to the Hub. Only the student and its card go there, and nobody sees them unless that is said."""

from dataclasses import dataclass, field
from pathlib import Path

import datasets
from transformers import TrainingArguments

from distill.basics.processes import is_main, say
from distill.pairs.columns import TEACHER_PROMPT
from distill.running.hub import HubRepository


@dataclass
class PublishingArguments:
    """What goes to the Hub beside what TrainingArguments say (--push_to_hub, --hub_model_id, --hub_private_repo, --hub_token)."""

    push_pairs: bool = field(
        default=False,
        metadata={"help": "With --push_to_hub: upload the training pairs, too, as the data set HUB_MODEL_ID-pairs."},
    )
    push_teacher_prompts: bool = field(
        default=False,
        metadata={
            "help": "With --push_pairs: upload also what only the teacher was shown, which is left out otherwise."
        },
    )


class Publication:
    """Where a student will be published.

    Trainer would upload its whole output folder, and a run's folder has the pairs in it, its settings and its locks. So
    Trainer's own switch is turned off, and the finished student's folder is uploaded in its place.

    Args:
        training: its `push_to_hub` is turned off.
        push_pairs: upload the pairs, too.
        push_teacher_prompts: with what only the teacher was shown, a system text say, which may be what is not to be published.

    Raises:
        ValueError: pairs without `push_to_hub`; teacher's prompts without pairs.
    """

    def __init__(
        self, training: TrainingArguments, push_pairs: bool = False, push_teacher_prompts: bool = False
    ) -> None:
        self.wanted, training.push_to_hub = bool(training.push_to_hub), False
        if push_pairs and not self.wanted:
            raise ValueError(
                "push_pairs uploads the pairs beside a published student; give --push_to_hub True with it."
            )
        if push_teacher_prompts and not push_pairs:
            raise ValueError(
                "push_teacher_prompts uploads what the teacher was shown within the pairs; give --push_pairs True with it."
            )
        self._pairs, self._shown, self._token = push_pairs, push_teacher_prompts, training.hub_token
        self.private = training.hub_private_repo is not False  # unless said otherwise
        self.name = training.hub_model_id or Path(str(training.output_dir)).name
        self.repository = self.name

    def prepare(self) -> None:
        """Make the repositories, or find them, as private as was wanted: before the training, because afterwards is late.

        Raises:
            ValueError: the Hub cannot be reached, or takes no repository of that name; one is there that more people see than was
                said, or fewer.
        """
        if not self.wanted or not is_main():
            return
        self.repository = self._hub(self.name).make()
        if self._pairs:
            self._hub(f"{self.repository}-pairs", "dataset").make()

    def publish(self, folder: Path, pairs: datasets.Dataset) -> None:
        """Upload the student's folder, and the pairs if they were asked for. The first process does it.

        Args:
            folder: with weights, tokenizer and card, all of which goes to the Hub.
            pairs: what it was trained on.

        Raises:
            ValueError: the upload failed, or others can see the repository by now; the student is on the disk.
        """
        if not self.wanted or not is_main():
            return
        hidden = [name for name in TEACHER_PROMPT if name in pairs.column_names and not self._shown]
        try:
            self._hub(self.repository).upload(folder)  # looks again who sees it: a training may take weeks
            if self._pairs:
                self._hub(f"{self.repository}-pairs", "dataset").check()
                pairs.remove_columns(hidden).push_to_hub(
                    f"{self.repository}-pairs", private=self.private, token=self._token
                )
        except Exception as error:
            raise ValueError(
                f"The student is saved in {folder}, but could not be uploaded ({type(error).__name__}: {error}). Give the same "
                f"command again, or: hf upload {self.repository} {folder}"
            ) from None
        without = ", without what only the teacher was shown (--push_teacher_prompts)" if hidden else ""
        also = f", and the pairs{without}" if self._pairs else ""
        seen = self._hub(self.repository).seen
        say(f"Published to {self.repository} ({seen}): the student and its card{also}.")

    def _hub(self, name: str, kind: str = "model") -> HubRepository:
        return HubRepository(name, kind, self.private, self._token)
