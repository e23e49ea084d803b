"""White-box distillation: match the teacher's next-token distributions, hidden states and attention maps.

    python recipes/white_box.py --objectives logits,hidden=0.1,attention=0.1 --output_dir runs/white_box

    python recipes/white_box.py --teacher self --student my/model --lora_r 16 --cross_entropy 1 --pairs pairs.jsonl
    python recipes/white_box.py --teacher signals --student my/model --pairs pairs.jsonl          (a folder of `distill capture`)
    python recipes/white_box.py --student my/model --rollouts 0.5 --divergence reverse_kl          (half of the rows are the student's own text)

With no other flag a student cut from the embedded 135M teacher is trained on a CPU. With `--teacher self` the teacher is the
student with its adapter off: new pairs are learned, and the KL to what the model was keeps it from forgetting. With a folder of stored signals
no teacher is loaded; how near it is on held-out pairs is told by `eval_logits` alone. Interrupt it when you like: the same
command goes on from there. Flags are those below and all of transformers.TrainingArguments.
"""

from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

from distill import Logits, WhiteBoxTrainer, make_student
from distill.basics.processes import say
from distill.curation.preflight import check_before_training
from distill.evaluation import AgreementCurve, HeldOut
from distill.objectives.divergences import NAMES
from distill.reports.card import write_card
from distill.reports.provenance import drawn_as
from distill.running.flags import DataArguments, build_objectives, parse_recipe, settings_of
from distill.running.folder import RunFolder, one_sentence, save_student, train_or_resume
from distill.running.holding import ReplayArguments, check_holding, with_replay
from distill.running.overfitting import overfitting_of, say_overfitting
from distill.running.parsing import refuse_given
from distill.running.publishing import Publication, PublishingArguments
from distill.running.rollout_flags import RolloutArguments, rollouts_of
from distill.running.stages import block_sample, in_tokens_of, load_student, local_teacher, prepare_pairs, split_pairs
from distill.running.teacher_prompts import check_teacher_prompts
from distill.running.tuning import TuningArguments, tuning_of
from distill.running.unread import refuse_unread
from distill.signals import StoredSignals
from distill.signals.signal_folder import is_signal_folder
from distill.signals.sources import SELF
from distill.teachers import LocalTeacher
from distill.text.vocabulary import shared_vocabulary
from distill.trainers.fsdp import whole_student


