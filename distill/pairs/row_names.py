"""Names of columns that are understood: who is asked what, and what is answered."""

IDS = ("prompt_ids", "completion_ids")
CONVERSATIONS = ("messages", "conversations", "conversation")
CONTEXT = ("input", "context")  # what Alpaca and Dolly put below an instruction
HISTORY = "history"  # what was asked and answered before it, as LLaMA-Factory and ms-swift have it
UNASKED = (
    "context",
    "contexts",
    "passage",
    "passages",
    "history",
)  # a question that stands beside it is another without it
# (what is asked, what is answered), the more telling names first
ASKED_AND_ANSWERED = (
    ("prompt", "completion"), ("instruction", "output"), ("instruction", "response"), ("question", "answer"),
    ("question", "response"), ("problem", "solution"), ("problem", "answer"), ("query", "response"), ("query", "answer"),
    ("prompt", "response"), ("prompt", "output"), ("prompt", "answer"), ("input", "output"),
)  # fmt: skip
ASKED = ("prompt", "question", "problem", "instruction", "query", "input", "text")
ANSWERED = ("completion", "output", "response", "answer", "solution")
MADE = ("prompt", "completion", "messages", *IDS)  # what a pair makes itself
SYSTEM = ("system", "system_prompt")
TOOLS = ("tools", "functions")
TEXTS = tuple(dict.fromkeys((*ASKED, *ANSWERED, *CONTEXT, *SYSTEM, "teacher_prompt")))
SPOKEN = tuple(dict.fromkeys((*CONVERSATIONS, HISTORY, *TEXTS, *TOOLS, "chat_template_kwargs")))
