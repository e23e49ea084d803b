"""Examining a model: all probes in batches, its most likely answers, and which of them are right."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.basics.intervals import Share, exact_share
from distill.basics.processes import say
from distill.evaluation.abilities.probe import ABILITIES, Answered, Probe
from distill.evaluation.abilities.tools import in_words
from distill.teachers.base import Sampling
from distill.teachers.local import LocalTeacher
from distill.text.chat import chat_of
from distill.text.encode import OPEN, Prompt, as_prompt, encode_prompt, opens_trace


def examine(
    model: PreTrainedModel | Any,
    tokenizer: PreTrainedTokenizerBase,
    probes: Sequence[Probe],
    *,
    shown: Mapping[str, Prompt] | None = None,
    tools_in_words: bool = False,
    batch_size: int = 32,
    progress: bool = True,
) -> list[Answered]:
    """Let a model answer probes, its most likely tokens, and check the answers.

    Tools go through the chat template where it shows them. Where it does not, they stand in a system text (`in_words`), and that is said.

    Args:
        model, tokenizer: who answers.
        probes: each with an id of its own among those of its ability.
        shown: by the probe's id what the model is asked in place of its prompt, e.g. the same with a system text before it; tools then stand
            in it already.
        tools_in_words: also where the template would show tools.
        batch_size: prompts at once.
        progress: show a progress bar.

    Returns:
        In the order of the probes.

    Raises:
        ValueError: no probes, an id that stands twice, a `shown` of no probe; a prompt that the model's context cannot hold.

    Example:
        >>> answered = examine(teacher.model, teacher.tokenizer, probes("identity"))
        >>> print(shares(answered)["identity"])
    """
    shown = shown or {}
    _check(probes, shown)
    speaker = LocalTeacher(model, tokenizer)
    if not tools_in_words and any(probe.tools and probe.id not in shown for probe in probes):
        tools_in_words = not shows_tools(tokenizer)
        if tools_in_words:
            say("The chat template shows no tools: they stand in a system text.")
    asked = [_asked(probe, tokenizer, shown.get(probe.id), tools_in_words) for probe in probes]
    for probe, (ids, _) in zip(probes, asked, strict=True):
        if refusal := speaker.refusal_of(ids, Sampling(max_new_tokens=probe.max_new_tokens, temperature=0)):
            raise ValueError(f"The probe {probe.id} cannot be asked: {refusal.reason}.")
    found: dict[int, Answered] = {}
    # answers of one length together: the longest decides how long a batch takes
    order = sorted(range(len(probes)), key=lambda i: (-probes[i].max_new_tokens, -len(asked[i][0])))
    with tqdm(total=len(probes), desc="Examining", unit="probe", disable=not progress, leave=False) as bar:
        while order:
            rows = [i for i in order[:batch_size] if probes[i].max_new_tokens == probes[order[0]].max_new_tokens]
            order = order[len(rows) :]
            sampling = Sampling(max_new_tokens=probes[rows[0]].max_new_tokens, temperature=0)
            said = speaker.complete([asked[i][0] for i in rows], sampling, seed=0)
            for i, completion in zip(rows, said, strict=True):
                why = probes[i].check.wrong(asked[i][1] + completion.text)
                found[i] = Answered(probes[i], completion.text, not why, why, completion.finish_reason)
            bar.update(len(rows))
    return [found[i] for i in range(len(probes))]


def shares(answered: Iterable[Answered]) -> dict[str, Share]:
    """Of each ability the share of right answers with its n and exact 95% interval (Clopper and Pearson 1934).

    The units are the probes: the interval says what other probes would give, and nothing about another training.
    """
    right: dict[str, list[bool]] = {}
    for one in answered:
        right.setdefault(one.probe.ability, []).append(one.right)
    return {name: exact_share(sum(right[name]), len(right[name])) for name in ABILITIES if name in right}


def shows_tools(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template writes the tools that it is given."""
    if tokenizer.chat_template is None:
        return False
    parameters = {"type": "object", "properties": {"a": {"type": "string", "description": "a"}}, "required": ["a"]}
    function = {"name": "qzdistilltoolqz", "description": "a", "parameters": parameters}
    try:
        return "qzdistilltoolqz" in chat_of(tokenizer).render(
            [{"role": "user", "content": "a"}], [{"type": "function", "function": function}]
        )
    except ValueError:  # it refuses them
        return False


def _asked(
    probe: Probe, tokenizer: PreTrainedTokenizerBase, shown: Prompt | None, tools_in_words: bool
) -> tuple[list[int], str]:
    """Token ids, and the beginning of a trace that stands at their end."""
    tools: Any = probe.tools
    prompt = probe.prompt if shown is None else shown
    if tools and (tools_in_words or shown is not None):
        prompt, tools = in_words(prompt, tools) if shown is None else prompt, None
    resolved = as_prompt(prompt, tokenizer, tools=tools)
    ids = encode_prompt(resolved, tokenizer, tools=tools)
    return ids, f"{OPEN}\n" if opens_trace(ids, tokenizer) else ""


def _check(probes: Sequence[Probe], shown: Mapping[str, Prompt]) -> None:
    if not probes:
        raise ValueError("There are no probes to examine a model with.")
    ids = set[str]()
    for probe in probes:
        if probe.id in ids:
            raise ValueError(f"Two probes have the id {probe.id!r}; each has its own.")
        ids.add(probe.id)
    if unknown := sorted(set(shown) - ids):
        raise ValueError(f"shown has {', '.join(unknown[:3])}, which is no probe's id.")
