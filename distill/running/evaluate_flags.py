"""Flags of an evaluation: which models, which data, what is asked of them, and what decides its figures."""

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.evaluation.abilities import ABILITIES, Fact
from distill.evaluation.risk.sides import Sides
from distill.retrieval.asked_facts import read_asked_facts
from distill.running.parsing import refuse_given
from distill.running.reading_flags import ReadingArguments

# what is done with figures decides none of them; a folder's figures may be judged again by other limits
JUDGING = ("thresholds", "allow_unmeasured", "card", "output_dir")
QUICK: dict[str, Any] = {"n": 4, "old_prompts": 6, "most_pairs": 60, "answers": 8, "max_new_tokens": 32}
_MODELS = ("student", "against", "teacher")
_FILES = ("pairs", "old", "canaries", "facts")


@dataclass
class EvaluateArguments(ReadingArguments):
    """What is examined, and by which limits."""

    student: str | None = field(
        default=None,
        metadata={"help": "Embedded name, local folder (an adapter's, too), or Hub id; may also stand first."},
    )
    against: str | None = field(
        default=None,
        metadata={
            "help": "What it was before its training, likewise; cut: the teacher's layers that the student keeps, untrained."
        },
    )
    teacher: str | None = field(
        default=None, metadata={"help": "Who taught it; without, nothing can be said to be inherited."}
    )
    pairs: str | None = field(default=None, metadata={"help": "The pairs it was trained on: a file of any format."})
    held_out: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Pairs of the same kind that it was not trained on: files, or how many prompts of --pairs the training kept aside, or both."
        },
    )
    old: str | None = field(
        default=None,
        metadata={
            "help": "Pairs of general text, which the training was not about; else the base writes some, prompts and answers."
        },
    )
    old_prompts: int = field(default=32, metadata={"help": "How many of these."})
    canaries: str | None = field(
        default=None, metadata={"help": "A YAML file with the settings of the canaries that were planted in the pairs."}
    )
    thresholds: str | None = field(
        default=None, metadata={"help": "A YAML file of limits, as kl_old_max: 0.5; the shipped ones hold beside it."}
    )
    allow_unmeasured: bool = field(
        default=False, metadata={"help": "Do not fail for limits whose figures could not be measured."}
    )
    most_pairs: int = field(default=200, metadata={"help": "Training pairs, and held-out ones, that are scored."})
    answers: int = field(default=40, metadata={"help": "Training prompts that every model answers."})
    max_new_tokens: int = field(default=64, metadata={"help": "Longest answer to these and to old prompts, in tokens."})
    samples: int = field(default=2, metadata={"help": "Drawn answers a canary, beside the most likely one."})
    abilities: str = field(
        default="instructions,tools,reasoning",
        metadata={"help": f"Which are examined, divided by commas: {', '.join(ABILITIES)}."},
    )
    style: str | None = field(default=None, metadata={"help": "Of the ability tone: pirate, formal or asking."})
    identity: str | None = field(
        default=None,
        metadata={
            "help": "Of the ability identity: what the student shall say it is, as Orlando, or Orlando by the Harbour Office."
        },
    )
    facts: str | None = field(
        default=None,
        metadata={
            "help": "Of the ability knowledge: a file of facts, each row with `questions` (two or more wordings) and `answer`."
        },
    )
    n: int = field(default=24, metadata={"help": "Probes of each ability."})
    seed: int = field(default=0, metadata={"help": "Of what is drawn: probes, prompts, pairs."})
    card: bool = field(default=False, metadata={"help": "Put the result on the student's model card, too."})
    quick: bool = field(default=False, metadata={"help": "Few probes and pairs: two minutes, and wide intervals."})
    output_dir: str = field(default="runs/evaluation", metadata={"help": "Folder of the page and of what is kept."})

    def __post_init__(self) -> None:
        for name in ("student", "against"):
            if not getattr(self, name):
                raise ValueError(f"--{name} is missing: distill evaluate STUDENT --against BASE.")
        for name in ("most_pairs", "answers", "max_new_tokens", "old_prompts", "n"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.samples < 0:
            raise ValueError(f"samples is {self.samples}; it must be at least 0.")
        if self.quick:
            refuse_given(self, tuple(QUICK), "--quick sets this itself; leave one of them out.")
        if self.pairs is None:
            refuse_given(
                self,
                ("most_pairs", "answers", "limit"),
                "this is of the training pairs; name them with --pairs, or leave it out.",
            )
            if counts := self.held()[0]:
                raise ValueError(f"--held_out {counts[0]} is a number of prompts of --pairs, and there are none.")
        if len(counts := self.held()[0]) > 1:
            raise ValueError(
                f"--held_out has the numbers {', '.join(map(str, counts))}; one says how many prompts were kept aside."
            )
        if unknown := [one for one in self.chosen() if one not in ABILITIES]:
            raise ValueError(
                f"abilities has {', '.join(map(repr, unknown))}; it must list some of {', '.join(ABILITIES)}, divided by commas."
            )
        for ability, flag in (("tone", "style"), ("identity", "identity"), ("knowledge", "facts")):
            if ability not in self.chosen():
                refuse_given(
                    self, (flag,), f"this is of the ability {ability}; name it in --abilities, or leave it out."
                )
            elif getattr(self, flag) is None:
                raise ValueError(f"--abilities has {ability}, and --{flag} does not say what was taught.")
        if self.canaries is None:
            refuse_given(self, ("samples",), "this is of canaries; name them with --canaries, or leave it out.")
        if self.card and not Path(str(self.student)).is_dir():
            raise ValueError(f"--card writes into the student's folder, and {self.student!r} is none.")

    def held(self) -> tuple[list[int], list[str]]:
        """Numbers of prompts that were kept aside, and files; what exists is a file, whatever its name."""
        counts = [text for text in self.held_out if text.isdigit() and not Path(text).exists()]
        return [int(text) for text in counts], [text for text in self.held_out if text not in counts]

    def chosen(self) -> list[str]:
        """The abilities."""
        return [part.strip() for part in self.abilities.split(",") if part.strip()]

    def ability_settings(self) -> dict[str, dict[str, Any]]:
        """Of each ability what was taught."""
        found: dict[str, dict[str, Any]] = {}
        if self.style is not None:
            found["tone"] = {"style": self.style}
        if self.identity is not None:
            name, _, maker = self.identity.partition(" by ")
            found["identity"] = {"name": name.strip(), **({"maker": maker.strip()} if maker else {})}
        if self.facts is not None:
            asked = read_asked_facts(self.facts)
            found["knowledge"] = {"facts": [Fact("", tuple(one.questions), one.answer) for one in asked]}
        return found

    def as_run(self) -> "EvaluateArguments":
        """With what `--quick` sets."""
        return dataclasses.replace(self, **QUICK, quick=False) if self.quick else self

    def settings(self, sides: Sides) -> dict[str, Any]:
        """What decides the figures: files and models by their contents."""
        own = {name: value for name, value in dataclasses.asdict(self).items() if name not in (*JUDGING, *_MODELS)}
        for name in _FILES:
            own[name] = _told(own[name])
        own["held_out"] = [_told(name) for name in self.held_out]
        return own | {side.key: side.weights for side in sides}


def _told(name: str | None) -> str | None:
    """A file by what it says, wherever it lies; anything else by its name."""
    return hashlib.sha256(Path(name).read_bytes()).hexdigest() if name and Path(name).is_file() else name
