"""Router's loss of a mixture of experts, and whatever else a model adds to its own cross-entropy, which a white box has to add itself."""

from typing import Any

from transformers import TrainingArguments

from distill.models.adapters import base_of
from distill.models.configs import text_config_of

ROUTER_LOSS = "router_loss"  # its name in the log


def check_one_batch_a_step(args: TrainingArguments, model: Any, way_out: str = "") -> None:
    """Refuse steps of several micro-batches for a student that adds something to its loss that is no sum over tokens.

    A router's loss is a product of means over a micro-batch: no way to add it up gives that of the whole batch. The white box
    could divide it, the black box cannot; both refuse, so that they train the same.

    Args:
        args: of a trainer of either kind.
        model: its student.
        way_out: one more than to switch it off, for the message.

    Raises:
        ValueError: names the setting.
    """
    base = base_of(model)
    if args.gradient_accumulation_steps == 1 and args.world_size == 1:
        return
    for setting, off in (("output_router_logits", "False"), ("z_loss_coefficient", "0")):
        if value := _setting(base, setting):
            raise ValueError(
                f"{type(base).__name__} has {setting}={value}, so it adds its auxiliary loss once for each micro-batch "
                f"of each process, and the loss would depend on how a batch is split. Set model.config.{setting} = {off}, "
                f"use gradient_accumulation_steps=1 in one process{way_out}."
            )


def router_coefficient(model: Any) -> float:
    """By what a student multiplies its router's loss before it adds it; 0: it adds none.

    Args:
        model: perhaps with an adapter.

    Raises:
        ValueError: it adds one, and by what it multiplies is not known; or something that needs the logits of all tokens.
    """
    base = base_of(model)
    if value := _setting(base, "z_loss_coefficient"):
        raise ValueError(
            f"{type(base).__name__} has z_loss_coefficient={value}: it adds a loss of its own to cross-entropy, from the logits of all "
            "tokens, which a white box never makes. Set model.config.z_loss_coefficient = 0 and model.z_loss_coefficient = 0."
        )
    if not _setting(base, "output_router_logits"):
        return 0.0
    for name in ("router_aux_loss_coef", "aux_loss_coef"):
        if (found := _setting(base, name)) is not None:
            return float(found)
    raise ValueError(
        f"{type(base).__name__} has output_router_logits=True, but by what it multiplies its router's loss is not known (it has no "
        "router_aux_loss_coef). Set model.config.output_router_logits = False."
    )


def _setting(base: Any, name: str) -> Any:
    """As the model reads it: its own attribute, else its config's."""
    holders = [base, getattr(base, "config", None), text_config_of(base)]
    return next((found for holder in holders if (found := getattr(holder, name, None)) is not None), None)
