"""Several teachers: a mixture is the mean of distributions, and routing gives what each part would give alone."""

import gc
import weakref

import datasets
import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from white_box_runs import OBJECTIVES, trainer

from distill import AttentionMaps, HiddenStates, Logits, Schedule
from distill.objectives import divergences
from distill.pairs.collate import EMPTY, supervised_rows
from distill.signals import (
    HeadTap,
    LiveTeacher,
    LogitTransform,
    Mixture,
    ModelFacts,
    Routed,
    SelfTeacher,
    SignalRequest,
    Signals,
    SignalSource,
    SupervisedRows,
    sources,
)
from distill.teachers import LocalTeacher

WIDE = {"hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}


def routed_pairs(count=8):
    """Every third pair is of the other teacher."""
    pairs = build_pairs(count)
    return pairs.add_column("domain", ["chat" if i % 3 == 2 else "maths" for i in range(count)])


def gradients_of(run, batch):
    run.model.zero_grad()
    run.terms.zero_grad()
    loss = run.compute_loss(run.model, dict(batch))
    loss.backward()
    named = [*run.model.named_parameters(), *run.terms.named_parameters()]
    return loss.detach(), {name: p.grad.clone() for name, p in named if p.grad is not None}


def one_batch(run, rows):
    return run.data_collator([run.train_dataset[i] for i in rows])


@pytest.mark.parametrize("objectives", [[Logits()], [Logits("reverse_kl", temperature=2.0, cross_entropy=0.5)]])
def test_a_mixture_of_one_is_the_one(arguments, objectives):
    results = []
    for teacher in (build_model(seed=1), Mixture([build_model(seed=1)], weights=[3.0])):
        run = trainer(arguments, objectives, teacher=teacher)
        results.append(gradients_of(run, one_batch(run, range(4))))
    (loss, gradients), (other, others) = results
    assert torch.equal(loss, other)
    assert all(torch.equal(gradients[name], others[name]) for name in gradients)


@pytest.mark.parametrize("name", divergences.NAMES)
@pytest.mark.parametrize("streamed", [True, False])
def test_a_mixture_is_the_mean_of_the_distributions(arguments, name, streamed):
    """Against log(sum of w p) written out, in value and gradient; the mean of logits is something else."""
    teachers, weights = [build_model(seed=1), build_model(3, seed=2, **WIDE)], [0.25, 0.75]
    if not streamed:
        for model in teachers:
            model.get_output_embeddings().register_forward_hook(lambda *_: None)  # no plain product any more
    run = trainer(arguments, [Logits(name, temperature=1.5)], teacher=Mixture(teachers, weights))
    assert (run.terms[0].transforms is not None) == streamed
    batch = one_batch(run, range(5))
    loss, gradients = gradients_of(run, batch)
    rows, inputs = supervised_rows(batch["labels"]), {n: batch[n] for n in ("input_ids", "attention_mask")}
    naive = build_model(seed=7)
    with torch.no_grad():
        logits = [model(**inputs).logits[rows] for model in teachers]
    mixed = sum(w * one.softmax(-1) for w, one in zip(weights, logits, strict=True)).log()
    divergence = divergences.by_name(name)
    expected = divergence(naive(**inputs).logits[rows], mixed, temperature=1.5).mean() * 1.5**2
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-4, atol=1e-6)
    for key, p in naive.named_parameters():
        torch.testing.assert_close(gradients[key], p.grad, rtol=1e-3, atol=1e-6, msg=key)
    product = sum(w * one for w, one in zip(weights, logits, strict=True)).log_softmax(-1)
    assert (product - mixed).abs().max() > 0.05, "the mean of the logits is another teacher"


def test_a_mixture_is_a_distribution_and_nothing_else(arguments):
    models = [build_model(seed=1), build_model(seed=2)]
    with pytest.raises(
        ValueError, match="A mixture of LlamaForCausalLM, LlamaForCausalLM gives next-token distributions"
    ):
        trainer(arguments, [HiddenStates()], teacher=Mixture(models))
    with pytest.raises(ValueError, match="gives next-token distributions and no attention"):
        trainer(arguments, [AttentionMaps()], teacher=Mixture(models))
    with pytest.raises(ValueError, match="head has 320 tokens and the teacher's 384"):
        trainer(arguments, [Logits()], teacher=Mixture([models[0], build_model(seed=2, vocab_size=384)]))
    with pytest.raises(ValueError, match="2 teachers and the weights"):
        Mixture(models, weights=[1.0, 0.0])
    with pytest.raises(ValueError, match="0 teachers"):
        Mixture([])
    with pytest.raises(ValueError, match="give the inner teachers themselves"):
        trainer(arguments, [Logits()], teacher=Mixture([Mixture(models), models[0]]))


