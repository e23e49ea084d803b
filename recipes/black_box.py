"""Black-box distillation: let the teacher answer prompts, then fine-tune the student on its answers.

    python recipes/black_box.py --output_dir runs/black_box
    python recipes/black_box.py --pairs my_pairs.jsonl --student Qwen/Qwen2.5-0.5B --output_dir runs/mine
    python recipes/black_box.py --teacher http://localhost:8000/v1 --prompts prompts.txt --student Qwen/Qwen2.5-0.5B

A student that is named holds on to what it was with `--replay 0.05` (that share of its own samples among the rows) and `--keep_kl 0.1` (a KL to it beside
cross-entropy, for which it runs as a teacher).

With no other flag a student cut from the embedded 135M teacher is trained on a CPU. Interrupt it when you like: the same
command goes on from there. Flags are those below and all of transformers.TrainingArguments.
"""

from functools import partial

from distill import BlackBoxTrainer, WhiteBoxTrainer, make_student
from distill.basics.processes import say
from distill.curation.preflight import check_before_training
from distill.reports.card import write_card
from distill.reports.provenance import drawn_as
from distill.running.flags import BlackBoxArguments, parse_recipe, settings_of
from distill.running.folder import RunFolder, one_sentence, save_student, train_or_resume
from distill.running.holding import check_holding, keeping, with_replay
from distill.running.overfitting import overfitting_of, say_overfitting
from distill.running.publishing import Publication
from distill.running.stages import block_sample, in_tokens_of, load_student, load_teacher, prepare_pairs, split_pairs
from distill.running.teacher_prompts import check_teacher_prompts
from distill.running.tuning import tuning_of
from distill.running.unread import refuse_unread, refuse_unread_teacher
from distill.teachers import LocalTeacher
from distill.trainers.fsdp import whole_student


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """Pairs, student, training, evaluation."""
    args, training = parse_recipe(
        BlackBoxArguments, argv, output_dir="runs/black_box", description=__doc__, several=True, publishes=True
    )
    tuning, callbacks = tuning_of(args, training)
    refuse_unread(args)
    refuse_unread_teacher(args)
    check_holding(args)
    check_teacher_prompts(args)  # before the folder: a run is known by its flags
    publication = Publication(training, args.push_pairs, args.push_teacher_prompts)
    teacher = load_teacher(args)  # first: a mistyped address should leave no folder behind
    run = RunFolder(str(training.output_dir), settings_of(args, training))
    publication.prepare()

    pairs = prepare_pairs(args, teacher, run)
    if args.student or not isinstance(teacher, LocalTeacher):
        student, tokenizer = load_student(args)
        train, held_out = split_pairs(in_tokens_of(pairs, tokenizer), args.held_out)
    else:
        tokenizer = teacher.tokenizer
        train, held_out = split_pairs(in_tokens_of(pairs, tokenizer), args.held_out)
        student = make_student(
            teacher.model, args.layers, strategy=args.strategy, sample=block_sample(train, args.strategy)
        )

    curve = overfitting_of(args, train, held_out, tokenizer, None)
    train = with_replay(args, train, run)
    check_before_training(train, tokenizer, args.max_length, student, training.per_device_train_batch_size)
    common = {
        "model": student,
        "args": training,
        "train_dataset": train,
        "eval_dataset": held_out,
        "processing_class": tokenizer,
        "max_length": args.max_length,
        "callbacks": [*curve, *callbacks],
        **tuning,
    }
    trainer = (
        WhiteBoxTrainer(**common, **keeping(args))
        if args.keep_kl
        else BlackBoxTrainer(**common, supervised_only=args.supervised_only)
    )
    train_or_resume(trainer)
    metrics = trainer.evaluate()
    say(metrics)
    say_overfitting(trainer)

    drawn = drawn_as(args.pairs or run / "pairs.jsonl")
    student = whole_student(trainer)
    card = partial(
        write_card,
        student=student,
        pairs=train,
        how="black box",
        teacher=drawn.teacher if args.pairs else teacher,
        sampling=drawn.sampling,
        steps=drawn.steps,
        training=training,
        max_length=args.max_length,
        metrics=metrics,
    )
    save_student(student, tokenizer, run / "student", card)
    publication.publish(run / "student", train)
    say(
        f"The student is in {run / 'student'}, its model card beside it; checkpoints and the log of every step in {run.path}."
    )


if __name__ == "__main__":
    main()
