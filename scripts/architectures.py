"""What can be tapped in which architecture: tiny random models of every family against naive references.

    python scripts/architectures.py           # writes docs/reference/architectures.md
    python scripts/architectures.py --check   # exits with 1 if that file would change

A signal that does not equal its reference raises AssertionError, and nothing is written. `tests/objectives/test_architectures.py` holds
every row of the page against the library.
"""

import argparse
import copy
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from families import FAMILIES, SIZES
from plain_kernels import plain_flash, plain_flex
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

import distill
from distill import AttentionMaps, HiddenStates, Logits
from distill.models.students import find_layers
from distill.objectives import Objective, Term
from distill.objectives.attention_layers import Window, window_of
from distill.objectives.divergences import forward_kl
from distill.objectives.logits import LogitsTerm
from distill.pairs.collate import PairCollator, supervised_rows
from distill.signals import Signals, layers_with_attention, record_attention, run_with_taps
from distill.signals.hidden import place_of
from distill.trainers.causality import check_causal

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "architectures.md"
SIDES = ("right", "left")
PAD_RIGHT = "; pad right"
INTRODUCTION = """# Architectures

What the white box can see in which family of models, found out with tiny random models of transformers {version}: student and
teacher of one family, two rows of unequal length, padded on the right and on the left, with windows, softcaps, scales and
biases that matter. Written by `python scripts/architectures.py`; a test holds every row against the library.

- **logits**: `streams`: the divergence is computed from what the head is given and its weights, and logits are never made;
  `whole`: the head or what follows it is not understood, so the model's own logits of the supervised rows are used. Either
  equals the divergence of the model's full logits in value and in the gradient of every parameter. A family without a row here
  comes to `whole` at worst. `pad right`: padding on the left changes what the model itself says, because its state takes the
  padding in; both trainers pad on the right.
- **hidden**: what is compared is what the layer's module returned (the last layer's after the final norm).
- **attention**: the divergence equals that of the model's own eager maps (`output_attentions=True`), in value and in the
  gradient of every parameter. `layers 1, 3 of 4`: these layers of the tiny model have maps and the others, of another kind
  (Mamba, convolution, linear attention), are refused.
- **windows**: what the layers with maps see, as the config says and as the masks that they are given show, which is checked: all
  (`full`), the last few tokens (`sliding`), those of their own chunk (`chunked`). `"auto"` pairs layers of one kind; where one
  side sees what the other cannot, the windows are refused unless the rows are as short as them.
- **sinks**: whether a column of attention's softmax belongs to no token. On both sides it is part of the map; if one side has
  it, the maps are compared over the tokens alone.
- **flash**, **flex**: a student loaded with `flash_attention_2` or `flex_attention`, where transformers offers them for the family: the divergence
  equals that of the same student without, in value and in the gradient of every parameter. No such kernel runs on a CPU (flex not backwards):
  transformers' own code around them ran, with plain attention in the kernel's place (`scripts/plain_kernels.py`). A kernel may have less than this
  stand-in: sinks or softcaps, say. `GPU only`: transformers refuses it on a CPU.
  `another model`: with this kernel transformers computes something else than without (no window, say); the maps are those of what it computes. (Next-token distributions and hidden states do not ask how attention is computed.)
- A number is that of the sentence below with which the objective refuses when the trainer is constructed.

| family | model class | logits | hidden | attention | windows | sinks | flash | flex |
|---|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Outcome:
    """A row of the table; a sentence stands where the library refuses."""

    family: str
    model: str
    logits: str
    hidden: str
    attention: str
    windows: str
    sinks: str
    flash: str
    flex: str


def exists(family: str) -> bool:
    """Whether the installed transformers has it."""
    name = _model_type(family)
    return name in CONFIG_MAPPING and CONFIG_MAPPING[name] in MODEL_FOR_CAUSAL_LM_MAPPING


def outcome(family: str) -> Outcome:
    """Check all signals of a family.

    Raises:
        AssertionError: a signal is not what it should be.
        ValueError: the family cannot be a student at all.
    """
    first = pair(family)
    check_causal(first[0])
    name, logits = type(first[0]).__name__, check_logits(*first)
    hidden, attention = (check(*pair(family)) for check in (check_hidden, check_attention))
    windows, sinks, kernels = "", "", ("", "")
    if not attention.endswith("."):
        windows, sinks = check_windows(pair(family)[0])
        kernels = check_kernels(family)
    return Outcome(family, name, logits, hidden, attention, windows, sinks, *kernels)


def pair(family: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A student near its teacher; every parameter is random, biases and norms too."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(_model_type(family), **{**SIZES, **FAMILIES[family]})
    teacher = _add_noise(AutoModelForCausalLM.from_config(config).eval())
    return _add_noise(copy.deepcopy(teacher)), teacher


def _model_type(family: str) -> str:
    """The name transformers has for it; what follows in brackets tells variants apart."""
    return family.partition(" ")[0]


def _add_noise(model: Any) -> PreTrainedModel:
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def batch(side: str) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs and supervised rows of two pairs of unequal length; there are unsupervised positions before and behind."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"<pad>": 0})), pad_token="<pad>")
    ids = torch.randint(3, 320, (21,), generator=torch.Generator().manual_seed(0)).tolist()
    pairs = [
        {"prompt_ids": ids[:3], "completion_ids": ids[3:12]},
        {"prompt_ids": ids[12:15], "completion_ids": ids[15:21]},
    ]
    inputs = PairCollator(tokenizer, padding_side=side)(pairs)
    rows = supervised_rows(inputs.pop("labels"))
    for row in rows:
        row[row.nonzero()[-2:]] = False
    return inputs, rows


def check_logits(student: PreTrainedModel, teacher: PreTrainedModel) -> str:
    """Divergence and gradient against the models' full logits; temperature 2 shows whether a softcap comes before it."""
    objective, twin = Logits("forward_kl", temperature=2.0), copy.deepcopy(student)
    term = objective.bind(student, teacher)
    found, own = "whole" if term.transforms is None else "streams", []
    for side in SIDES:
        inputs, rows = batch(side)
        value = term(*signals(term, student, teacher, inputs, rows))
        ours, theirs = (model(**inputs, use_cache=False).logits[rows] for model in (twin, teacher))
        expected = 4 * forward_kl(ours, theirs.detach(), temperature=2.0)
        compare("logits", value, expected)
        compare_gradients("logits", value, student, expected, twin)
        own.append(theirs.detach())
    # what is done if a head is no plain matrix product, e.g. has an adapter: any model may come to that
    whole = LogitsTerm(objective)
    with torch.no_grad():
        compare("whole logits", whole(*signals(whole, student, teacher, inputs, rows)), expected)
    return found if torch.allclose(own[0], own[1], atol=1e-4) else found + PAD_RIGHT


