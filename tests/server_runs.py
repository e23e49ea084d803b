"""What the tests of servers run: a teacher at one fake server or at several, and the pairs that it gives."""

from conftest import build_tokenizer

from distill import generate
from distill.teachers import ServerTeacher

TOKENIZER = build_tokenizer()
PROMPTS = [f"question {i}" for i in range(60)]


def teacher(*servers, **changes):
    """Servers, or their addresses."""
    urls = [server if isinstance(server, str) else server.url for server in servers]
    settings = {"tokenizer": TOKENIZER, "backoff": 0.01, "retries": 1, "concurrency": 4}
    return ServerTeacher(urls[0] if len(urls) == 1 else urls, **{**settings, **changes})


def run(asked, prompts=PROMPTS, **changes):
    """The pairs of these prompts."""
    return generate(asked, prompts, **{"max_new_tokens": 12, "progress": False, **changes})
