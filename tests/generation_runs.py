"""What the tests of shared generation run in each process; see `processes.run_processes`."""

import tempfile

from conftest import build_arguments, build_model, build_tokenizer

from distill import BlackBoxTrainer, generate
from distill.teachers import LocalTeacher, ServerTeacher

PROMPTS = [f"what is a colour {i}" for i in range(15)]
SETTINGS = {"samples": 2, "max_new_tokens": 10, "batch_size": 4, "progress": False}


def teacher_at(url, **settings):
    """The tiny teacher here, or the server at an address."""
    if url is None:
        return LocalTeacher(build_model(), build_tokenizer(), name="tiny")
    return ServerTeacher(url, tokenizer=build_tokenizer(), backoff=0.01, retries=1, **settings)


def shared(url, output, prompts=PROMPTS, **changes):
    """The rows that this process returns."""
    return generate(teacher_at(url), prompts, output=output, share=True, **{**SETTINGS, **changes}).to_list()


def refused(url, output, prompts):
    """What this process says of prompts that are refused."""
    try:
        shared(url, output, prompts)
    except ValueError as error:
        return str(error)


def trainer_with_teacher(url):
    """Ids of the pairs a black box generated for itself."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = BlackBoxTrainer(
            model=build_model(), args=build_arguments(folder), teacher=teacher_at(url), prompts=PROMPTS,
            generation=SETTINGS, processing_class=build_tokenizer(),
        )  # fmt: skip
        return trainer.train_dataset["id"][:]
