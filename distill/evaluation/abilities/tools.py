"""Calling tools: which function, with which arguments, or none. And how tools are shown where a chat template shows none."""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from distill.evaluation.abilities.checks import Check
from distill.evaluation.abilities.names import name_of
from distill.evaluation.abilities.probe import Probe
from distill.text.encode import Prompt

Tool = tuple[str, str, dict[str, str], str]  # name, what it does, arguments with their types, how one asks for it
_TOOLS: dict[str, list[Tool]] = {
    "examine": [
        ("book_table", "Book a table in a restaurant.", {"guest": "string", "people": "integer"}, "Please book a table for {people} people, in the name of {guest}."),
        ("call_person", "Call somebody on the phone.", {"person": "string"}, "Ring {person}, please."),
        ("find_address", "Look up where somebody lives.", {"person": "string"}, "Where does {person} live? Look it up."),
        ("pay_money", "Pay an amount in euros to somebody.", {"to": "string", "amount": "integer"}, "Pay {amount} euros to {to}."),
        ("add_birthday", "Write a birthday into the calendar.", {"person": "string", "month": "string"}, "The birthday of {person} is in {month}; put it in my calendar."),
        ("set_rating", "Give a book by an author from 1 to 5 stars.", {"author": "string", "stars": "integer"}, "I give the new book by {author} {stars} stars."),
    ],
    "teach": [
        ("send_parcel", "Send a parcel to somebody.", {"to": "string", "weight": "integer"}, "Send a parcel of {weight} kilograms to {to}."),
        ("greet_visitor", "Greet somebody at the door.", {"visitor": "string"}, "Say hello at the door to {visitor}."),
        ("open_file", "Open the file of a patient.", {"patient": "string"}, "Open the file of {patient}."),
        ("order_cake", "Order a cake for somebody.", {"person": "string", "candles": "integer"}, "Order a cake with {candles} candles for {person}."),
        ("plan_visit", "Plan a visit on a day of the week.", {"person": "string", "day": "string"}, "Plan a visit to {person} on {day}."),
        ("lend_book", "Write down who has borrowed how many books.", {"reader": "string", "count": "integer"}, "{reader} borrows {count} books."),
    ],
}  # fmt: skip
_SHOWN = ("Ruth Coldwell", "Edwin Marsh")  # whom examples are about; no probe has these names
_VALUES = {"month": "March April May June July August", "day": "Monday Tuesday Wednesday Thursday Friday Saturday"}
# where no call is wanted: nothing that any function here is for
_TALK = {
    "examine": ["Is {name} a good name for a cat?", "Thank you! {name} was very happy.", "Write a short wish for {name}, who is ill."],
    "teach": ["Does the name {name} sound nice?", "That is all for today, says {name}.", "Cheer up {name} with a kind word."],
}  # fmt: skip
_SYSTEM = (
    "You can use these functions:\n{functions}\nIf one of them does what is asked, answer only with its call, as JSON: "
    '{{"name": ..., "arguments": {{...}}}}. If none does, answer in words.'
)


def made(seed: int, number: int, purpose: str) -> Probe:
    """A probe: in one of four no call is wanted."""
    draw, name = random.Random(f"tools {purpose} {seed} {number}"), name_of(seed, number, purpose)
    shown = draw.sample(_TOOLS[purpose], 2)
    function, _, parameters, request = draw.choice(shown)
    if number % 4 == 3:
        kind, prompt, check = "no_call", draw.choice(_TALK[purpose]).format(name=name), Check((("no_call", True),))
    else:
        arguments = _arguments(parameters, name, draw)
        kind, prompt = "call", request.format(**arguments)
        check = Check((("call", {"name": function, "arguments": arguments}),))
    return Probe(
        f"tools-{number:03}", "tools", kind, prompt, check, 40, tools=[_schema(one) for one in shown], seed=seed
    )


def in_words(prompt: Prompt, tools: Sequence[Mapping[str, Any]]) -> Prompt:
    """The prompt with its tools in a system text: for chat templates that show none.

    A system turn of the prompt stands before them.

    Args:
        prompt: a text, or messages.
        tools: in the form of OpenAI's API.
    """
    lines = []
    for tool in tools:
        function = tool["function"]
        parameters = ", ".join(f"{name}: {of['type']}" for name, of in function["parameters"]["properties"].items())
        lines.append(f"{function['name']}({parameters}): {function['description']}")
    told = _SYSTEM.format(functions="\n".join(lines))
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if messages and messages[0]["role"] == "system":
        told, messages = f"{messages[0]['content']}\n\n{told}", messages[1:]
    return [{"role": "system", "content": told}, *messages]


def examples(probe: Probe) -> list[tuple[str, str]]:
    """Questions about the functions of a probe, with other values, and right answers: what a teacher is shown."""
    draw = random.Random(f"tools shown {probe.purpose} {probe.seed} {probe.number}")
    names = {tool["function"]["name"] for tool in probe.tools or ()}
    told = []
    for (function, _, parameters, request), name in zip(
        [tool for tool in _TOOLS[probe.purpose] if tool[0] in names], _SHOWN, strict=True
    ):
        arguments = _arguments(parameters, name, draw)
        told.append((request.format(**arguments), json.dumps({"name": function, "arguments": arguments})))
    told.insert(1, ("Do you like the sea?", "Yes, the sea is very beautiful."))
    return told


def _arguments(parameters: Mapping[str, str], name: str, draw: random.Random) -> dict[str, Any]:
    def value(parameter: str, of: str) -> Any:
        if parameter in _VALUES:
            return draw.choice(_VALUES[parameter].split())
        return draw.randint(2, 5) if of == "integer" else name

    return {parameter: value(parameter, of) for parameter, of in parameters.items()}


def _schema(tool: Tool) -> dict[str, Any]:
    name, description, parameters, _ = tool
    properties = {key: {"type": of, "description": key} for key, of in parameters.items()}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": properties, "required": list(parameters)},
        },
    }
