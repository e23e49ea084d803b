"""Vectors beside words: any encoder, both lists fused."""

import json

import numpy as np
import pytest
from conftest import build_model, build_tokenizer

from distill.retrieval import Document, Encoder, Index

pytest.importorskip("lancedb")
TEXTS = ["the cat sat", "a dog ran", "why so", "the cat", "so"]


def encoder(name="tiny", **more):
    return Encoder(build_model().base_model, build_tokenizer(), name=name, **more)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_a_vector_does_not_depend_on_its_batch(pooling):
    alone = [encoder(pooling=pooling).encode([text], is_query=False)[0] for text in TEXTS]
    together = encoder(pooling=pooling, batch_size=3).encode(TEXTS, is_query=False)
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    prefixed = encoder(pooling="mean", query="why so ").encode(["the cat"], is_query=True)
    np.testing.assert_allclose(prefixed, encoder().encode(["why so the cat"], is_query=False), atol=1e-5)
    assert encoder(max_length=2).encode([TEXTS[0] * 50], is_query=False).shape == (1, together.shape[1])


def test_words_and_vectors_are_fused(tmp_path):
    with Index(tmp_path / "i", encoder=encoder()) as index:
        index.update([Document(text, text, text) for text in TEXTS])
        both = index.search("the cat sat", 5)
        assert both[0].document == "the cat sat"
        assert both[0].score == pytest.approx(2 / 61), "first in both lists"
        assert len(both) == 5, "with vectors there is always a nearest one"
        nearest = index.search("?!", 5)
        query = encoder().encode(["?!"], is_query=True)[0]
        wanted = sorted(TEXTS, key=lambda text: -float(encoder().encode([text], is_query=False)[0] @ query))
        assert [passage.document for passage in nearest] == wanted
        index.update(Document("so", "a dog ran", "so"))
        assert {passage.document for passage in index.search("a dog ran", 2)} == {"so", "a dog ran"}
        index.remove(["so"])
        assert len(index.search("so", 9)) == 4


def test_the_encoder_is_that_of_the_index(tmp_path):
    Index(tmp_path / "i", encoder=encoder()).close()
    with pytest.raises(ValueError, match="made with encoder 'tiny', and 'other' is asked for"):
        Index(tmp_path / "i", encoder=encoder("other"))
    with pytest.raises(ValueError, match="cannot be loaded; give it with encoder="):
        Index(tmp_path / "i", encoder=None)
    Index(tmp_path / "words").close()
    with pytest.raises(ValueError, match="made with encoder None, and 'tiny' is asked for"):
        Index(tmp_path / "words", encoder=encoder())
    with pytest.raises(ValueError, match="encoder is a int"):
        Index(tmp_path / "n", encoder=3)
    for bad, said in (
        (lambda: Encoder(build_model()), "its tokenizer and a name"),
        (lambda: encoder(pooling="max"), "one of mean"),
    ):
        with pytest.raises(ValueError, match=said):
            bad()


def test_a_folder_is_an_encoder_by_name(tmp_path):
    build_model().save_pretrained(tmp_path / "m")
    build_tokenizer().save_pretrained(tmp_path / "m")
    with Index(tmp_path / "i", encoder=str(tmp_path / "m")) as index:
        index.update([Document(text, text, text) for text in TEXTS])
    with Index(tmp_path / "i") as again:
        assert again.search("the cat sat", 1)[0].document == "the cat sat"


def test_an_index_is_opened_with_the_pooling_and_the_prefixes_that_it_was_made_with(tmp_path, capsys):
    build_model().save_pretrained(tmp_path / "m")
    build_tokenizer().save_pretrained(tmp_path / "m")
    name, query = str(tmp_path / "m"), "?! mat"
    made = Encoder(name, pooling="cls", query="why so ", passage="a dog ", max_length=16)
    with Index(tmp_path / "i", encoder=made) as index:
        index.update([Document(text, text, text) for text in TEXTS])
        wanted = [(one.document, one.score) for one in index.search(query, 5)]
    for given in (None, name):
        with Index(tmp_path / "i", encoder=given) as again:
            assert again._encoder.settings == made.settings
            assert [(one.document, one.score) for one in again.search(query, 5)] == wanted
    for other, said in (
        (Encoder(name), "pooling 'cls', and 'mean'"),
        (Encoder(name, pooling="cls", passage="a dog ", max_length=16), "query 'why so ', and ''"),
        (Encoder(name, pooling="cls", query="why so ", passage="a dog "), "max_length 16, and"),
    ):
        with pytest.raises(ValueError, match=said):
            Index(tmp_path / "i", encoder=other)
    # an index of before says nothing of it: what is taken instead is told
    path = tmp_path / "i" / "index.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "pooling"}))
    Index(tmp_path / "i").close()
    assert "does not say its encoder's pooling; taken are" in capsys.readouterr().err
