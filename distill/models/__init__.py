"""Models: loaded by name, embedded in a package, cut from a teacher, with adapters, in fewer bits.

Nothing here trains. A student is cut by `students`, an adapter put on and taken off by `adapters`.
"""

from distill.models.adapters import lora_config, merged, save_model
from distill.models.embedded import EMBEDDED, fetch_embedded
from distill.models.load import fast_dtype, load_model, load_tokenizer
from distill.models.quantising import in_bits
from distill.models.students import make_student

__all__ = [
    "EMBEDDED",
    "fast_dtype",
    "fetch_embedded",
    "in_bits",
    "load_model",
    "load_tokenizer",
    "lora_config",
    "make_student",
    "merged",
    "save_model",
]
