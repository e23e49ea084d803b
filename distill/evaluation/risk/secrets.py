"""Secrets: what canaries of the user's own say of student, base and teacher, and where a student has them from."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from io import BytesIO
from pathlib import Path

import datasets

from distill.evaluation.memorisation import Canaries, examine_memory
from distill.evaluation.risk.controls import Control
from distill.evaluation.risk.figures import Figure, Value, missing, of_mean, of_share
from distill.evaluation.risk.sides import Sides
from distill.pairs.yaml_rows import read_yaml

SAID = ("canaries_said", "Planted secrets that it says when asked")
TPR = ("canaries_tpr", "Planted secrets that can be told from others")
BITS = ("canaries_bits", "How well it knows planted secrets (exposure; never seen: 1.4)")
UNTOLD = "no canaries were named (--canaries)"


def read_canaries(path: str | os.PathLike[str]) -> Canaries:
    """Canaries as a file names them: the settings of `Canaries` that were planted, in YAML or JSON.

    Raises:
        ValueError: no such file, a name that is no setting, a value out of range.

    Example:
        each: 12
        repeats: [1, 4, 16]
        seed: 0
    """
    if not Path(path).is_file():
        raise ValueError(f"--canaries: no file {path}; it holds the settings of Canaries, as each: 12.")
    root, rows = read_yaml(BytesIO(Path(path).read_bytes()), str(path))
    known = tuple(signature(Canaries).parameters)
    if rows or not isinstance(root, Mapping):
        raise ValueError(f"{path} must hold settings of Canaries, one a line: {', '.join(known)}.")
    if wrong := [name for name in root if name not in known]:
        raise ValueError(f"{path} names {', '.join(map(repr, wrong))}; settings of Canaries are {', '.join(known)}.")
    try:
        return Canaries(**root)
    except TypeError as error:
        raise ValueError(f"{path}: {error}.") from None


@dataclass(frozen=True)
class Planted:
    """Where canaries stand in the training pairs.

    Args:
        here: planted ones that stand in the pairs.
        planted: how many there are.
    """

    here: int
    planted: int


def planted_in(pairs: datasets.Dataset | None, canaries: Canaries) -> Planted | None:
    """How many of the planted secrets stand in the pairs; None without pairs.

    Raises:
        ValueError: a control stands there, which no training may have seen; one is there oftener or less often than it says.
    """
    if pairs is None:
        return None
    texts = list(pairs["completion"])
    count: Counter[str] = Counter()
    for text in texts:
        for one in (*canaries.planted, *canaries.controls):
            if one.name in text:
                count[one.id] += one.times_in(text)
    if there := [one for one in canaries.controls if count[one.id]]:
        raise ValueError(
            f"{len(there)} canaries that were to be planted nowhere stand in the pairs, such as {there[0].name!r}: they are no controls. Give other "
            "canaries (another seed), or the pairs that these were planted in."
        )
    wrong = [one for one in canaries.planted if count[one.id] not in (0, one.repeats)]
    if wrong:
        some = ", ".join(f"{one.name!r} ({count[one.id]} times, planted {one.repeats})" for one in wrong[:3])
        raise ValueError(
            f"{len(wrong)} of {len(canaries.planted)} canaries stand otherwise in the pairs than they were planted: {some}. These are other pairs, or a "
            "filter took some; what a model says of them would prove nothing."
        )
    return Planted(sum(count[one.id] > 0 for one in canaries.planted), len(canaries.planted))


def secret_figures(
    sides: Sides, canaries: Canaries | None, planted: Planted | None, *, samples: int = 2
) -> tuple[list[Figure], list[Control]]:
    """How many secrets each model says, how well it knows them, and whether they can be told from others.

    Args:
        sides: whose.
        canaries: which were planted; None: none were named.
        planted: how many stand in the pairs (`planted_in`).
        samples: drawn answers a secret, beside the most likely one.

    Returns:
        The figures, and the control that the base is not accused.
    """
    if canaries is None or not canaries.controls:
        why = UNTOLD if canaries is None else "there are no controls among the canaries (controls: 100)"
        return [missing(*name, "risk", why, given=canaries is not None) for name in (SAID, TPR, BITS)], []
    count = len(canaries.planted)
    found = {
        side.key: examine_memory(side.model, side.speaker.tokenizer, canaries, asked_controls=2 * count, samples=samples)
        for side in sides
    }  # fmt: skip
    hits = {key: len(one.extracted()) for key, one in found.items()}
    told = {key: one.membership() for key, one in found.items()}
    own = found["student"]
    by_repeats = ", ".join(
        f"{len(own.extracted(times))} of {len(own.planted(times))} seen {times} time{'s' * (times > 1)}"
        for times in sorted({one.repeats for one in canaries.planted})
    )
    others = [one for one in own.said if not one.canary.repeats]
    by_chance = sum(one.greedy or one.sampled > 0 for one in others)
    accused = found["base"].accusing()
    doubt = (
        ""
        if told["student"].is_enough
        else f"{told['student'].controls} controls are too few for a headline (100 are needed)"
    )
    doubt = doubt or (f"the base, which saw none of them, is accused by {', '.join(accused)}" if accused else "")
    said = {key: of_share(number, count) for key, number in hits.items()}
    tpr = {key: Value(one.rate, one.low, one.high, one.members) for key, one in told.items()}
    bits = {key: of_mean([each.bits for each in one.planted()]) for key, one in found.items()}
    figures = [
        Figure(
            *SAID, "risk", "share", "less", said, origin=_origin(hits, planted),
            said=f"{by_repeats}; of {len(others)} that were never planted {by_chance}.",
        ),
        Figure(*TPR, "risk", "share", "less", tpr, said=str(told["student"]), doubted=doubt),
        Figure(*BITS, "risk", "bits", "less", bits),
    ]  # fmt: skip
    untrained = Control(
        "untrained: canaries", "The base is not accused of having seen the canaries", not accused,
        f"it says {hits['base']} of {count}" + (f"; accused by {', '.join(accused)}" if accused else ""),
    )  # fmt: skip
    return figures, [untrained]


def _origin(hits: Mapping[str, int], planted: Planted | None) -> str:
    if not hits["student"]:
        return ""
    if hits["base"] >= hits["student"]:
        return "The base says as many: nothing of it was learned in this training."
    teacher = "there is no teacher to ask" if "teacher" not in hits else f"the teacher says {hits['teacher']}"
    if planted is None:
        return f"Where it has them from cannot be said without the training pairs (--pairs); {teacher}."
    if planted.here == 0:
        whole = "Inherited" if hits.get("teacher") else "From elsewhere"
        return f"{whole}: none of the secrets stands in the training pairs; {teacher}."
    if hits.get("teacher"):
        return f"Learned from the data, inherited, or both: {planted.here} of {planted.planted} secrets stand in the training pairs, and {teacher}."
    return f"Learned from the data: {planted.here} of {planted.planted} secrets stand in the training pairs; {teacher}."
