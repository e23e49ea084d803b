"""Keeping near the start while something new is learned: cross-entropy on the rows, and KL to the start on the same positions."""

from distill.objectives.logits import Logits


def kept_near(weight: float) -> Logits:
    """`cross-entropy + weight * KL(start || student)`, for a white box whose teacher is the start itself.

    The second source that fine-tuning near its start needs is the start, and a black box has no other teacher that could be asked: so this *is* SFT plus
    the KL, said as a white box. At the start the KL's gradient is 0: then it is SFT alone. Both terms are of the same positions, so this is cross-entropy
    to labels that are softened by the start: `(label + weight * p_start) / (1 + weight)`, times `1 + weight`.

    Args:
        weight: of the KL, above 0; 0.1 is mild.

    Raises:
        ValueError: a weight of 0 or less, which is a plain black box.

    Source: Li and Hoiem 2016 (Learning without Forgetting): the old model's distributions on the new rows.

    Example:
        >>> WhiteBoxTrainer(model=student, teacher=start, objectives=[kept_near(0.1)], ...)
    """
    if not weight > 0:
        raise ValueError(f"keep_kl is {weight}; it is a weight above 0. Without it, train with BlackBoxTrainer.")
    return Logits("forward_kl", weight=weight, cross_entropy=1 / weight, name="keep")
