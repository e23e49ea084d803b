"""Tokenising a data set of text: what trainers do with it, beside the library's own batched map. CPU seconds, one thread.

    python scripts/bench_tokenising.py --rows 20000 --kind pairs|messages|tools

The library alone: `apply_chat_template` to text for each row, the tokenizer for the batch, once for prompts and once for completions.
"""

import argparse
import json
import os
import random
import resource
import tempfile
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import datasets

from distill.models.load import load_tokenizer
from distill.pairs.tokenising import tokenised

TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}},
}


def rows_of(count: int, kind: str) -> list[dict[str, Any]]:
    """Rows of about 150 tokens of words, the same on every run."""
    draw = random.Random(0)
    words = [
        "the",
        "of",
        "and",
        "water",
        "light",
        "river",
        "stone",
        "small",
        "quick",
        "under",
        "number",
        "seven",
        "question",
        "tell",
        "why",
    ]

    def text(size: int) -> str:
        return " ".join(draw.choice(words) for _ in range(size)).capitalize() + "."

    rows: list[dict[str, Any]] = []
    for _ in range(count):
        prompt, completion = text(40), text(90)
        if kind == "pairs":
            rows.append({"prompt": prompt, "completion": completion})
            continue
        talk: list[dict[str, Any]] = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        if kind == "tools":
            call = {"type": "function", "function": {"name": "look", "arguments": json.dumps({"at": text(3)})}}
            talk[1:1] = [
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": text(10)},
            ]
        rows.append({"messages": talk, **({"tools": [TOOL]} if kind == "tools" else {})})
    return rows


def library_alone(rows: datasets.Dataset, tokenizer: Any) -> datasets.Dataset:
    """The least that gives prompt ids and completion ids, with the library's own means."""

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        render, prompts, completions = tokenizer.apply_chat_template, [], []
        for text, said in zip(batch.get("prompt", ()), batch.get("completion", ()), strict=True):
            talk = [{"role": "user", "content": text}]
            prompts.append(render(talk, tokenize=False, add_generation_prompt=True))
            completions.append(said + tokenizer.eos_token)
        talks = batch.get("messages", ())
        for talk, tool in zip(talks, batch.get("tools") or [None] * len(talks), strict=True):
            prompt = render(talk[:-1], tools=tool, tokenize=False, add_generation_prompt=True)
            prompts.append(prompt)
            completions.append(render(talk, tools=tool, tokenize=False)[len(prompt) :])
        return {
            "prompt_ids": tokenizer(prompts, add_special_tokens=False)["input_ids"],
            "completion_ids": tokenizer(completions, add_special_tokens=False)["input_ids"],
        }

    return rows.map(encode, batched=True, remove_columns=rows.column_names)


def main() -> None:
    """Both, each `--repeat` times in turn; the least of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--kind", choices=("pairs", "messages", "tools"), default="pairs")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--template", help="file of a chat template; without it that of the tokenizer")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    tokenizer = load_tokenizer("smollm2-135m")
    if args.template:
        with open(args.template, encoding="utf-8") as file:
            tokenizer.chat_template = file.read()
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        given = datasets.Dataset.from_list(rows_of(args.rows, args.kind), on_mixed_types="use_json")
        given.save_to_disk(folder)
        for turn in range(args.repeat):
            for name, function in (("library alone", library_alone), ("distill", tokenised)):
                rows = datasets.load_from_disk(folder)
                rows._fingerprint = f"{rows._fingerprint}{turn}{name}"  # so that nothing is found in the cache
                start = time.process_time()
                made = function(rows, tokenizer)
                times.setdefault(name, []).append(time.process_time() - start)
                tokens = (
                    sum(len(ids) for column in ("prompt_ids", "completion_ids") for ids in made[:100][column]) / 100
                )
    for name, found in times.items():
        print(f"{name:14} {min(found):7.2f} s, {tokens:.0f} tokens a row, {args.rows} rows of {args.kind}")
    least = {name: min(found) for name, found in times.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"ratio {least['distill'] / least['library alone']:.2f}; peak {peak:.2f} GiB of the process with all of both")


if __name__ == "__main__":
    main()
