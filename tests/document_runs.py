"""A folder of documents, and a teacher of which it is known what it asks and answers; what the tests of several processes run."""

import importlib
import re

from conftest import build_model, build_tokenizer

from distill.teachers import LocalTeacher
from distill.teachers.base import Completion

VILLAGES = {"Oden": ("Pia Holm", "412"), "Ruska": ("Jon Vale", "87"), "Temm": ("Ada Brewer", "1,950")}
TEXT = "# {0}\n\n{0} is a village in the hills. Its mayor is {1}. It has {2} inhabitants. A bell rings there at noon.\n"
SILENT = "# Fog\n\nFog comes up in the evening and goes in the morning.\n"


def say(turn):
    """A teacher that asks about mayors and inhabitants, and knows what it reads."""
    if turn is None:
        return None
    if "Write a question about this sentence" in turn:
        name, sentence = turn.split("\n")[0], turn.rsplit("in its words: ", 1)[1]
        if "mayor" in sentence:
            return f"Question: Who is the mayor of {name}?\nAnswer: {sentence.split(' is ')[1].strip('.')}."
        if "inhabitants" in sentence:
            return f"Question: How many inhabitants does {name} have?\nAnswer: {sentence.split()[2]}"
        return "I cannot."
    if turn.startswith("Ask the same in other words: Who is the mayor"):
        return turn.split(": ")[1].replace("Who is", "What is the name of")
    if turn.startswith("Turn this round"):
        question, answer = re.search(r"Question: (.*)\nAnswer: (.*)", turn).groups()
        name = question.rstrip("?").split()[-1]
        return f"Question: Which village has {answer} as its mayor?\nAnswer: {name}" if "mayor" in question else "no"
    question = turn.rsplit("Question: ", 1)[-1]
    found = re.search(
        {"Who": r"mayor is ([\w ]+)\.", "Wha": r"mayor is ([\w ]+)\.", "How": r"It has ([\d,]+)", "Whi": r"\] (\w+)"}.get(question[:3], "$^"),
        turn,
    )  # fmt: skip
    return found[1] if found else "I do not know."


class Scripted(LocalTeacher):
    """A local teacher that says what `say` says of the last user's turn; counts what it is asked, and may be stopped."""

    def __init__(self, positions=16384, say=say, stop_at=None):
        super().__init__(build_model(max_position_embeddings=positions), build_tokenizer(), name="scripted")
        self.say, self.stop_at, self.asked = say, stop_at, []

    def complete(self, prompts, sampling, seed, stop_ids=None):
        if self.stop_at is not None and len(self.asked) >= self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(prompts)
        turns = [
            self.tokenizer.decode(ids).rsplit("<|im_start|>user\n", 1)[1].split("<|im_end|>")[0] for ids in prompts
        ]
        if turns[0] == "":  # the header of a user's turn: it is to write one
            texts = [f"Why is number {seed} {i} so large?" for i in range(len(prompts))]
        else:
            texts = [self.say(turn) for turn in turns]
        return [Completion([*self.tokenizer(text)["input_ids"], 2], text, "stop") for text in texts]


def write_folder(made):
    """Three documents about villages, one with nothing to ask about, and a picture."""
    made.mkdir()
    for name, values in VILLAGES.items():
        (made / f"{name.lower()}.md").write_text(TEXT.format(name, *values))
    (made / "fog.md").write_text(SILENT)
    (made / "map.png").write_bytes(b"\x89PNG\r\n\0\0")
    return made


def written(folder, output):
    """How often the teacher of this process was asked, in a run of several."""
    recipe, teacher = importlib.import_module("distill.recipes.generate"), Scripted()
    recipe.load_teacher = lambda args: teacher
    recipe.main(["--documents", folder, "--output", output, "--mode", "mixed", "--replay", "0.2", "--batch_size", "8"])
    return len(teacher.asked)
