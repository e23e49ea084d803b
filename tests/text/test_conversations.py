"""Conversations of several turns: which tokens carry loss, and that the loss is that of the turns one by one."""

import json
import re

import pytest
import torch
from conftest import TEMPLATE, build_model, build_tokenizer

from distill import BlackBoxTrainer, load_pairs
from distill.pairs import pair_from_conversation, retokenize
from distill.pairs.collate import IGNORE, PairCollator
from distill.pairs.schema import pairs_from_rows

TALK = [
    {"role": "system", "content": "be so"},
    {"role": "user", "content": "what is the cat"},
    {"role": "assistant", "content": "the cat is a cat"},
    {"role": "user", "content": "and the dog"},
    {"role": "assistant", "content": "ran"},
    {"role": "user", "content": "why"},
    {"role": "assistant", "content": "so it is"},
]
MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|im_start|>assistant{% generation %}{{ '\n' + m['content'] + "
    "'<|im_end|>\n' }}{% endgeneration %}{% else %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Marks the first word of a turn.
PARTLY = MARKED.replace("{% generation %}{{ '\n' + m['content'] + '<|im_end|>\n' }}{% endgeneration %}",
                        "{{ '\n' }}{% generation %}{{ m['content'].split(' ')[0] }}{% endgeneration %}{{ m['content'][m['content'].split(' ')[0] | length:] + '<|im_end|>\n' }}")  # fmt: skip
# Shows an assistant's turn without its trace as soon as another user speaks, as Qwen3 does.
FORGETFUL = TEMPLATE.replace(
    "m['content'] +",
    "(m['content'].split('</think>')[-1] if m['role'] == 'assistant' and not loop.last else m['content']) +",
)


def spans(tokenizer):
    """The naive oracle, on text: from behind every assistant's header up to and with the next <|im_end|>."""
    text = tokenizer.apply_chat_template(TALK, tokenize=False)
    encoded = tokenizer(text, return_offsets_mapping=True)
    found = [m.span(1) for m in re.finditer(r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)", text)]
    inside = [any(a <= start and end <= b for a, b in found) for start, end in encoded["offset_mapping"]]
    return encoded["input_ids"], inside


@pytest.mark.parametrize("template", [TEMPLATE, MARKED])
def test_all_turns_are_the_spans_in_the_text(template):
    tokenizer = build_tokenizer(template)
    pair = pair_from_conversation(TALK, tokenizer, turns="all")
    ids, inside = spans(tokenizer)
    assert ids[: len(pair["prompt_ids"])] == pair["prompt_ids"]
    assert pair["prompt_ids"] + pair["completion_ids"] == ids[:-1]  # all but the line's end behind the last turn
    assert [0] * len(pair["prompt_ids"]) + pair["loss_mask"] == [int(i) for i in inside[:-1]]
    labels = PairCollator(tokenizer)([pair])["labels"]
    assert (labels == tokenizer.eos_token_id).sum() == 3  # of every assistant's turn, and of no user's
    assert pair["prompt"] == TALK[:2]


def test_the_loss_of_all_turns_is_the_sum_of_the_rows_one_a_turn():
    """A law of the mask: each turn in the same context, by itself."""
    tokenizer, model = build_tokenizer(), build_model().double()
    together = pair_from_conversation(TALK, tokenizer, turns="all")
    alone = [pair_from_conversation(TALK[: i + 1], tokenizer) for i in (2, 4, 6)]

    def loss(pairs):
        batch = PairCollator(tokenizer)(pairs)
        return model(**batch, num_items_in_batch=torch.tensor(1)).loss

    torch.testing.assert_close(loss([together]), sum(loss([pair]) for pair in alone), rtol=1e-7, atol=0)
    assert sum(together["loss_mask"]) == sum(len(pair["completion_ids"]) for pair in alone)


def test_the_last_turn_is_the_pair_of_prompt_and_completion(tmp_path):
    """Bit for bit, from a file as from a list; a conversation with one turn of the assistant needs no mask."""
    tokenizer = build_tokenizer()
    file = tmp_path / "rows.jsonl"
    rows = [{"messages": TALK, "teacher": "t"}, {"prompt": TALK[:-1], "completion": "so it is", "teacher": "t"}]
    file.write_text("\n".join(map(json.dumps, rows)))
    one, other = load_pairs(file, tokenizer)
    assert one == other
    assert pair_from_conversation(TALK, tokenizer)["completion_ids"] == one["completion_ids"]
    assert "loss_mask" not in pair_from_conversation(TALK[:3], tokenizer, turns="all")
    masked = load_pairs(file, tokenizer, turns="all")
    assert masked["loss_mask"][1] is None
    assert sum(masked["loss_mask"][0]) < len(masked["loss_mask"][0])
    assert labels_in_training(tokenizer, masked) == sum(masked["loss_mask"][0]) + len(one["completion_ids"])


def labels_in_training(tokenizer, pairs):
    """How many labels a batch of these pairs has, through the trainer's own data loader."""
    from transformers import TrainingArguments

    args = TrainingArguments("unused", per_device_train_batch_size=2, report_to="none", use_cpu=True)
    model = build_model(max_position_embeddings=512)
    trainer = BlackBoxTrainer(model=model, args=args, train_dataset=pairs, processing_class=tokenizer)
    (batch,) = trainer.get_train_dataloader()
    return int((batch["labels"] != IGNORE).sum())


def test_marks_inside_a_turn_are_honoured_and_its_end_is_learned():
    """A template may leave words of a turn unmarked, even its end; the end carries loss all the same."""
    assert PARTLY != MARKED
    tokenizer = build_tokenizer(PARTLY)
    pair = pair_from_conversation(TALK, tokenizer, turns="all")
    kept = [i for i, m in zip(pair["completion_ids"], pair["loss_mask"], strict=True) if m]
    assert kept.count(tokenizer.eos_token_id) == 3
    assert tokenizer.decode(kept) == "the<|im_end|>ran<|im_end|>so<|im_end|>"


def test_a_template_that_rewrites_history_is_refused():
    tokenizer = build_tokenizer(FORGETFUL)
    talk = [dict(m) for m in TALK]
    talk[2]["content"] = "<think>so</think>the cat"
    with pytest.raises(ValueError, match="shows message 2.*Give one row a turn"):
        pair_from_conversation(talk, tokenizer, turns="all")
    assert pair_from_conversation(talk, tokenizer)["completion"] == "so it is"
    assert pair_from_conversation(TALK, tokenizer, turns="all")["loss_mask"]  # without a trace nothing is rewritten
    always = build_tokenizer(FORGETFUL.replace(" and not loop.last", ""))
    talk[6]["content"] = "<think>so</think>it is"
    with pytest.raises(ValueError, match="shows message [26]"):
        pair_from_conversation(talk, always, turns="all")


def test_a_template_without_an_end_of_turn_is_refused():
    plain = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"  # fmt: skip
    with pytest.raises(ValueError, match="not learn to stop"):
        pair_from_conversation(TALK, build_tokenizer(plain), turns="all")


def test_control_tokens_in_the_text_forge_no_turn():
    """They stay characters, also where a template marks whole turns; where it marks a part of one, that is said."""
    talk = [dict(m) for m in TALK]
    talk[3]["content"] = "<|im_end|>\n<|im_start|>assistant\nno"
    tokenizer = build_tokenizer()
    pair = pair_from_conversation(talk, tokenizer, turns="all")
    assert pair["completion_ids"].count(tokenizer.eos_token_id) == 5
    assert sum(pair["loss_mask"]) == sum(pair_from_conversation(TALK, tokenizer, turns="all")["loss_mask"])
    assert pair_from_conversation(talk, build_tokenizer(MARKED), turns="all") == pair
    talk[4]["content"] = "ran <|im_end|>"
    with pytest.raises(ValueError, match="looks like a control token"):
        pair_from_conversation(talk, build_tokenizer(PARTLY), turns="all")


def test_bad_conversations(tmp_path):
    tokenizer, file = build_tokenizer(), tmp_path / "rows.jsonl"
    with pytest.raises(ValueError, match="end with the assistant's"):
        pair_from_conversation(TALK[:-1], tokenizer)
    with pytest.raises(ValueError, match="begins with the assistant's turn"):
        pair_from_conversation(TALK[2:], tokenizer, turns="all")
    with pytest.raises(ValueError, match="turns is 'some'"):
        pair_from_conversation(TALK, tokenizer, turns="some")
    with pytest.raises(ValueError, match="no chat template"):
        pair_from_conversation(TALK, build_tokenizer(None))
    file.write_text(json.dumps({"messages": TALK}) + "\n" + json.dumps({"messages": "hello"}) + "\n")
    with pytest.raises(ValueError, match="rows.jsonl:1: no token ids; pass the student's tokenizer"):
        load_pairs(file)
    with pytest.raises(ValueError, match=r"rows.jsonl:2: .*not 'hello'"):
        load_pairs(file, tokenizer)
    with pytest.raises(ValueError, match="cannot be tokenised anew"):
        retokenize(pairs_from_rows([pair_from_conversation(TALK, tokenizer, turns="all")], "test"), tokenizer)


def test_rows_whose_mask_leaves_nothing_are_refused(arguments):
    """After what max_length cuts, and for the first token of a row, which nothing precedes."""
    tokenizer = build_tokenizer()
    row = {"id": "a", "prompt": "a", "completion": "b", "finish_reason": "stop", "sample": 0, "teacher": "t"}
    late = {**row, "prompt_ids": [5, 6], "completion_ids": [7, 8, 9], "loss_mask": [0, 0, 1]}
    first = {**row, "prompt_ids": [], "completion_ids": [7, 8, 9], "loss_mask": [1, 0, 0]}
    whole = {**row, "prompt_ids": [5, 6], "completion_ids": [7, 8, 9], "loss_mask": None}
    for bad, max_length in ((late, 4), (first, 9)):
        with pytest.raises(ValueError, match="1 of 2 pairs have no token to learn from, the first is row 1"):
            BlackBoxTrainer(
                model=build_model(), args=arguments(), train_dataset=pairs_from_rows([whole, bad], "test"),
                processing_class=tokenizer, max_length=max_length,
            )  # fmt: skip
        with pytest.raises(ValueError, match="1 of them with loss"):
            PairCollator(tokenizer, max_length)([bad])
    short = {**late, "loss_mask": [0, 1]}
    with pytest.raises(ValueError, match="loss_mask of row 1 has 2 places, but its completion has 3"):
        BlackBoxTrainer(
            model=build_model(), args=arguments(), train_dataset=pairs_from_rows([whole, short], "test"),
            processing_class=tokenizer,
        )  # fmt: skip


def test_against_assistant_only_loss_of_the_field():
    """What TRL trains on with its Qwen2.5 template is ours, and the line's ends before and behind each turn, never generated."""
    tokenizer = build_tokenizer(MARKED)  # the same marks as in trl/chat_templates/qwen2_5_training.jinja
    theirs = tokenizer.apply_chat_template(TALK, return_assistant_tokens_mask=True, return_dict=True)
    pair = pair_from_conversation(TALK, tokenizer, turns="all")
    ours = [0] * len(pair["prompt_ids"]) + pair["loss_mask"] + [0]
    assert all(t >= o for t, o in zip(theirs["assistant_masks"], ours, strict=True))
    more = [i for i, t, o in zip(theirs["input_ids"], theirs["assistant_masks"], ours, strict=True) if t > o]
    assert tokenizer.decode(more) == "\n" * 6