def check_hidden(student: PreTrainedModel, teacher: PreTrainedModel) -> str:
    """Every layer against what its module returned, and against the model's own hidden states, bit for bit."""
    layers, count, sentence = bound(HiddenStates, student, teacher)
    if not layers:
        return sentence
    term = HiddenStates([(layer, layer) for layer in layers]).bind(student, teacher)
    for side in SIDES:
        inputs, rows = batch(side)
        with layer_outputs(student) as outputs:
            states = student(**inputs, use_cache=False, output_hidden_states=True).hidden_states
        ours, theirs = signals(term, student, teacher, inputs, rows)
        for layer in layers:
            expected = states[-1] if layer == count - 1 else outputs[layer]
            compare(f"hidden state {layer}", ours.hidden[layer], expected[rows])
            for taken, model in ((ours, student), (theirs, teacher)):  # with gradients and without
                with torch.set_grad_enabled(model is student):
                    whole = model(**inputs, use_cache=False, output_hidden_states=True).hidden_states
                assert torch.equal(taken.hidden[layer], whole[place_of(model, layer)][rows]), f"hidden state {layer}"
        term(ours, theirs).sum().backward()
    return _listed(layers, count)


def check_attention(student: PreTrainedModel, teacher: PreTrainedModel) -> str:
    """Divergence and gradient against eager maps."""
    layers, count, sentence = bound(AttentionMaps, student, teacher)
    if not layers:
        return sentence
    twins = copy.deepcopy(student), copy.deepcopy(teacher)
    term = AttentionMaps([(layer, layer) for layer in layers]).bind(student, teacher)
    for model in twins:
        model.set_attn_implementation("eager")
    for side in SIDES:
        inputs, rows = batch(side)
        ours, theirs = signals(term, student, teacher, inputs, rows)
        value = term(ours, theirs)
        has_sinks = [ours.attention[layer].sinks is not None for layer in layers]
        maps = [eager_maps(model, inputs, rows, layers, has_sinks) for model in twins]
        expected = torch.stack([kl(q, p.detach()) for q, p in zip(*maps, strict=True)]).mean(0)
        compare("attention", value, expected)
        compare_gradients("attention", value, student, expected, twins[0])
    return _listed(layers, count)