@dataclass
class WhiteBoxArguments(DataArguments, TuningArguments, RolloutArguments, PublishingArguments, ReplayArguments):
    """Where pairs and student come from, and what is matched."""

    objectives: str = field(
        default="logits", metadata={"help": "Of logits, hidden, attention; a weight may follow: hidden=0.1"}
    )
    divergence: str = field(default="forward_kl", metadata={"help": f"One of {', '.join(NAMES)}."})
    distillation_temperature: float = field(default=1.0, metadata={"help": "Divides the logits of both sides."})
    shard_teacher: bool = field(
        default=False, metadata={"help": "Divide the teacher's weights over all processes (accelerate launch)."}
    )
    cross_entropy: float = field(
        default=0.0, metadata={"help": "Weight of cross-entropy on the pairs' tokens, added to the divergence."}
    )

    def __post_init__(self) -> None:
        if self.teacher == SELF and (not self.student or self.lora_r is None or self.teacher_bits):
            raise ValueError(
                "teacher is 'self', the student with its adapter off: name the student with --student and train an adapter on it "
                "with --lora_r. Its bits are the student's (--load_in_4bit), so --teacher_bits is left out."
            )
        if is_signal_folder(self.teacher) and (
            not (self.student and self.pairs) or self.teacher_bits or self.shard_teacher
        ):
            raise ValueError(
                f"teacher is {self.teacher!r}, a folder of stored signals: name the model to train with --student and the pairs that were captured "
                "with --pairs, and leave --teacher_bits and --shard_teacher out, because no teacher is loaded."
            )


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """Pairs, student, training, evaluation."""
    args, training = parse_recipe(
        WhiteBoxArguments, argv, output_dir="runs/white_box", description=__doc__, several=True, publishes=True
    )
    tuning, callbacks = tuning_of(args, training)
    refuse_unread(args)
    check_holding(args)
    check_teacher_prompts(args)  # before the folder: a run is known by its flags
    publication = Publication(training, args.push_pairs, args.push_teacher_prompts)
    objectives = build_objectives(
        args.objectives,
        divergence=args.divergence,
        temperature=args.distillation_temperature,
        cross_entropy=args.cross_entropy,
    )
    if not any(isinstance(objective, Logits) for objective in objectives):
        why = "this is of the objective logits, which --objectives does not name; add it, or leave this out."
        refuse_given(args, ("divergence", "distillation_temperature", "cross_entropy"), why)
    rollouts = rollouts_of(args)
    run = RunFolder(str(training.output_dir), settings_of(args, training))

    if args.student:
        student, tokenizer = load_student(args)
    stored = StoredSignals(args.teacher) if is_signal_folder(args.teacher) else None
    teacher: Any
    if stored:
        (who,) = stored.teachers()
        teacher = SimpleNamespace(name=who.name, model=None, tokenizer=stored.tokenizer, identity=who.identity)
    else:
        teacher = LocalTeacher(student, tokenizer, name=args.student) if args.teacher == SELF else local_teacher(args)
        if args.student:
            shared_vocabulary(
                student, teacher.model, tokenizer, teacher.tokenizer
            )  # refuses other tokens, before any work
    publication.prepare()
    pairs = in_tokens_of(prepare_pairs(args, teacher, run), teacher.tokenizer)
    train, held_out = split_pairs(pairs, args.held_out)
    if not args.student:
        tokenizer = teacher.tokenizer
        student = make_student(
            teacher.model, args.layers, strategy=args.strategy, sample=block_sample(train, args.strategy)
        )

    apart = overfitting_of(args, train, held_out, tokenizer, teacher.model)
    train = with_replay(args, train, run)
    check_before_training(train, tokenizer, args.max_length, student, training.per_device_train_batch_size)
    # for the card, as it is before the training: the teacher may be the student's own weights, to be merged with an adapter
    as_it_was = SimpleNamespace(name=teacher.name, model=teacher.model, identity=partial(dict, teacher.identity()))
    curve = [] if stored else [AgreementCurve(HeldOut(teacher.model, held_out, tokenizer, max_length=args.max_length))]
    trainer = WhiteBoxTrainer(
        model=student,
        teacher=stored or teacher,
        objectives=objectives,
        args=training,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        max_length=args.max_length,
        shard_teacher=args.shard_teacher,
        rollouts=rollouts,
        callbacks=[*curve, *apart, *callbacks],
        **tuning,
    )
    train_or_resume(trainer)
    metrics = trainer.evaluate()
    say(metrics)
    say_overfitting(trainer)
    points: Any = [entry for entry in trainer.state.log_history if "held_out" in entry]
    for point in points:
        say(f"step {point['step']}: held-out KL {point['held_out']['kl']:.3f}, top-1 {point['held_out']['top1']:.1%}")

    drawn = drawn_as(args.pairs or run / "pairs.jsonl")
    student = whole_student(trainer)
    card = partial(
        write_card,
        student=student,
        pairs=train,
        how="white box",
        teacher=as_it_was,
        sampling=drawn.sampling,
        steps=drawn.steps,
        objectives=objectives,
        rollouts=rollouts,
        training=training,
        max_length=args.max_length,
        metrics={**metrics, **(points[-1]["held_out"] if points else {})},
    )
    save_student(student, tokenizer, run / "student", card)
    publication.publish(run / "student", train)
    say(
        f"The student is in {run / 'student'}, its model card beside it; checkpoints and the log of every step in {run.path}."
    )


if __name__ == "__main__":
    main()