def routed(**changes):
    return Routed({"maths": build_model(seed=1), "chat": build_model(3, seed=2, **WIDE)} | changes, column="domain")


@pytest.mark.parametrize("name", ["logits", "logits_and_labels", "hidden", "cka", "relations", "several"])
@pytest.mark.parametrize("packed", [False, True])
def test_routing_is_training_on_each_part_by_gradient_sums(arguments, name, packed):
    """Teachers of other depth, width and heads; in packed rows, documents of both share a row."""
    if packed and name == "cka":
        pytest.skip("no CKA in packed rows")
    makes = {**OBJECTIVES, "several": lambda: [Logits(), HiddenStates(distance="cosine", weight=0.3)]}[name]
    pairs = routed_pairs()
    torch.manual_seed(0)  # of the projections
    run = trainer(arguments, makes(), teacher=routed(), pairs=pairs)
    items = [pairs[i] for i in range(len(pairs))]
    batch = run.data_collator([items[:4], items[4:]] if packed else items)
    loss, gradients = gradients_of(run, batch)
    total, sums, rows = 0.0, {}, 0
    for value, source in run.source.sources.items():
        mine = [item for item in items if item["domain"] == value]
        alone = trainer(arguments, makes(), teacher=source.facts.model, pairs=pairs)
        for term, theirs in zip(alone.terms, run.terms, strict=True):
            term.load_state_dict(theirs.terms[theirs.names.index(value)].state_dict())
        part = alone.data_collator([mine[:2], mine[2:]] if packed else mine)
        count = int(supervised_rows(part["labels"]).sum())
        value_of_part, found = gradients_of(alone, part)
        total, rows = total + value_of_part * count, rows + count
        for key, gradient in found.items():
            if key in dict(run.model.named_parameters()):
                sums[key] = sums.get(key, 0) + gradient * count
    torch.testing.assert_close(loss, total / rows, rtol=1e-4, atol=1e-6)
    for key, gradient in sums.items():
        torch.testing.assert_close(gradients[key], gradient / rows, rtol=2e-3, atol=2e-6, msg=key)


def test_a_teacher_runs_on_its_rows_only(arguments):
    run, seen = trainer(arguments, [Logits()], teacher=routed(), pairs=routed_pairs()), {}
    for value, source in run.source.sources.items():
        source.facts.model.register_forward_pre_hook(
            lambda module, args, kwargs, value=value: seen.setdefault(value, []).append(len(kwargs["input_ids"])),
            with_kwargs=True,
        )
    gradients_of(run, one_batch(run, range(8)))
    assert seen == {"maths": [6], "chat": [2]}
    seen.clear()
    gradients_of(run, one_batch(run, (0, 1)))
    assert seen == {"maths": [2]}


def test_projections_of_a_teacher_without_rows_have_a_gradient_of_zero(arguments):
    """In several processes all of them are averaged, and one may have no rows of a teacher."""
    run = trainer(arguments, [HiddenStates()], teacher=routed(), pairs=routed_pairs())
    _, gradients = gradients_of(run, one_batch(run, (0, 1)))
    learned = {name: gradients[name] for name, _ in run.terms.named_parameters()}
    assert learned
    assert all(not g.any() for g in learned.values())
    _, gradients = gradients_of(run, one_batch(run, (2,)))
    assert all(gradients[name].any() for name in learned)


def test_the_student_itself_may_be_one_of_them(arguments):
    from distill.models.adapters import lora_config

    pytest.importorskip("peft")
    run = trainer(
        arguments, [Logits()], teacher=Routed({"maths": build_model(seed=1), "chat": SelfTeacher()}, column="domain"),
        pairs=routed_pairs(), peft_config=lora_config(4), max_steps=2,
    )  # fmt: skip
    own, _ = gradients_of(run, one_batch(run, (2, 5)))
    assert own == 0, "a fresh adapter is its own teacher"
    assert gradients_of(run, one_batch(run, (0, 2)))[0] > 1e-2
    run.train()