def check_windows(model: PreTrainedModel) -> tuple[str, str]:
    """What the layers with maps see, held against the masks they are given; and whether they have sinks."""
    layers, inputs = layers_with_attention(model), {"input_ids": torch.arange(5, 29)[None]}
    with torch.no_grad(), record_attention(model, set(layers)) as taps:
        model(**inputs, use_cache=False)
    windows = [window_of(model.config, layer) for layer in layers]
    for layer, window in zip(layers, windows, strict=True):
        mask = taps[layer].mask
        assert mask is None or isinstance(mask, Tensor)
        found = mask_of(Window(), 24) if mask is None else mask[0, 0]
        found = found if found.dtype == torch.bool else found > torch.finfo(found.dtype).min / 2
        assert torch.equal(found, mask_of(window, 24)), f"layer {layer} {window}, and its mask is another"
    kinds = [window.kind for window in windows]
    sinks = [layer for layer in layers if taps[layer].sinks is not None]
    has = "" if not sinks else "yes" if sinks == layers else f"layers {', '.join(map(str, sinks))}"
    return kinds[0] if len(set(kinds)) == 1 else ", ".join(kinds), has


def mask_of(window: Window, length: int) -> Tensor:
    """`[T, T]`: what each position sees, by definition."""
    t, s = torch.arange(length)[:, None], torch.arange(length)[None]
    near = t // window.size == s // window.size if window.chunked else t - s < window.size
    return (s <= t) & near


def check_kernels(family: str) -> tuple[str, str]:
    """Flash and flex attention where the class offers them: value and gradient against the kernel that the model has by itself."""
    student, _ = pair(family)
    offered, found = (student._supports_flash_attn, student._supports_flex_attn), []
    for kernels, is_offered in zip((plain_flash, plain_flex), offered, strict=True):
        with kernels() as name:
            try:
                found.append(check_kernel(name, *pair(family)) if is_offered else "")
            except ValueError as error:  # transformers' own: flex attention with sinks
                if "cannot be run on CPU" not in str(error):
                    raise
                found.append("GPU only")
    return found[0], found[1]


def check_kernel(name: str, student: PreTrainedModel, teacher: PreTrainedModel) -> str:
    """A student with this kernel beside a twin without it."""
    twin = copy.deepcopy(student)
    student.config.get_text_config(decoder=True)._attn_implementation = name
    if sentence := refusal(AttentionMaps(), student, teacher).replace(name, "..."):
        return sentence
    term = AttentionMaps().bind(student, teacher)
    for side in SIDES:
        inputs, rows = batch(side)
        with torch.no_grad():
            own = [model(**inputs, use_cache=False).logits[rows] for model in (student, twin)]
        if not torch.allclose(own[0], own[1], atol=1e-3):
            return "another model"
        value, expected = (term(*signals(term, model, teacher, inputs, rows)) for model in (student, twin))
        compare(name, value, expected)
        compare_gradients(name, value, student, expected, twin)
    return "yes"


def bound(kind: Any, student: PreTrainedModel, teacher: PreTrainedModel) -> tuple[list[int], int, str]:
    """Layers that the objective takes, of how many, and what it says if it takes none."""
    count = student.config.get_text_config(decoder=True).num_hidden_layers
    layers = [layer for layer in range(count) if not refusal(kind({layer: layer}), student, teacher)]
    return layers, count, "" if layers else refusal(kind(), student, teacher)


def refusal(objective: Objective, student: PreTrainedModel, teacher: PreTrainedModel) -> str:
    """The library's own sentence, without the names of one family; "" if it takes the models."""
    try:
        objective.bind(student, teacher)
    except ValueError as error:
        origin = traceback.extract_tb(error.__traceback__)[-1].filename
        if not Path(origin).is_relative_to(Path(distill.__file__).parent):
            raise
        sentence = re.sub(rf"^{type(student).__name__}", "The model", str(error)).replace(
            type(student).__name__, "the model"
        )
        sentence = re.sub(r"\[\d+(, \d+)*\]", "[...]", sentence)
        return re.sub(r"(layer |=)\d+", r"\1...", sentence)
    return ""


def _listed(layers: list[int], count: int) -> str:
    return "yes" if len(layers) == count else f"layers {', '.join(map(str, layers))} of {count}"


def signals(
    term: Term, student: PreTrainedModel, teacher: PreTrainedModel, inputs: dict[str, Tensor], rows: Tensor
) -> tuple[Signals, Signals]:
    """As the trainer gets them."""
    ours = run_with_taps(student, student, inputs, rows, term.student_request)
    with torch.no_grad():
        return ours, run_with_taps(teacher, teacher, inputs, rows, term.teacher_request)


