"""On-policy steps: a share of each step's rows replaced by what the student writes now, before anybody counts them."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, send_to_device
from transformers.utils import logging

from distill.basics.disk import write_durably
from distill.basics.processes import say
from distill.models.adapters import base_of
from distill.models.configs import text_config_of, values_of_config
from distill.models.eos import eos_ids
from distill.models.precision import exact_on
from distill.objectives.base import Objective
from distill.pairs.collate import PairCollator
from distill.pairs.labels import EMPTY
from distill.pairs.row_limits import RowLimits
from distill.signals import Routed
from distill.trainers.alignment_checks import is_aligned, some_of
from distill.trainers.first_look import BothSides, FirstLook, first_look
from distill.trainers.rollout_journal import RolloutJournal
from distill.trainers.rollout_prompts import check_lengths, prompt_lengths, prompt_rows
from distill.trainers.rollouts import Answer, Ask, Rollouts, Sampler, chosen, prompt_of_row
from distill.trainers.sampling import sample
from distill.trainers.watched_collator import name_of

logger = logging.get_logger(__name__)
_STEPS_WITHOUT_END = 10
PREFLIGHT = "preflight.json"


class OnPolicy:
    """Rollouts of a `WhiteBoxTrainer`.

    Args:
        trainer: its source prepared, its rows checked.
        settings: what the user asked for.

    Attributes:
        longest: tokens of the longest row that a rollout can become, as far as it is known.

    Raises:
        ValueError: a teacher that knows some texts only; packed rows; sharded weights; prompts that do not fit.
    """

    def __init__(self, trainer: Any, settings: Rollouts) -> None:
        self.trainer, self.settings = trainer, settings
        _check_trainer(trainer)
        check_no_dropout(trainer.objectives, trainer.model)
        self.tokenizer = trainer.data_collator.tokenizer
        self.prompts = (
            None if settings.prompts is None else prompt_rows(settings.prompts, self.tokenizer, settings.chat)
        )
        self.longest = self._check_prompts()
        self.vocabulary = min((limit for limit in self._vocabularies() if limit is not None), default=None)
        self.sampler = settings.sampler or sample
        self.journal = RolloutJournal(Path(str(trainer.args.output_dir)), trainer.args.process_index)
        self._forget()
        self._without_end = [0, 0]  # steps in a row, and their rollouts
        self._looked = False

    def _forget(self) -> None:
        self._sums = [0.0, 0.0, 0.0]  # rollouts, those that ended, their tokens; since the last log
        self._seconds, self._written = 0.0, 0.0  # of drawing, and tokens in them, in this process's life

    def _check_prompts(self) -> int:
        trainer, new = self.trainer, self.settings.max_new_tokens
        collator = trainer.data_collator
        shown = collator.teacher_limits
        if isinstance(trainer.source, Routed):
            for limits in trainer.source.limits.values():
                shown = shown.tightened(RowLimits(positions=limits.positions, whose=limits.whose))
        rows, name = (
            (trainer.train_dataset, "train_dataset")
            if self.prompts is None
            else (self.prompts, "the rollouts' prompts")
        )
        check_lengths(rows, name, new, collator.limits, shown, collator.max_length)
        if self.prompts is not None:
            lacking = [
                (number, column)
                for column in trainer.source.columns
                for number, row in enumerate(self.prompts)
                if column not in row
            ]
            if lacking:
                raise ValueError(
                    f"Prompt {lacking[0][0]} of the rollouts has no column {lacking[0][1]!r}, which the teacher reads; give each prompt as a row: "
                    f"{{'prompt': ..., {lacking[0][1]!r}: ...}}."
                )
            if isinstance(trainer.source, Routed):
                trainer.source.split(self.prompts, "the rollouts' prompts")
        lengths = prompt_lengths(rows)
        longest = int(lengths.max()) + new if len(lengths) else 0
        return longest if collator.max_length is None else min(longest, collator.max_length)

    def _vocabularies(self) -> Iterator[int | None]:
        collator, source = self.trainer.data_collator, self.trainer.source
        for limits in (collator.limits, collator.teacher_limits):
            yield from (limits.vocabulary, limits.labels)
        if isinstance(source, Routed):
            yield from (limits.vocabulary for limits in source.limits.values())
        elif not is_aligned(self.trainer.objectives):
            yield source.facts.vocabulary  # a server's, too, which runs no model here

    def identity(self) -> dict[str, Any]:
        """What decides the rollouts, as plain values."""
        digest = hashlib.sha256()
        for row in self.prompts or ():
            for name in ("prompt_ids", "teacher_prompt_ids", *self.trainer.source.columns):
                value = row.get(name)
                digest.update(
                    repr(value if value is None or isinstance(value, str) else list(np.atleast_1d(value))).encode()
                )
        prompts = "of the pairs" if self.prompts is None else f"{len(self.prompts)}, sha256 {digest.hexdigest()[:16]}"
        return self.settings.as_dict() | {"prompts": prompts}

    def replaced(self, batches: list[Any]) -> list[Any]:
        """The micro-batches of a step, some of their rows written anew by the student."""
        trainer, settings = self.trainer, self.settings
        step, seed = trainer.state.global_step, trainer.args.seed
        pairs = [batch.pop("pairs") for batch in batches]
        share = settings.share_at(step, trainer.state.max_steps)
        if share <= 0:
            return batches
        places = self._places(pairs)
        self._look_once(step, [pairs[batch][i] for batch, i, _ in places])
        taken = chosen(seed, step, [number for *_, number in places], share)
        places = [place for place, is_taken in zip(places, taken, strict=True) if is_taken]
        rows = [self._prompt(pairs[batch][i], step, number) for batch, i, number in places]
        stops = eos_ids(trainer.model, self.tokenizer)
        with trainer.rates.pause(), self._timed():
            answers = self._answers(
                [Ask(row["prompt_ids"], (seed, step, place[2])) for row, place in zip(rows, places, strict=True)], stops
            )
        made = []
        for (batch, i, number), row, answer in zip(places, rows, answers, strict=True):
            made.append(self._pair(row, answer, step, number))
            pairs[batch][i] = made[-1]
        for batch in {batch for batch, *_ in places}:
            batches[batch] = send_to_device(trainer.data_collator(pairs[batch]), trainer.args.device)
            batches[batch].pop("pairs")
        self._count(made, stops)
        self._write(made, step, stops)
        return batches

    def look(self, rows: Sequence[Any] = ()) -> FirstLook:
        """What the student writes now, and what its teacher says of it; no state of the training is touched. Every process has to call it.

        Args:
            rows: of which prompts are taken where no others are known: a stream's.
        """
        trainer, seed = self.trainer, self.trainer.args.seed
        given = self.prompts or some_of(trainer.train_dataset, self.settings.look) or rows
        chosen_rows = some_of(list(given), self.settings.look)
        prompts = [of_prompt(row, number) for number, row in enumerate(chosen_rows)]
        stops = eos_ids(trainer.model, self.tokenizer)
        with trainer.rates.pause():
            answers = self._answers([Ask(row["prompt_ids"], (seed, 0, i)) for i, row in enumerate(prompts)], stops)
            made = [answered(row, answer) for row, answer in zip(prompts, answers, strict=True)]
            sides = BothSides(
                trainer.model,
                trainer.source,
                trainer.data_collator,
                trainer.compared[0],
                trainer.compared[1],
                trainer.args.device,
                trainer.accelerator.autocast,
            )
            return first_look(made, sides, self.tokenizer, stops, self.settings.highest_kl, self.settings.verifier)

    def _look_once(self, step: int, rows: Sequence[Any]) -> None:
        """The look before the first step of a run that has rollouts; one that is resumed behind it has been looked at.

        Raises:
            ValueError: what was seen speaks against the run.
        """
        if self._looked:
            return
        self._looked, most = True, self.trainer.state.max_steps
        if not self.settings.look or any(self.settings.share_at(earlier, most) > 0 for earlier in range(step)):
            return
        found: Any = [self.look(rows)]
        if self.trainer.args.world_size > 1:  # what the first one saw is what all go by
            broadcast_object_list(found)
        say(found[0])
        if self.trainer.args.process_index == 0:
            folder = Path(str(self.trainer.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            write_durably(folder / PREFLIGHT, json.dumps(found[0].as_dict(), indent=1, ensure_ascii=False) + "\n")
        if found[0].errors:
            raise ValueError(f"On-policy training does not begin. {found[0].errors[0]}")

    def _places(self, pairs: Sequence[Sequence[Any]]) -> list[tuple[int, int, int]]:
        """Micro-batch, place in it, and number in the step of each row of this process: the same row has the same number in any split."""
        args, config = self.trainer.args, self.trainer.accelerator
        size = self.trainer._train_batch_size // (args.world_size if config.split_batches else 1)
        return [
            (batch, i, (batch * args.world_size + args.process_index) * size + i)
            for batch, rows in enumerate(pairs)
            for i, pair in enumerate(rows)
            if pair.get("id") != EMPTY["id"]
        ]

    def _prompt(self, pair: Any, step: int, number: int) -> dict[str, Any]:
        """The row that a rollout is for: its prompt, and what a teacher reads beside it."""
        trainer = self.trainer
        if self.prompts is None:
            return _without_completion(pair)
        together = trainer._train_batch_size * trainer.args.gradient_accumulation_steps
        together *= 1 if trainer.accelerator.split_batches else trainer.args.world_size
        which = prompt_of_row(trainer.args.seed, step * together + number, len(self.prompts))
        return of_prompt(self.prompts[which], which)

    def _answers(self, asks: list[Ask], stops: set[int]) -> list[Answer]:
        return answers_to(asks, self.trainer.model, self.sampler, self.settings, stops, self.vocabulary)

    def _pair(self, row: dict[str, Any], answer: Answer, step: int, number: int) -> dict[str, Any]:
        made = answered(row, answer) | {"id": f"{row.get('id', 'row')}, rollout of step {step}, row {number}"}
        mask = self.settings.has_loss(len(answer.completion_ids))
        return made if mask is None else {**made, "loss_mask": mask}

    def _count(self, made: Sequence[dict[str, Any]], stops: set[int]) -> None:
        ended = sum(int(row["completion_ids"][-1]) in stops for row in made)
        tokens = sum(len(row["completion_ids"]) for row in made)
        for i, value in enumerate((len(made), ended, tokens)):
            self._sums[i] += value
        self._written += tokens
        steps, rollouts = self._without_end
        self._without_end = [0, 0] if ended else [steps + bool(made), rollouts + len(made)]
        if self._without_end[0] == _STEPS_WITHOUT_END:
            logger.warning_once(
                f"In {_STEPS_WITHOUT_END} steps none of {self._without_end[1]} rollouts ended: 0% have an EOS, all were cut at max_new_tokens="
                f"{self.settings.max_new_tokens}. The student learns nothing about how to end from them; raise max_new_tokens, give prompts with its "
                "chat template, or begin with a student that was fine-tuned on whole answers."
            )

    def _write(self, made: Sequence[dict[str, Any]], step: int, stops: set[int]) -> None:
        name = str(getattr(self.trainer.student.config, "name_or_path", ""))
        rows = []
        for row in made[: self.settings.journal]:
            prompt, ids = (np.asarray(row[column]).tolist() for column in ("prompt_ids", "completion_ids"))
            ended = ids[-1] in stops
            rows.append(
                {
                    "id": row["id"],
                    "prompt": self.tokenizer.decode(prompt, skip_special_tokens=True),
                    "completion": self.tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True),
                    "prompt_ids": prompt,
                    "completion_ids": ids,
                    "finish_reason": "stop" if ended else "length",
                    "sample": 0,
                    "teacher": name or "the student",
                    "step": step,
                }
            )
        self.journal.write(rows)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        if self.trainer.args.device.type == "cuda":
            torch.cuda.synchronize(self.trainer.args.device)
        self._seconds += time.perf_counter() - begun

    def begin(self, step: int) -> None:
        """A training begins at this step."""
        self._forget()
        self._looked = False
        self.journal.begin(step)

    def open_window(self) -> list[float]:
        """Sums of this process since the last log, for a checkpoint."""
        return list(self._sums)

    def take_up_window(self, sums: Sequence[float]) -> None:
        """Put back what `open_window` gave."""
        self._sums = list(sums)

    def close(self) -> dict[str, float]:
        """What the log shows of the rollouts since the last one, over all processes; every process has to call it."""
        trainer = self.trainer
        mine = torch.tensor([*self._sums, self._written, self._seconds], dtype=torch.float64)
        if trainer.args.world_size > 1:
            wide = mine.to(exact_on(trainer.args.device))
            mine = trainer.accelerator.reduce(wide.to(trainer.args.device), "sum").cpu()
        rollouts, ended, tokens, written, seconds = mine.tolist()
        self._forget()
        if not rollouts:
            return {}
        shown = {"rollouts": rollouts, "rollouts_ended": ended / rollouts, "rollout_tokens": tokens / rollouts}
        if seconds:
            shown["rollout_tokens_per_second"] = written / (seconds / trainer.args.world_size)
        return shown


def _without_completion(pair: Any) -> dict[str, Any]:
    return {name: value for name, value in pair.items() if name not in ("completion_ids", "loss_mask")}


def of_prompt(row: Any, number: int) -> dict[str, Any]:
    """The row of a prompt, without what was answered to it elsewhere; named by its number where it has no id."""
    return {"id": f"prompt {number}", **_without_completion(row)}


def answered(row: dict[str, Any], answer: Answer) -> dict[str, Any]:
    """The pair that a prompt's row becomes by what the student wrote."""
    return {**row, "completion_ids": np.asarray(answer.completion_ids, np.int64)}


