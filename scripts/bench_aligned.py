"""What another tokenizer costs: the aligned head beside the plain streamed one, and the alignment of ids, in one run on one thread.

    python scripts/bench_aligned.py [--rows 256] [--shared 46146]

Heads of SmolLM2's size (49,152 x 576) on both sides, float32; of the aligned one so many tokens are shared, in an order drawn by chance.
"""

import argparse
import time

import numpy as np
import torch

from distill.objectives import Comparison, divergences, next_token_divergence
from distill.objectives.aligned_next_token import Columns, aligned_next_token_divergence
from distill.signals import HeadTap, LogitTransform
from distill.text.alignment import SharedTokens, one_to_one

VOCABULARY, WIDTH = 49_152, 576


def main() -> None:
    """Print milliseconds a position and microseconds a token: the least of several runs, by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--shared", type=int, default=46_146)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    student, teacher = (_tap(given.rows, seed) for seed in (0, 1))
    draw = np.random.default_rng(0)
    left, right = np.sort(draw.permutation(VOCABULARY)[: given.shared]), draw.permutation(VOCABULARY)[: given.shared]
    columns = Columns.of(SharedTokens(left, right, (VOCABULARY,) * 2), VOCABULARY, VOCABULARY, torch.device("cpu"))
    comparison = Comparison(divergences.by_name("forward_kl"))
    ways = {
        "plain": lambda: next_token_divergence(student, teacher, comparison)[0],
        "aligned": lambda: aligned_next_token_divergence(student, teacher, comparison, columns)[0],
    }
    least = dict.fromkeys(ways, float("inf"))
    for _ in range(given.runs):
        for name, way in ways.items():
            begun = time.perf_counter()
            way().sum().backward()
            least[name] = min(least[name], time.perf_counter() - begun)
    for name, seconds in least.items():
        print(
            f"{name:8} {seconds / given.rows * 1e3:6.3f} ms a position, {seconds / least['plain']:.2f} x the plain head"
        )
    sizes = [draw.integers(1, 8, 2000) for _ in range(2)]
    begun = time.perf_counter()
    for _ in range(200):
        one_to_one(*sizes)
    print(f"alignment of ids {(time.perf_counter() - begun) / 200 / 2000 * 1e6:.3f} us a token")


def _tap(rows: int, seed: int) -> HeadTap:
    draw = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(n, WIDTH, generator=draw) for n in (rows, VOCABULARY))
    return HeadTap(hidden.requires_grad_(), weight.requires_grad_(), None, LogitTransform(), torch.float32)


if __name__ == "__main__":
    main()
