"""Keys, tokens and passwords: published shapes (`detect-secrets`, and newer ones), and what stands behind a word for a password."""

import re
from collections.abc import Iterator
from functools import lru_cache

from distill.basics.redact import SECRET_SHAPE
from distill.curation.private.kinds import Found

MARK = "EXAMPLE"  # as in the documentation of AWS: what has it is no secret
# Of detect-secrets' plugins those with a shape that nothing else has; see the table in docs/how-to/private.md for the others.
PLUGINS = (
    "aws:AWSKeyDetector", "azure_storage_key:AzureStorageKeyDetector", "discord:DiscordBotTokenDetector", "github_token:GitHubTokenDetector",
    "gitlab_token:GitLabTokenDetector", "mailchimp:MailchimpDetector", "openai:OpenAIDetector",
    "pypi_token:PypiTokenDetector", "sendgrid:SendGridDetector", "slack:SlackDetector", "square_oauth:SquareOAuthDetector",
    "stripe:StripeDetector", "telegram_token:TelegramBotTokenDetector",
)  # fmt: skip
_SHAPES = (
    re.compile(r"\b(?:npm_[A-Za-z0-9]{36}|dckr_pat_[\w-]{27}|ya29\.[\w-]{20,}|sk-(?:proj|ant|or)-[\w-]{20,}|r8_\w{37}|shp(?:at|ss|ca|pa)_[0-9a-f]{32}|EAACEdEose0cBA\w+)"),
    re.compile(r"(?<![A-Za-z0-9_.-])eyJ[\w-]{8,}={0,2}\.[\w-]{8,}={0,2}\.[\w-]{8,}"),
    SECRET_SHAPE,
)  # fmt: skip
# to its last line, or, where that is in another turn, as far as the lines of base64 go; and the rest by itself
_LINES = r"(?:(?:\\n|[\r\n]|[A-Za-z-]{2,20}: [^\r\n]{0,80})++[A-Za-z0-9+/=]{16,}){1,}+"
_END = r"(?:\\n|\s)*+-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
_BLOCK = re.compile(
    rf"-----BEGIN (?:[A-Z0-9]+ ){{0,3}}PRIVATE KEY(?: BLOCK)?-----[ \t]*+{_LINES}(?:(?:\\n|[\r\n])++[A-Za-z0-9+/=]{{1,15}})?+(?:{_END})?+"
)
_REST = re.compile(
    r"(?<![A-Za-z0-9+/=])(?:[A-Za-z0-9+/=]{16,}+(?:\\n|[\r\n])++)*+(?:[A-Za-z0-9+/=]{1,15}(?:\\n|[\r\n])++)?+-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
)
_TOKEN = re.compile(r"\s(?=\S*\d)[\w.~+/=-]{16}")
_SHORTEST, _FOR_PEOPLE = 10, re.compile(r"(?!(?:api|access|secret|auth|private|account|token))", re.IGNORECASE)
_BODY = re.compile(r"[A-Za-z0-9+/=]{16}")
_URL = re.compile(r"[a-z][a-z0-9+.-]{1,20}://[^\s:/@'\"<>]{0,64}:([^\s/@'\"<>]{3,64})@", re.IGNORECASE)
_ASKED = re.compile(
    r"(?:pass(?:word|wd|phrase|code)|(?<![a-z])pwd?|passwort|kennwort|contraseña|clave|mot de passe|senha|wachtwoord|hasło|lösenord|şifre|parola|"
    r"пароль|密码|密碼|パスワード|비밀번호|(?:api|access|secret|auth|private|account)[_ -]?(?:key|token)|secret|token)"
    r"[\\\"'`*\]]{0,4}\s{0,2}(?::=|=>|:|=|>|：|是|は|는|은|\bis\b:?|\bist\b|\blautet\b|\bes\b|\best\b|\bé\b|\bè\b|\bto\b)\s{0,2}[\\\"'`*]{0,3}"
    r"([^\s\\\"'`,;，。、<>()\[\]{}]{6,80})",
    re.IGNORECASE,
)  # fmt: skip
_CODE = re.compile(
    r"^[\w]+(?:\.[\w]+)+$|[$%]\{?\w*[({]|\*\*\*|xxx|\.\.\.|^[$%{]|your|[Cc]hange_?me|placeholder|^https?:|^\w+_\w+_?\w*$",
    re.IGNORECASE,
)


# for each, what it has at least, which is sooner looked for
_LONG_WORD = re.compile(r"[A-Za-z0-9_-]{13}")
_STEMS = (
    "pass", "pwd", "pw", "kennwort", "contrase", "clave", "mot de", "senha", "wachtwoord", "has\u0142o", "l\u00f6senord", "\u015fifre", "parola",
    "\u043f\u0430\u0440\u043e\u043b", "\u5bc6", "\u30d1\u30b9\u30ef", "\ube44\ubc00", "key", "token", "secret",
)  # fmt: skip


def secrets(text: str) -> Iterator[Found]:
    """Keys and tokens of known shapes, and private keys whole, their last line or not; what says `EXAMPLE` is none."""
    if "PRIVATE KEY" in text:
        for form in (_BLOCK, _REST):
            for match in form.finditer(text):
                if _BODY.search(match[0]):  # more than its last line
                    yield from _one(match.start(), match.end(), "secret", text)
    for shape in _shapes() if _LONG_WORD.search(text) else ():
        for match in shape.finditer(text):
            if match[0].startswith("Bearer") and not _TOKEN.search(match[0]):
                continue  # of a letter, or of the standard
            yield from _one(match.start(), match.end(), "secret", text)


def passwords(text: str, name: str = "") -> Iterator[Found]:
    """What stands in an address before its host, or behind a word for a password and has letters and digits or signs.

    Args:
        text: read as ASCII.
        name: what the text stands under, a key of an object, say.
    """
    for match in _URL.finditer(text) if "://" in text else ():
        if not _CODE.search(match[1]):
            yield from _one(match.start(1), match.end(1), "password", text)
    low = text.lower()
    for match in _ASKED.finditer(text) if any(stem in low for stem in _STEMS) else ():
        if len(match[1]) < _SHORTEST and not _FOR_PEOPLE.match(match[0]):
            continue  # of a language model, say
        end = match.end(1)
        if text[end - 1] in ".:" and text[end : end + 1] in ("", " ", "\n"):
            end -= 1  # of the sentence
        yield from _password(match.start(1), end, text)
    if name and not text.isspace() and len(text) <= 80 and _ASKED.fullmatch(f"{name}={text}"):
        yield from _password(0, len(text), text)


def _password(start: int, end: int, text: str) -> Iterator[Found]:
    value = text[start:end]
    has_letter, has_digit = any(c.isalpha() for c in value), any(c.isdigit() for c in value)
    if has_letter and has_digit and len(value) >= 6 and not _CODE.search(value):
        yield from _one(start, end, "password", text)


def _one(start: int, end: int, kind: str, text: str) -> Iterator[Found]:
    value = text[start:end]
    if MARK not in value and value.strip():
        yield Found(start, end, kind, value, value)


@lru_cache(1)
def _shapes() -> list[re.Pattern[str]]:
    from importlib import import_module

    listed = []
    for place in PLUGINS:
        module, name = place.split(":")
        plugin = getattr(import_module(f"detect_secrets.plugins.{module}"), name)()
        listed += [p if isinstance(p, re.Pattern) else re.compile(p) for p in plugin.denylist]
    return [*listed, *_SHAPES]