def answers_to(
    asks: Sequence[Ask], student: Any, sampler: Sampler, settings: Rollouts, stops: set[int], vocabulary: int | None
) -> list[Answer]:
    """What the student writes to each, in their order; `settings.rows_together` of them at a time, and looked at.

    Args:
        asks: prompts and seeds.
        student: as it is now.
        sampler: who lets it write.
        settings: how it draws.
        stops: tokens that end a completion.
        vocabulary: ids are to be below it; None: any that the student has.

    Raises:
        ValueError: see `check_answers`.
    """
    answers = list[Answer]()
    student = getattr(student, "_orig_mod", student)  # of torch.compile, which does not know generate()
    # prompts of like length together, so that little is padded
    order = sorted(range(len(asks)), key=lambda i: len(asks[i].prompt_ids))
    for first in range(0, len(order), settings.rows_together):
        some = [asks[i] for i in order[first : first + settings.rows_together]]
        given = sampler(student, some, settings.sampling, stops, vocabulary)
        check_answers(given, some, settings.max_new_tokens, stops, vocabulary)
        answers += given
    back = dict(zip(order, answers, strict=True))
    return [back[i] for i in range(len(asks))]


def check_any_text(source: Any) -> None:
    """Refuse a teacher that knows beforehand about which texts it will be asked.

    Raises:
        ValueError: names it.
    """
    if not getattr(source, "any_text", True):
        raise ValueError(
            f"Rollouts are new text, and {type(source).__name__} holds what a teacher said about the pairs that were captured: it knows nothing "
            "of others. Give the teacher itself (a model or its name), or leave rollouts out."
        )


