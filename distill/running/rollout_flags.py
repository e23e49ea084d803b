"""Flags of rollouts: a share of each step's rows that the student writes itself."""

from dataclasses import dataclass, field

from distill.objectives.schedules import Schedule
from distill.running.parsing import refuse_given
from distill.trainers.rollouts import HIGHEST_KL, Rollouts

_OWN = ("rollout_tokens", "rollout_temperature", "rollout_first", "highest_kl")


@dataclass
class RolloutArguments:
    """Whether the student learns from its own text (on-policy distillation)."""

    rollouts: str | None = field(
        default=None,
        metadata={
            "help": "Share of each step's rows that the student writes itself, to the prompts of the pairs: 0.5; or 0:1, a share that rises over the run."
        },
    )
    rollout_tokens: int = field(default=128, metadata={"help": "Longest rollout, in tokens."})
    rollout_temperature: float = field(
        default=1.0, metadata={"help": "Of the rollouts; 1 is the student's own distribution."}
    )
    rollout_first: float = field(
        default=1.0, metadata={"help": "Share of each rollout that carries loss, from its beginning on."}
    )
    highest_kl: float = field(
        default=HIGHEST_KL,
        metadata={"help": "Nats a token from the teacher above which a run on rollouts does not begin; inf: none."},
    )


def rollouts_of(args: RolloutArguments) -> Rollouts | None:
    """What the flags mean to a trainer; None: no row is the student's.

    Raises:
        ValueError: a share that is none, another value out of its range, or flags of rollouts without any.
    """
    if args.rollouts is None:
        refuse_given(
            args, _OWN, "this is of the student's own text; say of how many rows with --rollouts, or leave it out."
        )
        return None
    try:
        first, colon, last = str(args.rollouts).partition(":")
        share: float | Schedule = Schedule(float(first), float(last)) if colon else float(first)
    except (ValueError, TypeError):
        raise ValueError(
            f"--rollouts is {args.rollouts!r}; it is a share of the rows from 0 to 1, such as 0.5, or two of them, such as 0:1."
        ) from None
    return Rollouts(
        share=share, max_new_tokens=args.rollout_tokens, temperature=args.rollout_temperature, first=args.rollout_first, highest_kl=args.highest_kl
    )  # fmt: skip
