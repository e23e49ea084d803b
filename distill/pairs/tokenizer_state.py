"""State of a tokenizer: all that decides the tokens of a text or a conversation, so that what was made of it can be found again."""

import json
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distill.text.chat import chat_state
from distill.text.dates import day_settings


def tokenizer_state(tokenizer: Any) -> tuple[str, ...]:
    """Vocabulary, merges, added tokens, what is put around a text, the chat template, its control tokens and the day that it writes.

    Settings of padding and of cutting are left out, which other calls of the same tokenizer change.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        words = _written(tokenizer)
    else:
        # settings of padding and cutting, which earlier calls leave there, are written before the tokens
        whole = backend.to_str()
        words = whole.partition('"added_tokens":[')[2] or whole
    added = repr(sorted((number, repr(token)) for number, token in tokenizer.added_tokens_decoder.items()))
    return type(tokenizer).__qualname__, words, added, *chat_state(tokenizer), json.dumps(day_settings(tokenizer))


def _written(tokenizer: Any) -> str:
    """A tokenizer in Python, as its files: words alone are not enough (GPT-2's merges, a model of SentencePiece)."""
    settings = {
        name: value for name, value in tokenizer.init_kwargs.items() if "path" not in name and "file" not in name
    }
    with TemporaryDirectory() as folder:
        with suppress(NotImplementedError):
            tokenizer.save_vocabulary(folder)
        files = [path.read_bytes().hex() for path in sorted(Path(folder).iterdir())]
    return json.dumps([sorted(tokenizer.get_vocab().items()), files, repr(sorted(settings.items(), key=str))])