def check_own_text(objectives: Sequence[Objective], rollouts: Rollouts | None) -> None:
    """Refuse an estimate over the student's own text (`Objective.of_own_text`) where some rows are another's, or were drawn otherwise.

    Raises:
        ValueError: names the objective and the setting.
    """
    named = [one.name for one in objectives if one.of_own_text]
    if not named:
        return
    what = f"The gradient of {', '.join(named)} is right on text that the student has drawn from its own distribution, and on no other"
    if rollouts is None:
        raise ValueError(f"{what}; give rollouts=Rollouts(...), or take Logits('reverse_kl').")
    wanted = {"share": 1.0, "every": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "first": 1.0}
    given = {name: getattr(rollouts, name) for name in wanted}
    if wrong := [f"{name}={given[name]}, not {right}" for name, right in wanted.items() if given[name] != right]:
        raise ValueError(
            f"{what}, but the rollouts have {'; '.join(wrong)}. Leave these as they are by default, or take Logits('reverse_kl'), which is right on any text."
        )


def check_no_dropout(objectives: Sequence[Objective], student: Any) -> None:
    """Refuse a student that is scored with dropout and has drawn without, where an objective needs its own draws.

    Raises:
        ValueError: names where, and the way out.
    """
    named = [one.name for one in objectives if one.of_own_text]
    if not named:
        return
    modules = [
        name
        for name, one in student.named_modules()
        if isinstance(one, torch.nn.modules.dropout._DropoutNd) and one.p > 0
    ]
    config = values_of_config(text_config_of(base_of(student)))
    modules += [
        f"config.{name}"
        for name, value in config.items()
        if ("dropout" in name or "pdrop" in name) and isinstance(value, int | float) and value > 0
    ]
    if modules:
        raise ValueError(
            f"The student has dropout ({', '.join(modules[:3])}), which is off while it writes and on while its text is scored, so {', '.join(named)} would "
            "take the text for another model's. Set it to 0 (lora_dropout=0, attention_dropout=0), or take Logits('reverse_kl')."
        )