def test_a_run_trains_evaluates_and_knows_its_teachers(arguments):
    run = trainer(
        arguments, [Logits(), HiddenStates(weight=0.1)], teacher=routed(), pairs=routed_pairs(), eval_pairs=routed_pairs(6),
        max_steps=12, learning_rate=5e-3,
    )  # fmt: skip
    before = run.evaluate()
    run.train()
    after = run.evaluate()
    assert after["eval_logits"] < before["eval_logits"]
    assert after["eval_hidden"] < before["eval_hidden"]
    told = run.identity()["teacher"]
    assert told["by"] == "domain"
    assert told["teachers"]["'maths'"] != told["teachers"]["'chat'"]


def test_a_mapping_and_the_name_of_a_column_say_the_same(arguments):
    teachers = {"maths": build_model(seed=1), "chat": build_model(3, seed=2, **WIDE)}
    losses = [
        gradients_of(run, one_batch(run, range(8)))[0]
        for run in (
            trainer(arguments, [Logits()], teacher=teachers, route_by="domain", pairs=routed_pairs()),
            trainer(arguments, [Logits()], teacher=routed(), pairs=routed_pairs()),
        )
    ]
    assert torch.equal(*losses)


def test_what_has_no_teacher_is_refused(arguments):
    law = build_pairs(4).add_column("domain", ["maths", "chat", "law", "maths"])
    with pytest.raises(
        ValueError,
        match=r"train_dataset, row 2: its 'domain' is 'law', for which there is no teacher \(there are 'maths'",
    ):
        trainer(arguments, [Logits()], teacher=routed(), pairs=law)
    with pytest.raises(ValueError, match="has no column domain, which the teacher reads"):
        trainer(arguments, [Logits()], teacher=routed(), pairs=build_pairs(4))
    with pytest.raises(ValueError, match="row 1: its 'domain' is None"):
        trainer(arguments, [Logits()], teacher=routed(), pairs=build_pairs(2).add_column("domain", ["maths", None]))
    with pytest.raises(ValueError, match=r"several teachers by name.*route_by=.*Mixture\("):
        trainer(arguments, [Logits()], teacher={"maths": build_model(seed=1)}, pairs=routed_pairs())
    with pytest.raises(ValueError, match="route_by is 'domain', but there is one teacher"):
        trainer(arguments, [Logits()], route_by="domain", pairs=routed_pairs())
    with pytest.raises(ValueError, match="There are no teachers to choose from"):
        Routed({}, column="domain")
    rows = [dict(row) for row in routed_pairs(4)]
    rows[1]["domain"] = "law"
    with pytest.raises(ValueError, match=r"train_dataset, row 1: its 'domain' is 'law'"):
        trainer(arguments, [Logits()], teacher=routed(), pairs=rows)
    stream = datasets.Dataset.from_list(rows).to_iterable_dataset()
    run = trainer(arguments, [Logits()], teacher=routed(), pairs=stream, max_steps=1)
    with pytest.raises(
        ValueError, match=rf"Pair {rows[1]['id']}: its 'domain' is 'law', for which there is no teacher"
    ):
        gradients_of(run, run.data_collator(rows))
    lists = build_pairs(2).add_column("domain", [["maths"], ["chat"]])
    with pytest.raises(ValueError, match=r"its 'domain' is \['maths'\]"):
        trainer(arguments, [Logits()], teacher=routed(), pairs=lists)
    with pytest.raises(ValueError, match="is routed itself"):
        trainer(
            arguments,
            [Logits()],
            teacher=Routed({"maths": routed()}, column="domain"),
            pairs=build_pairs(4).add_column("domain", ["maths"] * 4),
        )
    for wrong in ("my/one", {"a": 1}):
        with pytest.raises(ValueError, match="a mixture takes a list of teachers"):
            Mixture(wrong)


