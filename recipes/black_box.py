"""Black-box distillation: let the teacher answer prompts, then fine-tune the student on its answers.

    python recipes/black_box.py --output_dir runs/black_box
    python recipes/black_box.py --pairs my_pairs.jsonl --student Qwen/Qwen2.5-0.5B --output_dir runs/mine

With no other flag a student cut from the embedded 135M teacher is trained on a CPU. Interrupt it when you like: the same
command goes on from there. Flags are those below and all of transformers.TrainingArguments.
"""

from distill import BlackBoxTrainer, make_student
from distill.recipe import (
    DataArguments,
    block_sample,
    in_tokens_of,
    load_student,
    load_teacher,
    parse_recipe,
    prepare_pairs,
    settings_of,
    split_pairs,
)
from distill.runs import RunFolder, one_sentence, save_student, train_or_resume


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """Pairs, student, training, evaluation."""
    args, training = parse_recipe(DataArguments, argv, output_dir="runs/black_box", description=__doc__)
    run = RunFolder(str(training.output_dir), settings_of(args, training))

    teacher = load_teacher(args)
    pairs = prepare_pairs(args, teacher, run)
    if teacher is None or args.student:
        student, tokenizer = load_student(args)
        train, held_out = split_pairs(in_tokens_of(pairs, tokenizer), args.held_out)
    else:
        tokenizer = teacher.tokenizer
        train, held_out = split_pairs(in_tokens_of(pairs, tokenizer), args.held_out)
        student = make_student(
            teacher.model, args.layers, strategy=args.strategy, sample=block_sample(train, args.strategy)
        )

    trainer = BlackBoxTrainer(
        model=student,
        args=training,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        max_length=args.max_length,
    )
    train_or_resume(trainer)
    print(trainer.evaluate())
    save_student(trainer.model, tokenizer, run / "student")
    print(f"The student is in {run / 'student'}.")


if __name__ == "__main__":
    main()
