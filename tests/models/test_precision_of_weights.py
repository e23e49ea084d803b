"""A model with its weights in another precision: nothing else of it changes."""

import torch
from conftest import build_model

from distill.models.precision import weights_in


def test_weights_change_and_buffers_stay():
    model = build_model()
    made = weights_in(model, torch.bfloat16)
    assert {p.dtype for p in made.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    frequencies = {name: b for name, b in model.named_buffers() if "inv_freq" in name}
    assert frequencies
    for name, kept in made.named_buffers():
        if name in frequencies:
            assert torch.equal(kept, frequencies[name])


def test_packed_weights_stay_what_they_are():
    model = build_model()
    packed = torch.arange(12, dtype=torch.uint8)[:, None]  # as bitsandbytes packs two weights a byte
    model.register_parameter("packed", torch.nn.Parameter(packed, requires_grad=False))
    made = weights_in(model, torch.bfloat16)
    assert torch.equal(made.packed, packed)
    assert made.get_input_embeddings().weight.dtype == torch.bfloat16