@contextmanager
def layer_outputs(model: PreTrainedModel) -> Iterator[dict[int, Tensor]]:
    """What the decoder layers return in a forward pass."""
    outputs: dict[int, Tensor] = {}

    def keep(layer: int, module: Any, args: Any, output: Any) -> None:
        outputs[layer] = output[0] if isinstance(output, tuple | list) else output

    handles = [m.register_forward_hook(partial(keep, i)) for i, m in enumerate(find_layers(model)[1])]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def eager_maps(
    model: PreTrainedModel, inputs: dict[str, Tensor], rows: Tensor, layers: list[int], has_sinks: list[bool]
) -> list[Tensor]:
    """`[N, H, T]` of each layer; with a sink (gpt-oss) one more column, which transformers drops: what is missing to 1."""
    maps = [m for m in model(**inputs, use_cache=False, output_attentions=True).attentions if m is not None]
    # hybrids give the maps of their attention layers only
    chosen = maps if len(maps) == len(layers) else [maps[layer] for layer in layers]
    picked = [m.transpose(1, 2)[rows] for m in chosen]
    sinks = [1 - m.sum(-1, keepdim=True) for m in picked]
    assert [bool(s.max() > 1e-4) for s in sinks] == has_sinks
    return [torch.cat([m, s], -1) if has else m for m, s, has in zip(picked, sinks, has_sinks, strict=True)]


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over heads of KL(teacher || student) between maps, by definition."""
    terms = teacher * (teacher.clamp(min=1e-38).log() - student.clamp(min=1e-38).log())
    return torch.where(teacher > 0, terms, 0.0).sum(-1).mean(1)


def compare(what: str, got: Tensor, expected: Tensor) -> None:
    """Equal up to rounding, and not trivially."""
    assert expected.abs().max() > 1e-6, f"{what}: the reference is zero, which shows nothing"
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5, msg=lambda words: f"{what}: {words}")


def compare_gradients(
    what: str, value: Tensor, model: PreTrainedModel, expected: Tensor, twin: PreTrainedModel
) -> None:
    """Of the sums, in every parameter of a model and its copy."""
    for total, owner in ((value, model), (expected, twin)):
        owner.zero_grad()
        total.sum().backward()
    scale = max(float(p.grad.abs().max()) for p in twin.parameters() if p.grad is not None)
    assert scale > 1e-6, f"{what}: no gradient, which shows nothing"
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        got, want = (torch.zeros_like(p) if p.grad is None else p.grad for p in (ours, theirs))
        worst = float((got - want).abs().max())
        assert torch.allclose(got, want, rtol=1e-3, atol=3e-5 * scale), (
            f"gradient of {what} in {name}: {worst} of {scale}"
        )


def write_page(outcomes: list[Outcome], version: str) -> str:
    """The page as Markdown."""
    notes: list[str] = []
    lines = []
    for row in outcomes:
        cells = [f"`{row.family}`", row.model, row.logits]
        for cell in (row.hidden, row.attention, row.windows, row.sinks, row.flash, row.flex):
            if cell.endswith("."):
                notes += [cell] if cell not in notes else []
                cell = f"refused ({notes.index(cell) + 1})"
            cells.append(cell or "-")
        lines.append(f"| {' | '.join(cells)} |\n")
    sentences = [f"{i}. {note}\n" for i, note in enumerate(notes, 1)]
    return INTRODUCTION.format(version=version) + "".join(lines) + "\n" + "".join(sentences)


def read_page(text: str) -> tuple[list[Outcome], str]:
    """The opposite: outcomes and the version of transformers they are of."""
    notes = dict(re.findall(r"^(\d+)\. (.+)$", text, re.MULTILINE))
    rows = re.findall(r"^\| `(.+)`" + 8 * r" \| (.+)" + r" \|$", text, re.MULTILINE)
    outcomes = [
        Outcome(
            *("" if cell == "-" else re.sub(r"refused \((\d+)\)$", lambda found: notes[found[1]], cell) for cell in row)
        )
        for row in rows
    ]
    version = re.search(r"transformers (\d[\w.]*):", text)
    assert version is not None
    return outcomes, version[1]


def main() -> None:
    """Check every family and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page would change")
    flags = parser.parse_args()
    torch.set_num_threads(1)  # faster for such small models
    transformers.logging.set_verbosity_error()
    outcomes = []
    for family in FAMILIES:
        outcomes.append(outcome(family))
        print(outcomes[-1], flush=True)
    text = write_page(outcomes, transformers.__version__)
    if not flags.check:
        PAGE.write_text(text)
    elif text != PAGE.read_text():
        sys.exit(f"{PAGE} is not what would be written now; run python scripts/architectures.py.")


if __name__ == "__main__":
    main()
