"""Every private member of `transformers.Trainer` that this package overrides or reads: what an update may break, in one place.

A test holds the list against the code and against the installed `transformers`, whose minor versions are bounded in
pyproject.toml for this reason. To raise the bound: run tests/trainers, read the members below in the new source, then change it.
"""

from typing import NamedTuple


class Member(NamedTuple):
    """One private member of `Trainer`.

    Args:
        parameters: their names, for a method; None for an attribute.
        relied_on: what must stay true of it.
    """

    parameters: tuple[str, ...] | None
    relied_on: str


MEMBERS = {
    # overridden
    "_clip_grad_norm": Member(
        ("model",),
        # by way of _has_mixed_mesh_grads, which the package neither calls nor sets, so it is not listed: it looks once a run for
        # gradients of several device meshes, and with sharded weights there are no projections beside the model
        "asks `model` for its parameters and nothing else; called before on_pre_optimizer_step, if max_grad_norm > 0",
    ),
    "_get_grad_norm": Member(
        ("model", "grad_norm"),
        "asks `model` for its parameters and nothing else; called in every step after clipping, if it was clipped, and before on_pre_optimizer_step",
    ),
    "_get_dataloader": Member(
        ("dataset", "description", "batch_size", "sampler_fn", "is_training", "dataloader_key"),
        "makes the loaders of training and evaluation; calls sampler_fn(dataset) for the order",
    ),
    "_hp_search_setup": Member(
        ("trial",),
        "puts a trial's settings into args and makes an accelerator; called once in `train`, behind call_model_init; nothing else of it is needed later",
    ),
    "_load_best_model": Member((), "called once at the end of a training with load_best_model_at_end"),
    "_load_from_checkpoint": Member(
        ("resume_from_checkpoint", "model"), "loads the model's weights, and only those, before training goes on"
    ),
    "_maybe_log_save_evaluate": Member(
        ("tr_loss", "grad_norm", "model", "trial", "epoch", "ignore_keys_for_eval", "start_time", "learning_rate"),
        "logs, evaluates, then saves if control.should_save; called after every step and at the end of every epoch",
    ),
    "_save_checkpoint": Member(
        ("model", "trial"),
        "writes into output_dir/checkpoint-STEP: model, optimiser and scheduler, random state, and trainer_state.json last; "
        "removes older ones by save_total_limit",
    ),
    "_save_rng_state": Member(
        ("output_dir",), "the last call before trainer_state.json is written, unless save_only_model"
    ),
    "_set_signature_columns_if_needed": Member((), "sets _signature_columns, by which unused columns are removed"),
    "_track_num_input_tokens": Member(
        ("inputs",), "counts what attention_mask shows, else tokens that are not padding"
    ),
    # called
    "_get_num_items_in_batch": Member(
        ("batch_samples", "device"), "labels that are not -100, over all processes if average_tokens_across_devices"
    ),
    "_get_output_dir": Member(("trial",), "the folder that checkpoints go into"),
    "_prepare_for_training": Member(
        ("max_steps", "train_dataloader", "resume_from_checkpoint"),
        "wraps the model, makes the optimiser, loads a checkpoint; leaves both in the trainer",
    ),
    "_validate_args": Member(
        (),
        "that of TrainingArguments, which bears the same name as Trainer's: refuses settings that do not go together, and makes steps whole numbers",
    ),
    "_remove_unused_columns": Member(("dataset", "description"), "a dataset with the signature columns only"),
    # read and set
    "_created_lr_scheduler": Member(
        None, "whether Trainer made the scheduler itself; false for one that the caller gave"
    ),
    "_globalstep_last_logged": Member(None, "the step of the last log; the logged loss is divided by the steps since"),
    "_signature_columns": Member(None, "names of the columns that are kept; None: not known yet"),
    "_total_loss_scalar": Member(None, "the sum of losses up to the last log, for train_loss"),
    "_train_batch_size": Member(None, "rows that the training's loader gives a process at once"),
    "_tr_loss": Member(
        None,
        "a tensor, the sum of losses since the last log; 0 at on_train_begin; not finite if one of them was, without logging_nan_inf_filter",
    ),
}
