"""Make a student from a teacher: keep some of its layers, copy everything else."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from distill.models.evaluating import evaluating
from distill.models.quantising import is_dispatched, is_quantised

KEPT_LAYERS = "distill_kept_layers"  # in the student's config: which teacher layers its layers are
TEACHER_DEPTH = "distill_teacher_layers"  # and of how many
STRATEGIES = ("even", "first_last", "block_influence")


def make_student(
    teacher: PreTrainedModel,
    layers: int | Sequence[int],
    *,
    strategy: str = "even",
    sample: Sequence[Sequence[int]] | None = None,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """A smaller model of the teacher's family: some of its layers, with copies of all remaining weights.

    Args:
        teacher: a decoder-only model; it is not changed.
        layers: how many layers to keep, or exactly which (0-based).
        strategy: which, when `layers` is a number. `"even"` spaces them evenly, with the first and the last;
            `"first_last"` keeps the two ends and drops the middle; `"block_influence"` drops those that change their
            input least on `sample` (Men et al. 2024), as `block_influence` measures it.
        sample: token ids of some texts, for `"block_influence"`; a dozen rows of the kind the student is meant for do.
        dtype: of the student's weights. float32 by default, because updates of a usual learning rate are lost in
            bfloat16 weights; train in `TrainingArguments(bf16=True)` for speed.

    Returns:
        The student. `student.config.distill_kept_layers` lists the teacher's layers it was made of.

    Raises:
        ValueError: no such layers; an unknown strategy; a model that is not a stack of like layers that can be cut.

    Example:
        >>> student = make_student(teacher.model, 15)
    """
    config = _text_config(teacher)
    total = config.num_hidden_layers
    if is_quantised(teacher) or is_dispatched(teacher):
        raise ValueError(
            "A student is a copy of some of the teacher's weights, and these are quantised or spread over devices; cut it from "
            "the teacher loaded whole, or name a model to train (--student)."
        )
    if isinstance(layers, int):
        kept = choose_layers(teacher, layers, strategy, sample)
    else:
        kept = list(layers)
        if not kept or any(b <= a for a, b in pairwise(kept)) or min(kept) < 0 or max(kept) >= total:
            raise ValueError(f"layers is {kept}; it must name layers between 0 and {total - 1}, each once, in order.")
    prefix, _ = find_layers(teacher)
    student_config = _cut_config(teacher.config, kept, total)
    try:
        # _from_config and not .to(dtype): the latter would also round the rotary frequencies, which stay float32
        with (
            no_init_weights()
        ):  # a random start is nine tenths of the time, and every one of its weights is written over
            student: PreTrainedModel = type(teacher)._from_config(student_config, dtype=dtype)
        student.tie_weights()
        student.load_state_dict(_cut_weights(teacher.state_dict(), prefix, kept))
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"{type(teacher).__name__} cannot be cut to layers {kept}: its layers are not alike ({str(error)[:200]}). "
            "Keep layers of one kind, or start from another student of the same tokenizer."
        ) from error
    student.to(teacher.device)  # type: ignore[arg-type]
    student.generation_config = copy.deepcopy(teacher.generation_config)
    return student.eval()


def choose_layers(
    teacher: PreTrainedModel, count: int, strategy: str, sample: Sequence[Sequence[int]] | None = None
) -> list[int]:
    """The teacher's layers to keep, in order; arguments and errors as in `make_student`."""
    total = _text_config(teacher).num_hidden_layers
    if not 1 <= count <= total:
        raise ValueError(f"layers is {count}, but the teacher has {total}; keep between 1 and {total}.")
    if strategy == "even":
        return [round(i * (total - 1) / max(count - 1, 1)) for i in range(count)]
    if strategy == "first_last":
        first = (count + 1) // 2
        return [*range(first), *range(total - (count - first), total)]
    if strategy == "block_influence":
        if not sample:
            raise ValueError("strategy='block_influence' measures the layers on text; give sample=[token ids, ...].")
        influence = block_influence(teacher, sample)
        return sorted(sorted(range(total), key=lambda layer: -influence[layer])[:count])
    raise ValueError(f"strategy is {strategy!r}; it must be one of {STRATEGIES}.")


@torch.no_grad()
def block_influence(model: PreTrainedModel, sample: Sequence[Sequence[int]]) -> list[float]:
    """How much each layer changes its input: 1 - mean cosine of input and output over all tokens of `sample`.

    Source: ShortGPT (Men et al. 2024). 0 means the layer does nothing to the direction of the hidden states.

    Args:
        model: a decoder-only model.
        sample: token ids of some texts.

    Returns:
        One number a layer, in layer order.
    """
    _, layers = find_layers(model)
    total, tokens = torch.zeros(len(layers)), 0
    with evaluating(model), _layer_io(layers) as io:
        for ids in sample:
            io.clear()
            model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False)
            cosines = [nn.functional.cosine_similarity(x.float(), y.float(), dim=-1).sum() for x, y in io]
            total += torch.stack(cosines).cpu()
            tokens += len(ids)
    return (1 - total / tokens).tolist()


def find_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Name and module list of the decoder layers.

    Raises:
        ValueError: the model is an encoder-decoder, or has no single list of `num_hidden_layers` layers.
    """
    config = _text_config(model)
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{type(model).__name__} is an encoder-decoder; only decoder-only models can be cut.")
    total = config.num_hidden_layers
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == total]
    outermost = [(name, m) for name, m in found if not any(name.startswith(other + ".") for other, _ in found)]
    if len(outermost) > 1 and (decoder := model.get_decoder()) not in (None, model):
        inside = {id(module) for module in decoder.modules()}  # and not a vision tower of the same depth
        outermost = [(name, m) for name, m in outermost if id(m) in inside]
    if len(outermost) != 1:
        raise ValueError(
            f"{type(model).__name__} has {len(outermost)} lists of {total} modules, expected one list of decoder layers; "
            "it cannot be cut."
        )
    return outermost[0]


def _cut_config(config: PreTrainedConfig, kept: list[int], total: int) -> PreTrainedConfig:
    """The config of the student: fewer layers, and every per-layer list shortened alike."""
    cut = copy.deepcopy(config)
    text = cut.get_text_config(decoder=True)
    for name, value in list(vars(text).items()):
        if isinstance(value, list | tuple) and len(value) == total:
            setattr(text, name, [value[layer] for layer in kept])
    text.num_hidden_layers = len(kept)
    setattr(cut, KEPT_LAYERS, list(kept))
    setattr(cut, TEACHER_DEPTH, total)
    return cut


def _cut_weights(weights: dict[str, torch.Tensor], prefix: str, kept: list[int]) -> dict[str, torch.Tensor]:
    new_index = {str(layer): str(i) for i, layer in enumerate(kept)}
    cut = {}
    for name, tensor in weights.items():
        if name.startswith(f"{prefix}."):
            layer, _, rest = name.removeprefix(f"{prefix}.").partition(".")
            if layer in new_index:
                cut[f"{prefix}.{new_index[layer]}.{rest}"] = tensor
        else:
            cut[name] = tensor
    return cut


def _text_config(model: PreTrainedModel) -> Any:
    return model.config.get_text_config(decoder=True)


@contextmanager
def _layer_io(layers: nn.ModuleList) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Collect (input, output) of every layer; `hidden_states` of the model would give the last one after its norm."""
    io: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        before = args[0] if args else kwargs["hidden_states"]
        io.append((before, output[0] if isinstance(output, tuple) else output))

    handles = [layer.register_forward_hook(keep, with_kwargs=True) for layer in layers]
    try:
        yield io
    finally:
        for handle in handles:
            handle.remove()