def test_values_of_any_kind_route(arguments):
    """Booleans, and numbers of a dataset whose format makes tensors of them."""
    teachers = {True: build_model(seed=1), False: build_model(3, seed=2, **WIDE)}
    pairs = build_pairs(8).add_column("domain", [i % 3 != 2 for i in range(8)])
    for given in (pairs, pairs.with_format("torch", columns=["domain"], output_all_columns=True)):
        run = trainer(arguments, [Logits()], teacher=teachers, route_by="domain", pairs=given)
        other = trainer(arguments, [Logits()], teacher=routed(), pairs=routed_pairs())
        batch, wanted = (
            one.data_collator([rows[i] for i in range(8)]) for one, rows in ((run, pairs), (other, routed_pairs()))
        )
        assert torch.equal(gradients_of(run, batch)[0], gradients_of(other, wanted)[0])


def test_each_teacher_has_its_own_limits(arguments):
    """A short teacher refuses its rows and not those of the long one; in a mixture all rows are shown to both."""
    short = build_model(seed=2, max_position_embeddings=16)
    pairs = build_pairs(8)
    longest = max(range(8), key=lambda i: len(pairs[i]["prompt_ids"]) + len(pairs[i]["completion_ids"]))
    pairs = pairs.add_column("domain", ["chat" if i == longest else "maths" for i in range(8)])
    assert len(pairs[longest]["prompt_ids"]) + len(pairs[longest]["completion_ids"]) > 16
    with pytest.raises(
        ValueError, match=r"train_dataset of domain='chat'.*the teacher of domain='chat' has 16 positions"
    ):
        trainer(arguments, [Logits()], teacher=routed(chat=short), pairs=pairs)
    other = (longest + 1) % 8
    fits = pairs.select(
        [i for i in range(8) if len(pairs[i]["prompt_ids"]) + len(pairs[i]["completion_ids"]) <= 16 or i == longest]
    )
    fits = fits.remove_columns("domain").add_column(
        "domain", ["maths" if r["id"] == pairs[longest]["id"] else "chat" for r in fits]
    )
    assert {"maths", "chat"} == set(fits["domain"]), other
    run = trainer(arguments, [Logits()], teacher=routed(chat=short), pairs=fits)
    gradients_of(run, run.data_collator(list(fits)))
    with pytest.raises(ValueError, match="the teacher has 16 positions"):
        trainer(arguments, [Logits()], teacher=Mixture([build_model(seed=1), short]), pairs=pairs)


def test_a_batch_without_loss_has_the_names_and_the_graph_of_any_other(arguments):
    """In several processes their sums are added by name; a stream is filled up with such rows."""
    run = trainer(arguments, [Logits(cross_entropy=0.5), HiddenStates()], teacher=routed(), pairs=routed_pairs())
    names = []
    for rows in ([EMPTY, EMPTY], [run.train_dataset[0], EMPTY], [run.train_dataset[2]]):
        run._sums._train.clear()
        loss, _ = gradients_of(run, run.data_collator(rows))
        assert (loss == 0) == (rows[0] is EMPTY)
        names.append(list(run._sums._train))
    assert names[0] == names[1] == names[2]
    stream = routed_pairs(6).to_iterable_dataset()
    run = trainer(
        arguments,
        [Logits()],
        teacher=routed(),
        pairs=stream,
        max_steps=2,
        gradient_accumulation_steps=4,
        per_device_train_batch_size=1,
    )
    run.train()


def test_an_objective_whose_weight_begins_at_0(arguments):
    for teacher in (routed(), Mixture([build_model(seed=1), build_model(seed=2)])):
        run = trainer(
            arguments,
            [Logits(weight=Schedule(0.0, 1.0))],
            teacher=teacher,
            pairs=routed_pairs(),
            max_steps=3,
            logging_steps=10,
        )
        run.train()


def test_the_order_of_teachers_plays_no_part(arguments, tmp_path):
    """A projection goes on with its own teacher, however the mapping is written."""
    teachers = {"maths": build_model(seed=1, **WIDE), "chat": build_model(seed=2, **WIDE)}
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "output_dir": str(tmp_path / "run")}
    whole, again = (
        trainer(arguments, [HiddenStates()], teacher=given, route_by="domain", pairs=routed_pairs(), **settings)
        for given in (teachers, dict(reversed(teachers.items())))
    )
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))


