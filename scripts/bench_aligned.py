"""What another tokenizer costs: the aligned head beside the plain streamed one, and the alignment of ids, in one run on one thread.

    python scripts/bench_aligned.py [--rows 256] [--shared 46146]

Heads of SmolLM2's size (49,152 x 576) on both sides, float32; of the aligned one so many tokens are shared, in an order drawn by chance.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from measuring import machine, measure, table

from distill.objectives import Comparison, divergences, next_token_divergence
from distill.objectives.aligned_next_token import Columns, aligned_next_token_divergence
from distill.signals import HeadTap, LogitTransform
from distill.text.alignment import SharedTokens, one_to_one

VOCABULARY, WIDTH, TOKENS = 49_152, 576, 2000


def main() -> None:
    """Print both tables: of the processor's seconds, medians of runs by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--shared", type=int, default=46_146)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    student, teacher = (_tap(given.rows, seed) for seed in (0, 1))
    draw = np.random.default_rng(0)
    left, right = np.sort(draw.permutation(VOCABULARY)[: given.shared]), draw.permutation(VOCABULARY)[: given.shared]
    columns = Columns.of(SharedTokens(left, right, (VOCABULARY,) * 2), VOCABULARY, VOCABULARY, torch.device("cpu"))
    comparison = Comparison(divergences.by_name("forward_kl"))
    sizes = [draw.integers(1, 8, TOKENS) for _ in range(2)]
    ways: dict[str, Callable[[], object]] = {
        "plain head": lambda: next_token_divergence(student, teacher, comparison)[0].sum().backward(),
        "aligned head": lambda: (
            aligned_next_token_divergence(student, teacher, comparison, columns)[0].sum().backward()
        ),
    }
    found = measure(ways, given.rounds, clock=time.process_time)
    plain = found["plain head"].median
    lines = [
        [name, f"{way.median / given.rows * 1e3:.3f}", f"{way.median / plain:.2f}", way.spread, f"{way.mib:,.0f}"]
        for name, way in found.items()
    ]
    print(machine("cpu"), end="\n\n")
    print(table(["way", "ms a position", "over the plain head", "spread", "MiB more than before"], lines))
    ids = measure({"ids": lambda: [one_to_one(*sizes) for _ in range(200)]}, given.rounds, clock=time.process_time)[
        "ids"
    ]
    print(f"alignment of ids: {ids.median / 200 / TOKENS * 1e6:.3f} us a token")


def _tap(rows: int, seed: int) -> HeadTap:
    draw = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(n, WIDTH, generator=draw) for n in (rows, VOCABULARY))
    return HeadTap(hidden.requires_grad_(), weight.requires_grad_(), None, LogitTransform(), torch.float32)


if __name__ == "__main__":
    main()
