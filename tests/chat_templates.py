"""Chat templates of models that reason, reduced to their mechanics with traces, each with a tokenizer that fits."""

from dataclasses import dataclass, field

from conftest import build_tokenizer
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

# DeepSeek-R1-Distill: what comes before </think> is cut from every assistant turn of a conversation.
_DEEPSEEK = """\
{{- bos_token -}}
{%- for m in messages -%}
  {%- if m.role == 'system' -%}{{- m.content -}}
  {%- elif m.role == 'user' -%}{{- '<｜User｜>' + m.content -}}
  {%- else -%}
    {%- set said = m.content -%}
    {%- if '</think>' in said -%}{%- set said = said.split('</think>')[-1] -%}{%- endif -%}
    {{- '<｜Assistant｜>' + said + '<｜end▁of▁sentence｜>' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'GENERATION' -}}{%- endif -%}"""

# Qwen3: a trace is taken out of an assistant's turn, and written only for turns after the last question.
_QWEN3 = """\
{%- set ns = namespace(last=messages|length - 1) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
  {{- '<|im_start|>' + m.role + '\\n' -}}
  {%- if m.role == 'assistant' -%}
    {%- set said, thought = m.content, m.reasoning_content or '' -%}
    {%- if not thought and '</think>' in said -%}
      {%- set thought = said.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
      {%- set said = said.split('</think>')[-1].lstrip('\\n') -%}
    {%- endif -%}
    {%- if loop.index0 > ns.last and (loop.last or thought) -%}
      {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + said.lstrip('\\n') -}}
    {%- else -%}{{- said -}}{%- endif -%}
  {%- else -%}{{- m.content -}}{%- endif -%}
  {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'GENERATION' -}}
  {%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}
{%- endif -%}"""

# SmolLM2: plain ChatML, with a system turn of its own where there is none.
_SMOLLM2 = """\
{%- if messages[0].role != 'system' -%}{{- '<|im_start|>system\\nyou are a cat<|im_end|>\\n' -}}{%- endif -%}
{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

# SmolLM3: a switch in the system turn; traces of earlier turns stay, and without thinking each turn has an empty one.
_SMOLLM3 = """\
{%- set mode = '/think' -%}
{%- if enable_thinking is defined and not enable_thinking -%}{%- set mode = '/no_think' -%}{%- endif -%}
{%- if messages[0].role == 'system' and '/no_think' in messages[0].content -%}{%- set mode = '/no_think' -%}{%- endif -%}
{{- '<|im_start|>system\\nReasoning Mode: ' + mode + '<|im_end|>\\n' -}}
{%- for m in messages -%}
  {%- if m.role == 'user' -%}{{- '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' -}}
  {%- elif m.role == 'assistant' -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if mode == '/no_think' -%}{{- '<think>\\n\\n</think>\\n' -}}{%- endif -%}
    {{- m.content.lstrip('\\n') + '<|im_end|>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}
  {%- if mode == '/no_think' -%}{{- '<think>\\n\\n</think>\\n' -}}{%- endif -%}
{%- endif -%}"""

TAGS = ("<think>", "</think>")
_CHATML = {"<|endoftext|>": True, "<|im_start|>": True, "<|im_end|>": True}
_MARKS = {
    "<｜begin▁of▁sentence｜>": True,
    "<｜end▁of▁sentence｜>": True,
    "<｜User｜>": False,  # added tokens that are not special, as in the models' own files
    "<｜Assistant｜>": False,
}


@dataclass(frozen=True)
class Family:
    """A template's mechanics.

    Args:
        opens: the generation prompt ends in an open `<think>`.
        strips: rendering a whole conversation loses the trace of its last turn.
        after: what the template writes after the EOS of a turn.
        tags: whether `<think>` and `</think>` are tokens, and special ones.
    """

    template: str
    control: dict[str, bool] = field(default_factory=lambda: _CHATML)
    eos: str = "<|im_end|>"
    opens: bool = False
    strips: bool = False
    after: str = "\n"
    tags: bool | None = False

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A small tokenizer with this family's control tokens."""
        tokenizer = build_tokenizer(self.template)
        known = {**self.control, **({} if self.tags is None else dict.fromkeys(TAGS, self.tags))}
        tokenizer.add_tokens([AddedToken(t, special=s, normalized=False) for t, s in known.items()])
        tokenizer.eos_token = tokenizer.pad_token = self.eos
        if "<｜begin▁of▁sentence｜>" in known:
            tokenizer.bos_token = "<｜begin▁of▁sentence｜>"
        return tokenizer


def _deepseek(generation: str, opens: bool) -> Family:
    template = _DEEPSEEK.replace("GENERATION", generation)
    return Family(template, _MARKS, "<｜end▁of▁sentence｜>", opens=opens, strips=True, after="")


FAMILIES = {
    "deepseek-r1-distill": _deepseek("<｜Assistant｜><think>\\n", True),
    "deepseek-r1-distill, older": _deepseek("<｜Assistant｜>", False),
    "qwen3": Family(_QWEN3.replace("GENERATION", "<|im_start|>assistant\\n")),
    "qwen3-2507-thinking": Family(_QWEN3.replace("GENERATION", "<|im_start|>assistant\\n<think>\\n"), opens=True),
    "smollm2": Family(_SMOLLM2, tags=None),
    "smollm3": Family(_SMOLLM3),
    "smollm3, special tags": Family(_SMOLLM3, tags=True),
}
