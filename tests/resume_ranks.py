"""What `test_resume.py` runs in two processes: they train, stop, go on, and are refused together."""

import torch
from conftest import build_arguments, build_model, build_pairs, build_tokenizer
from filelock import FileLock
from resume_runs import Halt, log

from distill import AttentionMaps, BlackBoxTrainer, Logits, WhiteBoxTrainer
from distill.objectives import Schedule
from distill.trainers.checkpoints import LOCK_FILE


def build(kind, folder, halt=None, **changes):
    settings = {
        "max_steps": 6, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "save_strategy": "steps",
        "save_steps": 2, "logging_steps": 4,
    }  # fmt: skip
    common = {
        "model": build_model(seed=7, attention_dropout=0.1),
        "args": build_arguments(folder, **{**settings, **changes}),
        "train_dataset": build_pairs(14),
        "processing_class": build_tokenizer(),
        "callbacks": [Halt(halt)] if halt else None,
    }
    if kind == "black":
        return BlackBoxTrainer(**common)
    objectives = [Logits(weight=Schedule(1.0, 0.2)), AttentionMaps(weight=0.1)]
    return WhiteBoxTrainer(**common, teacher=build_model(layers=3, seed=1), objectives=objectives)


def refusal(trainer):
    try:
        trainer.train(resume_from_checkpoint=True)
    except ValueError as error:
        return str(error)
    return "nothing"


def together(folder):
    for kind in ("black", "white"):
        whole = build(kind, folder / f"{kind}-whole")
        whole.train()
        out = folder / kind
        build(kind, out, halt=5).train()
        again = build(kind, out)
        again.train(resume_from_checkpoint=True)
        assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))
        assert log(whole) == log(again)
        assert len(log(again)) == 1
        rank, wait = again.args.process_index, again.accelerator.wait_for_everyone
        assert "learning_rate: 0.01 there, 0.5 now" in refusal(build(kind, out, learning_rate=0.5))
        lock = FileLock(out / LOCK_FILE)
        if rank == 0:
            lock.acquire(timeout=0)
        assert "in use: another training" in refusal(build(kind, out))
        lock.release()
        if rank == 0:
            for step in (2, 4, 5, 6):
                (out / f"checkpoint-{step}" / "rng_state_1.pth").unlink()
        wait()
        assert "rng_state_1.pth is missing" in refusal(build(kind, out))
    return "all as it should be"