def _check_trainer(trainer: Any) -> None:
    if not isinstance(trainer.data_collator, PairCollator):
        raise ValueError(
            f"Rollouts are rows like all others, made into batches by PairCollator; {name_of(trainer.data_collator)} is another collator. Leave "
            "data_collator out, or rollouts."
        )
    if trainer.has_bins():
        raise ValueError(
            "Rows are packed, and how long a rollout will be is not known when rows are packed; leave packing out, or rollouts."
        )
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError(
            "The student's weights are divided over processes (FSDP or DeepSpeed), and to generate with them every process would have to take the same "
            "number of steps; train with DDP (accelerate launch without a sharding plugin), or leave rollouts out."
        )


def check_answers(answers: Any, asks: Sequence[Ask], most: int, stops: set[int], vocabulary: int | None) -> None:
    """What a sampler of somebody's own may do wrong.

    Raises:
        ValueError: another number of answers, another prompt than was asked, no token, too many, something behind the end, an unknown id.
    """
    if len(answers) != len(asks):
        raise ValueError(
            f"The sampler was asked for {len(asks)} rollouts and gave {len(answers)}; it has to give one for each, in their order."
        )
    for number, (answer, ask) in enumerate(zip(answers, asks, strict=True)):
        place = f"Rollout {number} (seed {ask.seed})"
        if list(answer.prompt_ids) != list(ask.prompt_ids):
            raise ValueError(
                f"{place}: the sampler continued other tokens than it was asked to ({list(answer.prompt_ids)[:8]}... of {len(answer.prompt_ids)}, where "
                f"{list(ask.prompt_ids)[:8]}... of {len(ask.prompt_ids)} were given). Send token ids, not text that is encoded again."
            )
        ids = list(answer.completion_ids)
        if not ids:
            raise ValueError(
                f"{place} is empty: the sampler gave no token, not even the EOS. It has to give the tokens that were emitted, the EOS among them."
            )
        if len(ids) > most:
            raise ValueError(f"{place} has {len(ids)} tokens, where max_new_tokens is {most}.")
        if any(token in stops for token in ids[:-1]):
            raise ValueError(f"{place} has tokens behind its end (one of {sorted(stops)}); a completion ends with it.")
        wrong = [token for token in ids if token < 0 or (vocabulary is not None and token >= vocabulary)]
        if wrong:
            raise ValueError(
                f"{place} has token id {wrong[0]}, where ids are from 0 to {vocabulary} (not included) for both models."
            )
