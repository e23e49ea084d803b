"""Models: loaded by name, embedded in a package, cut from a teacher, with adapters, in fewer bits.

Nothing here trains. A student is cut by `students`, an adapter put on and taken off by `adapters`.
"""

from typing import TYPE_CHECKING

from distill.basics.lazy import lazy_names

if TYPE_CHECKING:
    from distill.models.adapters import lora_config, merged, save_model
    from distill.models.embedded import EMBEDDED, fetch_embedded
    from distill.models.load import fast_dtype, load_model
    from distill.models.quantising import in_bits
    from distill.models.students import make_student
    from distill.models.tokenizer import load_tokenizer

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

# A tokenizer does not wait for torch.
__getattr__ = lazy_names(
    __name__,
    {
        "EMBEDDED": "distill.models.embedded",
        "fast_dtype": "distill.models.load",
        "fetch_embedded": "distill.models.embedded",
        "in_bits": "distill.models.quantising",
        "load_model": "distill.models.load",
        "load_tokenizer": "distill.models.tokenizer",
        "lora_config": "distill.models.adapters",
        "make_student": "distill.models.students",
        "merged": "distill.models.adapters",
        "save_model": "distill.models.adapters",
    },
)
