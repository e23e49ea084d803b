"""Ollama's template writes what the tokenizer's own does. Rendered here by a small reader of the parts of Go's language that are used."""

import re
from pathlib import Path

import pytest
from conftest import build_tokenizer

from distill.models.ollama import OllamaTemplate, ollama_template, write_modelfile
from distill.text.chat import chat_of

CHATS = Path(__file__).parents[1] / "chats"
SAID = [
    ["hi"],
    ["hi there\nyou", "yes <b>", "why & so?"],
    ["a", "b", "c", "d", "e"],
]


def with_template(name):
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    tokenizer.chat_template = (CHATS / f"{name}.jinja").read_text(encoding="utf-8")
    return tokenizer


def go(template, messages):
    """Ranges, conditions and assignments of Go's text/template, as far as they are used; its own reader gave the same (docs/log.md)."""
    parts = re.findall(r"\{\{-? ?(.*?) ?\}\}|((?:(?!\{\{).)+)", template, flags=re.DOTALL)
    variables = {}

    def value(word, message):
        if word.startswith("print "):
            return "".join(value(one, message) for one in re.findall(r"\.\w+|\"[^\"]*\"", word[6:]))
        if word.startswith('"'):
            return word[1:-1].replace("\\n", "\n")
        return variables[word] if word.startswith("$") else message[word[1:].lower()]

    def holds(condition, message):
        name, *arguments = condition.split(" ")
        if not arguments:
            return bool(value(name, message))
        left, right = (value(one, message) for one in arguments)
        return (left == right) is (name == "eq")

    def run(place, end, message, quiet):
        """From a place to the `end` or `else` that belongs to it."""
        out = ""
        while place < end:
            code, text = parts[place]
            if text:
                out += text
            elif code in ("end", "else"):
                return out, place
            elif code.startswith(("range", "if")):
                stop, middle = closed(place)
                if code.startswith("range"):
                    out += "".join(run(place + 1, stop, one, quiet)[0] for one in messages)
                elif holds(code[3:], message):
                    out += run(place + 1, middle or stop, message, quiet)[0]
                elif middle:
                    out += run(middle + 1, stop, message, quiet)[0]
                place = stop
            elif "=" in code:
                name, word = re.split(r" :?= ", code, maxsplit=1)
                variables[name] = value(word, message)
            else:
                out += value(code, message)
            place += 1
        return out, place

    def closed(place):
        depth, middle = 0, None
        for i in range(place, len(parts)):
            code = parts[i][0]
            depth += code.startswith(("range", "if"))
            if code == "else" and depth == 1:
                middle = i
            depth -= code == "end"
            if depth == 0:
                return i, middle
        raise AssertionError("no end")

    return run(0, len(parts), None, False)[0]


@pytest.mark.parametrize(
    ("name", "family", "begins"),
    [("qwen2_5", "ChatML", "You are Qwen"), ("qwen3", "ChatML", None), ("llama3_1", "Llama 3", None), ("llama3_2", "Llama 3", None),
     ("gemma", "Gemma", None), ("gemma3", "Gemma", None)],
)  # fmt: skip
def test_it_writes_what_the_tokenizers_own_does(name, family, begins):
    tokenizer = with_template(name)
    found = ollama_template(tokenizer)
    assert found.family == family
    assert (found.system or "").startswith(begins or "")
    assert bool(found.system) is bool(begins)
    compared = 0
    for system in (None, 'Be short, {braces} and "quotes".'):
        for said in SAID:
            asked = [{"role": ("user", "assistant")[i % 2], "content": words} for i, words in enumerate(said)]
            asked = [{"role": "system", "content": system}, *asked] if system else asked
            try:
                wanted = chat_of(tokenizer).render(asked)
            except ValueError:
                assert "refuses a system text" in found.notes[0]
                continue
            # Ollama puts SYSTEM before the messages where they have none
            given = asked if system or not found.system else [{"role": "system", "content": found.system}, *asked]
            assert go(found.template, given) == wanted
            compared += 1
    assert compared == (3 if name == "gemma" else 6)


def test_a_template_of_no_known_family_is_refused_with_the_way_out():
    for name in ("phi3", "gptoss", "smollm3_tools"):
        with pytest.raises(
            ValueError, match=r"none of those that are known for Ollama \(ChatML, Llama 3, Gemma\).*--to gguf"
        ):
            ollama_template(with_template(name))
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        ollama_template(tokenizer)
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | upper }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    with pytest.raises(ValueError, match="none of those"):
        ollama_template(tokenizer)


def test_bos_is_left_to_the_reader_that_puts_it_there():
    from tokenizers.processors import TemplateProcessing

    tokenizer = with_template("gemma3")
    assert ollama_template(tokenizer).template.startswith("<bos>"), "this tokenizer puts none before a text"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    assert "<bos>" not in ollama_template(tokenizer).template


def test_the_file_has_weights_template_system_and_ends(tmp_path):
    write_modelfile(tmp_path, "m.gguf", OllamaTemplate("x", "a\n{{ .b }}", 'say "no"', ()), ["<|im_end|>", "</s>"])
    assert (tmp_path / "Modelfile").read_text() == (
        'FROM ./m.gguf\nTEMPLATE """a\n{{ .b }}"""\nSYSTEM """say "no""""\nPARAMETER stop "<|im_end|>"\nPARAMETER stop "</s>"\n'
    )
    with pytest.raises(ValueError, match='has """ in it'):
        write_modelfile(tmp_path, "m.gguf", OllamaTemplate("x", 'a """', None, ()), [])


def test_a_bos_that_opens_a_turn_stays():
    """SmolLM2's BOS is `<|im_start|>`, which its template writes and its tokenizer does not."""
    tokenizer = with_template("qwen3")
    tokenizer.bos_token = "<|im_start|>"
    found = ollama_template(tokenizer)
    assert found.family == "ChatML"
    asked = [{"role": "user", "content": "hi"}]
    assert go(found.template, asked) == chat_of(tokenizer).render(asked)
