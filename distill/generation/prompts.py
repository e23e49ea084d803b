"""Prompts that the teacher writes itself."""

import json
import os
from pathlib import Path

from tqdm.auto import tqdm

from distill.basics.curation_step import Step
from distill.basics.fingerprint import fingerprint
from distill.basics.jsonl import read_jsonl
from distill.teachers.base import Sampling
from distill.teachers.local import LocalTeacher
from distill.text.dates import day_settings, on_day
from distill.text.encode import Prompt, user_header_ids
from distill.text.near_duplicates import distinct_prompts


def write_prompts(
    teacher: LocalTeacher,
    count: int,
    *,
    max_new_tokens: int = 96,
    temperature: float = 1.0,
    top_p: float = 0.95,
    seed: int = 0,
    batch_size: int = 64,
    output: str | os.PathLike[str] | None = None,
    progress: bool = True,
    near: bool = True,
    steps: list[Step] | None = None,
) -> list[Prompt]:
    """Let the teacher write the users' turns itself, given only its template's user header (Magpie, Xu et al. 2024).

    Kept are turns that ended by themselves, are neither tiny nor cut, and do not repeat an earlier one.

    Args:
        teacher: a local teacher with a chat template.
        count: how many prompts to return.
        max_new_tokens: longest user turn, in tokens.
        temperature, top_p, seed, batch_size: of the drawing.
        output: JSONL file with a line a batch; what is in it is not drawn again, so more prompts can be asked for later.
        progress: show a progress bar.
        near: leave out near duplicates, too (see `distill.text.near_duplicates`); more are drawn in their place.
        steps: the record of what was left out is appended to it.

    Raises:
        ValueError: no chat template; an `output` of other settings; the teacher writes too few distinct turns.
    """
    sampling = Sampling(max_new_tokens, temperature, top_p, 0, seed)
    identity = {name: value for name, value in teacher.identity().items() if name != "template_day"}
    attempts = _Attempts(output, fingerprint(identity, sampling.as_dict(), batch_size))
    with on_day(attempts.beside.get("template_day")):
        header, attempts.beside = user_header_ids(teacher.tokenizer), day_settings(teacher.tokenizer)
    kept: list[Prompt] = []
    with tqdm(total=count, desc="writing prompts", unit="prompt", disable=not progress) as bar:
        for attempt in range(4 + 4 * -(-count // batch_size)):
            if attempt == len(attempts.texts):
                batch_seed = int(fingerprint(seed, attempt)[:12], 16)
                drawn = teacher.complete([header] * batch_size, sampling, seed=batch_seed)
                texts = (c.text.strip() for c in drawn if c.finish_reason == "stop")
                attempts.add([text for text in texts if _reads_like_a_prompt(text)])
            kept = distinct_prompts([*kept, *attempts.texts[attempt]], near=near)[0][:count]
            bar.n = len(kept)
            bar.refresh()
            if len(kept) == count:
                if steps is not None:
                    steps.append(_record(attempts.texts[: attempt + 1], kept, near))
                return kept
    raise ValueError(
        f"The teacher wrote only {len(kept)} distinct prompts of the {count} asked for; ask for fewer, raise the "
        "temperature, or give a prompt file."
    )


class _Attempts:
    """What was drawn so far, one line a batch, on disk as soon as it is drawn; a rerun goes on from there."""

    def __init__(self, path: str | os.PathLike[str] | None, key: str) -> None:
        self.path, self.key = (Path(path) if path is not None else None), key
        self.texts: list[list[str]] = []
        self.beside: dict[str, str] = {}  # the day that the template wrote
        if self.path is not None and self.path.exists():
            data = self.path.read_bytes()
            if data and not data.endswith(b"\n"):  # only then: several processes may read a whole file at once
                self.path.write_bytes(data[: data.rfind(b"\n") + 1])  # a torn last line never counted
            for where, row in read_jsonl(self.path):
                if row.get("settings") != key:
                    raise ValueError(
                        f"{where}: prompts of another run (other teacher or settings); give another folder."
                    )
                self.texts.append(row["prompts"])
                self.beside = {name: row[name] for name in ("template_day",) if name in row}

    def add(self, texts: list[str]) -> None:
        self.texts.append(texts)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(
                    json.dumps({"prompts": texts, "settings": self.key, **self.beside}, ensure_ascii=False) + "\n"
                )


def _record(drawn: list[list[str]], kept: list[Prompt], near: bool) -> Step:
    """What became of the turns that were drawn; those that are only more than were asked for count as left out, too."""
    nearly = " exactly or nearly" if near else ""
    effect = f"The prompts are the teacher's own, and none repeats another{nearly}; others were drawn in their place."
    return Step("prompts written by the teacher", sum(map(len, drawn)), len(kept), effect, {"near": near})


def _reads_like_a_prompt(text: str) -> bool:
    return len(text) >= 12 and len(text.split()) >= 3 and "\ufffd" not in text
