"""Flags of forgetting: what is taught, what is held on to, and by which means."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from distill.evaluation.abilities import ABILITIES

SKILLS = ("knowledge", "identity")  # abilities whose right answers a program can write
TAUGHT = "taught"  # the arm without any means


class Arm(NamedTuple):
    """One way to train.

    Args:
        name: in files and results, such as `replay-0.05`.
        kind: `"taught"`, `"replay"`, `"keep_kl"`, `"lora"`, `"average"` (of the taught one with the start), or `"control"`.
        value: of the means: a share, a weight, a rank, alpha; 0 without.
    """

    name: str
    kind: str
    value: float


@dataclass
class ForgettingArguments:
    """What is taught, what is measured, which means are compared."""

    model: str = field(default="smollm2-135m", metadata={"help": "Who learns: embedded name, folder, or Hub id."})
    skill: str = field(default="knowledge", metadata={"help": f"The new skill: {', '.join(SKILLS)}."})
    taught: int = field(default=16, metadata={"help": "Facts, or questions of an identity, that are taught."})
    asked: int = field(default=16, metadata={"help": "Probes of the new skill; of knowledge one for each fact."})
    old: str = field(default="instructions", metadata={"help": f"Old abilities, divided by commas: {', '.join(ABILITIES)}."})  # fmt: skip
    old_probes: int = field(default=24, metadata={"help": "Probes of each old ability."})
    old_pairs: int = field(
        default=32, metadata={"help": "Own samples of the start, on which KL and loss are measured."}
    )
    prompts: str | None = field(
        default=None, metadata={"help": "A file of other prompts for own samples; else the start writes them."}
    )
    replay: str = field(default="0.01,0.05,0.25", metadata={"help": "Shares of own samples among the training rows."})
    keep_kl: str = field(default="0.1,1", metadata={"help": "Weights of the KL to the start beside cross-entropy."})
    upper_layers: int = field(
        default=10,
        metadata={"help": "Only so many layers, from the top, are trained (LoRA: all); 0: all. A step costs half."},
    )
    lora_r: int = field(default=8, metadata={"help": "Rank of the adapter; 0 leaves this arm out."})
    lora_learning_rate: float = field(default=2e-3, metadata={"help": "Adapters need a larger one than whole models."})
    averages: str = field(default="0.25,0.5,0.75", metadata={"help": "Shares of the taught student in averages."})
    seeds: int = field(default=1, metadata={"help": "Trainings of each arm, each with facts of its own."})
    quick: bool = field(
        default=False, metadata={"help": "Few facts, three arms, little training: to see that it runs."}
    )

    def __post_init__(self) -> None:
        for name in ("taught", "asked", "old_probes", "old_pairs", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.skill not in SKILLS:
            raise ValueError(f"skill is {self.skill!r}; it must be one of {', '.join(SKILLS)}.")
        if self.skill == "knowledge" and self.asked > self.taught:
            raise ValueError(f"asked is {self.asked}, and {self.taught} facts are taught; ask for no more than those.")
        if wrong := [name for name in self.old_abilities() if name not in ABILITIES or name == self.skill]:
            raise ValueError(
                f"old has {', '.join(map(repr, wrong))}; it must list some of {', '.join(ABILITIES)}, and not the new skill."
            )
        if self.lora_r < 0 or self.upper_layers < 0 or self.lora_learning_rate <= 0:
            raise ValueError(
                f"lora_r is {self.lora_r}, upper_layers {self.upper_layers} (0 or more), and lora_learning_rate {self.lora_learning_rate} (above 0)."
            )
        self.arms()

    def old_abilities(self) -> list[str]:
        """Their names."""
        return [part.strip() for part in self.old.split(",") if part.strip()]

    def arms(self) -> list[Arm]:
        """All ways to train, in the order of the table.

        Raises:
            ValueError: a value that is no number or out of range.
        """
        shares = _numbers("replay", self.replay, lambda value: 0 < value < 1, "shares above 0 and below 1")
        weights = _numbers("keep_kl", self.keep_kl, lambda value: value > 0, "weights above 0")
        alphas = _numbers("averages", self.averages, lambda value: 0 < value < 1, "shares above 0 and below 1")
        return [
            Arm(TAUGHT, TAUGHT, 0),
            *(Arm(f"replay-{share:g}", "replay", share) for share in shares),
            *(Arm(f"keep_kl-{weight:g}", "keep_kl", weight) for weight in weights),
            *([Arm(f"lora-{self.lora_r}", "lora", self.lora_r)] if self.lora_r else []),
            *(Arm(f"average-{alpha:g}", "average", alpha) for alpha in alphas),
            Arm("control", "control", 0),
        ]


def _numbers(flag: str, text: str, holds: Callable[[float], bool], rule: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"{flag} is {text!r}; it lists numbers, divided by commas.") from None
    if wrong := [value for value in found if not holds(value)]:
        raise ValueError(f"{flag} has {', '.join(f'{value:g}' for value in wrong)}; it lists {rule}.")
    return list(dict.fromkeys(found))
