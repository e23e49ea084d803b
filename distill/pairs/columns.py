"""The columns of a pair, the one training row.

| column | type | meaning |
|---|---|---|
| `id` | str | hash of everything that decided this row: teacher, prompt, sampling settings, sample index |
| `prompt` | str, or messages | what the student is asked, for people; one kind a file; messages with all their fields |
| `completion` | str | what was answered, for people (without control tokens) |
| `prompt_ids` | list of int | its tokens: what the student is given, and the teacher, too, where there is no teacher's prompt |
| `completion_ids` | list of int | the tokens the teacher gave, with its EOS if it emitted one |
| `finish_reason` | `"stop"` or `"length"` | ended by itself, or cut at the limit (then there is no EOS) |
| `sample` | int | which sample of this prompt, from 0 |
| `teacher` | str | who wrote the completion |

These columns are there only where something filled them:

| column | type | meaning |
|---|---|---|
| `token_source` | `"teacher"` or `"text"` | `completion_ids` are what the teacher emitted, or were made once from its text |
| `score` | float or null | what a verifier gave; null where it raised |
| `score_error` | str or null | what the verifier raised |
| `teacher_prompt` | str, or messages | what the teacher was shown in place of `prompt`; null, and no ids: the prompt |
| `teacher_prompt_ids` | list of int | its tokens; there wherever `teacher_prompt` is, and alone where its words are not known |
| `loss_mask` | list of 0 and 1 | which of `completion_ids` carry loss (several assistant turns in one row); all without it |
| `tools` | JSON text | the functions that the chat template was given beside the prompt |
| `chat_template_kwargs` | JSON text | the template's variables that were given beside it |
| `message` | JSON text | the assistant's turn itself, where it is more than a text: its calls, its reasoning |
| `top_logprobs` | list of `{tokens, logprobs}` | the server's most likely tokens at each place of the completion, as text |

All other columns are the user's own, of whatever type, and are carried through.

Token ids are the truth: training uses nothing else. Text is for people, because decoding and encoding again is not the
identity.
"""

from collections.abc import Collection
from typing import Any

import datasets

COLUMNS = ("id", "prompt", "completion", "prompt_ids", "completion_ids", "finish_reason", "sample", "teacher")
OPTIONAL = (
    "teacher_prompt",
    "teacher_prompt_ids",
    "token_source",
    "score",
    "score_error",
    "loss_mask",
    "tools",
    "chat_template_kwargs",
    "message",
    "top_logprobs",
)  # there only where something filled them
TEACHER_PROMPT = ("teacher_prompt", "teacher_prompt_ids")
READ = ("id", "prompt_ids", "completion_ids", "loss_mask", "teacher_prompt_ids")  # by the collator of a white box
JSON_TEXTS = ("tools", "chat_template_kwargs", "message")
FINISH_REASONS = ("stop", "length")
TOKEN_SOURCES = ("teacher", "text")


def features(messages: bool, optional: Collection[str] = ()) -> datasets.Features:
    """The Arrow types of pairs whose prompts are messages, or plain text, with some of the `OPTIONAL` columns."""
    text, ids = datasets.Value("string"), datasets.List(datasets.Value("int32"))
    more: dict[str, Any] = {
        "teacher_prompt": text,  # or messages, whatever the prompts are: see `tables`
        "teacher_prompt_ids": ids,
        "token_source": text,
        "score": datasets.Value("float64"),
        "score_error": text,
        "loss_mask": datasets.List(datasets.Value("int8")),
        "tools": text,
        "chat_template_kwargs": text,
        "message": text,
        "top_logprobs": datasets.List(
            {"tokens": datasets.List(text), "logprobs": datasets.List(datasets.Value("float32"))}
        ),
    }
    prompt: Any = datasets.List({"role": text, "content": text}) if messages else text
    return datasets.Features(
        {
            "id": text,
            "prompt": prompt,
            "completion": text,
            "prompt_ids": ids,
            "completion_ids": ids,
            "finish_reason": text,
            "sample": datasets.Value("int32"),
            "teacher": text,
            **{name: more[name] for name in OPTIONAL if name in optional},
        }
    )