def test_a_source_given_to_two_trainers_is_prepared_for_each(arguments):
    pytest.importorskip("peft")
    from distill.models.adapters import lora_config

    source = SelfTeacher()
    first, second = (
        trainer(arguments, [Logits()], student=build_model(seed=seed), teacher=source, peft_config=lora_config(4))
        for seed in (7, 8)
    )
    for run in (first, second):
        assert gradients_of(run, one_batch(run, range(4)))[0] == 0
    student = build_model(seed=7)
    with pytest.raises(ValueError, match="The teacher is the student itself"):
        trainer(arguments, [Logits()], student=student, teacher=LiveTeacher(student))


def test_weights_that_all_processes_must_have_cannot_be_routed_to(arguments):
    class Divided(LiveTeacher):
        def prepare(self, student, device):
            super().prepare(student, device)
            self.together = True

    for chat in (Divided(build_model(seed=2)), Mixture([build_model(seed=1), Divided(build_model(seed=2))])):
        with pytest.raises(ValueError, match="divided over processes, so it runs in all of them at once"):
            trainer(arguments, [Logits()], teacher=routed(chat=chat), pairs=routed_pairs())


def test_a_mixture_gives_whatever_is_asked_of_distributions(arguments):
    """An objective of one's own may want the logits themselves, beside one that streams them."""
    teachers = [build_model(seed=1), build_model(seed=2)]
    run = trainer(arguments, [Logits()], teacher=Mixture(teachers))
    batch = one_batch(run, range(3))
    rows = SupervisedRows.of(supervised_rows(batch["labels"]))
    both = run.source.signals(batch, rows, SignalRequest(logits=True, head=run.terms[0].transforms[1]))
    assert both.mixed is not None
    with torch.no_grad():
        logits = [
            model(**{n: batch[n] for n in ("input_ids", "attention_mask")}).logits[rows.mask] for model in teachers
        ]
    torch.testing.assert_close(
        both.logits, (logits[0].softmax(-1) / 2 + logits[1].softmax(-1) / 2).log(), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="neither hidden states nor attention"):
        run.source.signals(batch, rows, SignalRequest(hidden=frozenset({0})))


def test_heads_padded_to_other_sizes_are_mixed_over_what_all_have(arguments):
    tokenizer = build_tokenizer()
    teachers = [
        LocalTeacher(build_model(seed=1), tokenizer),
        LocalTeacher(build_model(seed=2, vocab_size=384), tokenizer),
    ]
    losses = []
    for hooked in (False, True):
        if hooked:
            teachers[0].model.get_output_embeddings().register_forward_hook(lambda *_: None)
        run = trainer(arguments, [Logits()], teacher=Mixture(teachers))
        losses.append(gradients_of(run, one_batch(run, range(4)))[0])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["logits", "relations"])
def test_nothing_of_routed_teachers_is_kept_for_the_backward_pass(arguments, name, monkeypatch):
    given, plain = [], sources.run_with_taps

    def watched(forward, model, *args):
        signals = plain(forward, model, *args)
        tensors = [part for tap in signals.attention.values() for part in (tap.query, tap.key)]
        tensors += [signals.head.hidden] if signals.head else []
        given.extend(weakref.ref(t.untyped_storage()) for t in tensors)
        return signals

    monkeypatch.setattr(sources, "run_with_taps", watched)
    run = trainer(arguments, OBJECTIVES[name](), teacher=routed(), pairs=routed_pairs())
    loss = run.compute_loss(run.model, one_batch(run, range(8)))
    gc.collect()
    assert given
    assert not [ref for ref in given if ref() is not None]
    loss.backward()


def test_a_source_of_ones_own_is_a_subclass(arguments):
    class Half:
        facts = None

        def signals(self, batch, rows, request):
            return None

    with pytest.raises(
        ValueError,
        match=r"Half has signals\(\), but not any_text, check, columns.*subclass of distill.signals.SignalSource",
    ):
        trainer(arguments, [Logits()], teacher=Half())

    class Own(SignalSource):
        """Says the same of every position."""

        def __init__(self, model):
            self.model, self.facts = model, ModelFacts(model)

        def signals(self, batch, rows, request):
            logits = torch.zeros(len(rows), 320)
            return Signals(
                rows=rows.mask,
                supervised=rows,
                head=HeadTap(
                    torch.zeros(len(rows), 32), self.model.lm_head.weight, None, LogitTransform(), logits.dtype
                ),
            )

    run = trainer(arguments, [Logits()], teacher=Own(build_model(seed=1)), max_steps=2)
    run.train()
    assert run.identity()["teacher"].endswith("Own")
