"""Captures of a tiny teacher, for the tests of stored signals; and what the tests of several processes run in each of them."""

import time

import torch
from conftest import build_model, build_pairs, build_tokenizer

from distill.basics import processes
from distill.pairs.collate import PairCollator, supervised_rows
from distill.signals import SignalRequest, SupervisedRows, capture, probe_head, run_with_taps, shard_writer
from distill.signals.shard_index import ShardIndex
from distill.teachers import LocalTeacher


def teacher(**changes):
    return LocalTeacher(build_model(**changes), build_tokenizer(), name="tiny")


def captured(output, pairs=None, asked=None, **changes):
    return capture(
        asked or teacher(), build_pairs(30) if pairs is None else pairs, output=output, progress=False, **changes
    )


def small_shards(size=2000):
    """Shards of a few rows, as a test can make many of."""
    shard_writer.SHARD_BYTES = size


def contents(folder):
    """What each key of a folder holds: positions and bytes."""
    index = ShardIndex(folder)
    rows = list(range(len(index)))
    halves = zip(index._high.tolist(), index._low.tolist(), strict=True)
    keys = [b"".join(half.to_bytes(8, "little") for half in both) for both in halves]
    found = index.blobs(rows, [""] * len(rows))
    return {key: (int(n), blob.tobytes()) for key, n, blob in zip(keys, index.positions, found, strict=True)}


def batch_of(items, **settings):
    """A batch of pairs (or of bins of pairs) that says which documents it has, and where its supervised positions are."""
    batch = PairCollator(build_tokenizer(), documents=True, **settings)(items)
    labels = batch.pop("labels")
    return batch, SupervisedRows.of(supervised_rows(labels))


def positions_of(pair, max_length=None):
    labels = PairCollator(build_tokenizer(), max_length=max_length)([pair])["labels"]
    return int(supervised_rows(labels).sum())


def live(model, batch, where):
    """What the teacher itself says: the head's input, and the logits."""
    inputs = {name: value for name, value in batch.items() if name not in ("documents", "ids")}
    with torch.no_grad():
        return run_with_taps(model, model, inputs, where, SignalRequest(head=probe_head(model), logits=True))


def share_of_a_capture(output, count=30, batch_tokens=8192):
    """In each of several processes."""
    processes.meet()
    small_shards()
    found = captured(output, build_pairs(count), share=True, batch_tokens=batch_tokens)
    return len(found)


ENDLESS = 600  # pairs: more than a test waits for


def endless(output):
    """A capture that writes a shard of a few rows again and again, for some seconds."""
    small_shards(1)
    usual = shard_writer.write_shard

    def slowly(*of_a_shard):
        time.sleep(0.02)
        usual(*of_a_shard)

    shard_writer.write_shard = slowly
    captured(output, build_pairs(ENDLESS), batch_tokens=40)
