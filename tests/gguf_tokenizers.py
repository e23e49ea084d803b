"""Small tokenizers of every kind that a GGUF file carries, trained here."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXT = [
    "The cat sat on the mat, and the dog didn't; it's 1234 o'clock (or 56.78?) at the café naïve.",
    "what is a colour and why is it so?   Three   blanks\n\nand two lines\n\tTabbed: don't WE'LL you're I'd",
    "Größe über Straße 日本語 テキスト 한국어 привет 🙂 x = y ** 2; return {'a': [1, 2, 3]}",
] * 3
SPECIAL = ["<unk>", "<s>", "</s>", "<|turn|>"]


def _bytes(steps, ignore_merges=False, normalizer=None, bos=False):
    backend = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    backend.decoder = decoders.ByteLevel()
    if normalizer:
        backend.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXT, trainer)
    backend.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", additional_special_tokens=["<|turn|>"])  # fmt: skip


def _pieces(prefix):
    """As SentencePiece's: every way to make a piece is a merge, ranked by the piece."""
    words = [word for text in TEXT for word in text.replace(" ", " ▁").split(" ")]
    pieces = [
        *SPECIAL,
        *(f"<0x{i:02X}>" for i in range(256)),
        *sorted({letter for word in words for letter in word} - {"\n", "\t"} | {"▁"}),
    ]
    made = sorted(
        {word[i:j] for word in words for i in range(len(word)) for j in range(i + 2, min(i + 6, len(word)) + 1)},
        key=lambda p: (len(p), p),
    )
    pieces += [piece for piece in made[::3] if "\n" not in piece and "\t" not in piece]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    # a piece that cannot be made from two others would never be found by merges
    while True:
        short = [p for p in vocabulary if len(p) > 1 and not p.startswith("<") and not any(p[:i] in vocabulary and p[i:] in vocabulary for i in range(1, len(p)))]  # fmt: skip
        if not short:
            break
        vocabulary = {p: i for i, p in enumerate(p for p in vocabulary if p not in short)}
    merges = [(p[:i], p[i:]) for p in vocabulary if len(p) > 1 and not p.startswith("<") for i in range(1, len(p)) if p[:i] in vocabulary and p[i:] in vocabulary]  # fmt: skip
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    blanks = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), blanks]) if prefix else blanks
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", additional_special_tokens=["<|turn|>"])  # fmt: skip


def build():
    """Name llama.cpp has for how each splits -> tokenizer."""
    byte, whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), pre_tokenizers.ByteLevel(add_prefix_space=False)  # fmt: skip
    threes, ones = (pre_tokenizers.Split(Regex(LETTERS + digits + REST), "isolated") for digits in (r"\p{N}{1,3}", r"\p{N}"))  # fmt: skip
    return {
        "gpt-2": _bytes([whole]),
        "smollm": _bytes([pre_tokenizers.Digits(individual_digits=True), whole]),
        "llama-bpe": _bytes([threes, byte], ignore_merges=True, bos=True),
        "smaug-bpe": _bytes([threes, byte]),
        "qwen2": _bytes([ones, byte], normalizer=normalizers.NFC()),
        "gemma": _pieces(prefix=False),
        "llama": _pieces(prefix=True),
    }
