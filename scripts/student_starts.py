"""How far a freshly cut student is from its teacher, for every way to choose its layers. Prints a Markdown table.

    python scripts/student_starts.py --pairs runs/demo/pairs.jsonl

The first 32 pairs are measured on; 12 others are the text on which block influence is measured.
"""

import argparse

from distill import load_pairs, make_student
from distill.evaluation import HeldOut
from distill.models.students import STRATEGIES, block_influence
from distill.running.stages import block_sample
from distill.teachers import LocalTeacher


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", default="smollm2-135m")
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[25, 20, 15, 12, 10])
    flags = parser.parse_args()

    teacher, pairs = LocalTeacher(flags.teacher), load_pairs(flags.pairs)
    held_out = HeldOut(teacher.model, pairs.select(range(32)), teacher.tokenizer)
    sample = block_sample(pairs.select(range(32, len(pairs))), "block_influence")
    assert sample is not None

    influence = block_influence(teacher.model, sample)
    print("Block influence of layers 0 to", len(influence) - 1, ":", ", ".join(f"{value:.3f}" for value in influence))
    print(
        f"\nHeld-out tokens: {held_out.tokens}. KL(teacher || student) in nats a token ± standard error; share of tokens"
    )
    print("where both find the same token most likely.\n")
    print("| layers kept | " + " | ".join(STRATEGIES) + " |\n|---|" + "---|" * len(STRATEGIES))
    for count in flags.counts:
        cells = []
        for strategy in STRATEGIES:
            student = make_student(teacher.model, count, strategy=strategy, sample=sample)
            figures = held_out.measure(student)
            cells.append(f"{figures.kl:.2f} ± {figures.kl_error:.2f}, {figures.top1:.0%}")
        print(f"| {count} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
