"""Objectives are settings that never change; a term is one of them bound to two models, and gives one number a row."""

import dataclasses

import pytest
import torch
from conftest import batch, build_model, signals_of
from white_box_runs import trainer, weights_of

from distill import AttentionMaps, HiddenStates, Logits
from distill.objectives import Objective, Term
from distill.objectives.base import values_of
from distill.signals import SignalRequest


@pytest.mark.parametrize("objective", [Logits(), HiddenStates(), AttentionMaps()])
def test_binding_leaves_the_settings_as_they_are(objective):
    before = dataclasses.replace(objective)
    student, teacher = build_model(hidden_size=16, num_attention_heads=4, seed=7), build_model(seed=1)
    terms = [objective.bind(student, teacher), objective.bind(build_model(seed=7), teacher)]
    assert objective == before
    assert terms[0] is not terms[1]
    assert all(term.objective is objective for term in terms)
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.weight = 2.0


def test_two_of_one_kind_stand_side_by_side_under_names_of_their_own(arguments):
    """Their sum is one of twice the weight, in value and in every weight after a step."""
    halves = [HiddenStates("last", weight=0.25), HiddenStates("last", weight=0.25, name="again")]
    both = trainer(arguments, [Logits(), *halves], max_steps=2)
    one = trainer(arguments, [Logits(), HiddenStates("last", weight=0.5)], max_steps=2)
    both.train()
    one.train()
    logged = [entry for entry in both.state.log_history if "loss" in entry]
    assert all(entry["hidden"] == entry["again"] for entry in logged)
    for name, weight in weights_of(one).items():
        torch.testing.assert_close(weights_of(both)[name], weight, rtol=1e-5, atol=1e-7)


def test_what_two_terms_show_beside_themselves_has_names_of_its_own(arguments):
    objectives = [Logits(cross_entropy=0.5), Logits("reverse_kl", cross_entropy=0.1, name="backwards")]
    run = trainer(arguments, objectives, max_steps=1)
    run.train()
    logged = run.state.log_history[0]
    assert {"logits", "divergence", "cross_entropy", "backwards", "backwards_divergence"} <= logged.keys()
    assert logged["cross_entropy"] == pytest.approx(logged["backwards_cross_entropy"])


def test_two_of_one_name_are_refused_with_the_way_out(arguments):
    with pytest.raises(ValueError, match=r"\['hidden', 'hidden'\].*a name= of its own"):
        trainer(arguments, [HiddenStates(), HiddenStates("last")])


@pytest.mark.parametrize("name", ["loss", "two words", "a.b", "1st", "grad_norm"])
def test_a_name_that_a_log_or_a_file_could_not_have(name):
    with pytest.raises(ValueError, match="must be a word of letters"):
        Logits(name=name)


@dataclasses.dataclass(frozen=True)
class Constant(Objective):
    """Gives what it is told to, whatever the batch."""

    kind = "constant"
    shape: tuple = ()

    def bind(self, student, teacher, **how):
        return ConstantTerm(self)


class ConstantTerm(Term):
    def __init__(self, objective):
        super().__init__(objective)
        self.student_request = self.teacher_request = SignalRequest(hidden=frozenset({0}))

    def forward(self, student, teacher):
        return student.hidden[0].sum() * torch.ones(self.objective.shape)


@pytest.mark.parametrize("shape", [(), (1,), (3, 2)])
def test_a_term_that_is_no_number_a_row_is_refused(arguments, shape):
    """A mean was once taken as it came and divided by the rows once more."""
    run = trainer(arguments, [Constant(shape=shape)], max_steps=1)
    with pytest.raises(
        ValueError, match=r"'constant' of ConstantTerm has the shape \[.*one number for each of the \d+"
    ):
        run.train()


def test_a_term_that_leaves_its_own_name_out_is_refused():
    class Nameless(ConstantTerm):
        def forward(self, student, teacher):
            return {"other": student.hidden[0].sum(-1)}

    student, teacher, (inputs, rows) = build_model(seed=7), build_model(seed=1), batch()
    term = Nameless(Constant())
    with pytest.raises(ValueError, match=r"'constant' \(Nameless\) gave other, and not its own name"):
        values_of(term, *signals_of(term, student, teacher, inputs, rows), int(rows.sum()))


@pytest.mark.parametrize(
    "objectives",
    [
        [HiddenStates(name="divergence"), Logits(cross_entropy=0.5)],
        [Logits(cross_entropy=0.5), HiddenStates(name="divergence")],
        [Logits(cross_entropy=0.5, name="soft"), HiddenStates(name="soft_divergence")],
    ],
)
def test_what_one_term_shows_cannot_take_the_place_of_another(arguments, objectives):
    with pytest.raises(ValueError, match=r"divergence is the name of an objective, and also of what '\w+' shows"):
        trainer(arguments, objectives, max_steps=1).train()


@pytest.mark.parametrize("name", ["keys", "values", "training", "forward", "half"])
def test_a_name_may_be_one_that_modules_have(arguments, name):
    run = trainer(arguments, [Logits(name=name)], max_steps=1)
    run.train()
    assert name in run.state.log_history[0]
