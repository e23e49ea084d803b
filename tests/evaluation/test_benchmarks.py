"""Benchmarks of lm-eval on a tiny model, from task files of one's own: nothing is asked of a hub."""

import pytest
from conftest import build_model, build_tokenizer, json_lines

from distill.evaluation import benchmarks
from distill.evaluation.benchmarks import benchmark

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture
def folder(tmp_path):
    rows = [
        {"question": f"what is a {word}?", "choices": ["the cat", "a dog", "why"], "answer": i % 3}
        for i, word in enumerate(("mat", "cat", "dog", "colour"))
    ]
    file = json_lines(tmp_path / "own.jsonl", rows)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own.yaml").write_text(TASK.format(name="own_words", file=file))
    return tmp_path / "tasks"


@pytest.mark.filterwarnings("ignore")
def test_a_task_of_ones_own_gives_a_value_for_each_question(folder):
    model, tokenizer = build_model(max_position_embeddings=512), build_tokenizer()
    (found,) = benchmark(model, tokenizer, ["own_words"], folder=folder)
    assert (found.task, found.metric, len(found.values)) == ("own_words", "acc", 4)
    assert set(found.values) <= {0.0, 1.0}
    # the harness' own choice: the one that is most likely behind the question
    import torch

    right = []
    for number, word in enumerate(("mat", "cat", "dog", "colour")):
        scores = []
        for choice in ("the cat", "a dog", "why"):
            before = tokenizer(f"Question: what is a {word}?\nAnswer:")["input_ids"]
            whole = tokenizer(f"Question: what is a {word}?\nAnswer: {choice}")["input_ids"]
            logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            scores.append(sum(float(logits[i - 1, whole[i]]) for i in range(len(before), len(whole))))
        right.append(float(scores.index(max(scores)) == number % 3))
    assert list(found.values) == right
    (some,) = benchmark(model, tokenizer, ["own_words"], folder=folder, limit=2)
    assert some.values == found.values[:2]


@pytest.mark.parametrize(
    ("tasks", "more", "said"),
    [
        (["own_word"], {}, "There is no task own_word; the folder .* has own_words"),
        ([], {}, "no tasks"),
        (["own_words"], {"folder": "nowhere"}, "There is no folder nowhere"),
    ],
)
def test_what_cannot_be_run_is_refused(folder, tasks, more, said, monkeypatch):
    # the package's own tasks take half a minute to read
    own = benchmarks._manager
    monkeypatch.setattr(benchmarks, "_manager", lambda folder, defaults: own(folder, False))
    with pytest.raises(ValueError, match=said):
        benchmark(None, None, tasks, **{"folder": folder, **more})
