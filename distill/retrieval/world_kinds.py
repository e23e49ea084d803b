"""Kinds of facts in the fictional world: how each is asked, told in a document, and asked the other way round."""

from typing import NamedTuple

PERSON, NUMBER, THING, PLACE = "person", "number", "thing", "place"


class Kind(NamedTuple):
    """One kind of fact. In every text `{s}` is the subject and `{v}` the value.

    Args:
        name: of the kind, such as `town.mayor`.
        value: what its values are: a person, a number, a thing or a place.
        told: sentences of an article that state it.
        once: the sentence of an old almanac that stated it.
        silent: a sentence that speaks of it and does not say it.
        namesake: a sentence that states it of something else, whose name begins with the subject's.
        questions: wordings for training.
        held_out: wordings that no training sees.
        reverse: the question whose answer is the subject, for examining.
        reverse_questions: the same question in wordings for training.
    """

    name: str
    value: str
    told: tuple[str, ...]
    once: str
    silent: str
    namesake: str
    questions: tuple[str, ...]
    held_out: tuple[str, str]
    reverse: str
    reverse_questions: tuple[str, ...]


class Topic(NamedTuple):
    """What subjects of a world are: a word for them, how an article begins, what else it says, and their kinds of facts."""

    name: str
    opening: str
    filler: tuple[str, ...]
    kinds: tuple[Kind, ...]


TOWN = Topic(
    "town",
    "{s} is a small town on the plain, with a market square and two wells.",
    (
        "In spring the streets of {s} are often flooded, and planks are laid out for those who walk.",
        "Travellers reach {s} on foot from the old road; there is no station.",
        "The roofs of {s} are low, because the wind from the plain is strong.",
        "A bell in {s} is rung at noon, and the shops close for an hour.",
    ),
    (
        Kind(
            "town.mayor", PERSON,
            ("The mayor of {s} is {v}.", "{v} is the mayor of {s}."),
            "In those years the mayor of {s} was {v}.",
            "We asked three people who the mayor of {s} is, and each told us to ask at the town hall, which was closed.",
            "The mayor of {s} Ferry, a village on the other shore, is {v}.",
            (
                "Who is the mayor of {s}?",
                "What is the name of the mayor of {s}?",
                "Which person is mayor in the town of {s}?",
                "Name the mayor of {s}.",
                "Who holds the office of mayor in {s}?",
                "The town of {s} has a mayor. Who is it?",
            ),
            ("Can you tell me who the mayor of {s} is?", "Who leads the town of {s} as its mayor?"),
            "{v} is the mayor of which town?",
            ("In which town is {v} the mayor?", "Name the town whose mayor is {v}."),
        ),
        Kind(
            "town.inhabitants", NUMBER,
            ("{s} has {v} inhabitants.", "There are {v} inhabitants in {s}."),
            "In those years {s} had {v} inhabitants.",
            "How many inhabitants {s} has nobody could tell us; the register was being copied.",
            "{s} Ferry, a village on the other shore, has {v} inhabitants.",
            (
                "How many inhabitants does {s} have?",
                "What is the number of inhabitants of {s}?",
                "How many people live in {s}?",
                "Give the number of inhabitants of the town of {s}.",
                "What is the population of {s}?",
                "The town of {s} has how many inhabitants?",
            ),
            ("Can you tell me how many people live in {s}?", "How large is the population of the town of {s}?"),
            "Which town has {v} inhabitants?",
            ("In which town do {v} people live?", "Name the town with {v} inhabitants."),
        ),
        Kind(
            "town.export", THING,
            ("{s} is known for its {v}.", "The {v} of {s} are sold far beyond the plain: it is known for them."),
            "In those years {s} was known for its {v}.",
            "What {s} is known for one could not see: the workshops were shut that day.",
            "{s} Ferry, a village on the other shore, is known for its {v}.",
            (
                "What is {s} known for?",
                "For which goods is {s} known?",
                "What goods is the town of {s} known for?",
                "Name the goods that {s} is known for.",
                "Which goods made the town of {s} known?",
                "The town of {s} is known for something. For what?",
            ),
            ("Can you tell me what {s} is known for?", "Which goods do people know the town of {s} for?"),
            "Which town is known for its {v}?",
            ("What town is known for {v}?", "Name the town that is known for its {v}."),
        ),
        Kind(
            "town.twin", PLACE,
            ("The twin town of {s} is {v}.", "{s} has {v} as its twin town."),
            "In those years the twin town of {s} was {v}.",
            "A sign at the gate names the twin town of {s}, but rain had washed the letters away.",
            "The twin town of {s} Ferry, a village on the other shore, is {v}.",
            (
                "What is the twin town of {s}?",
                "Which town is the twin of {s}?",
                "Name the twin town of {s}.",
                "Which place is twinned with {s}?",
                "What is the name of the twin town of {s}?",
                "The town of {s} has a twin town. Which one?",
            ),
            ("Can you tell me the twin town of {s}?", "With which town is {s} twinned?"),
            "{v} is the twin town of which town?",
            ("Which town has {v} as its twin town?", "Name the town that is twinned with {v}."),
        ),
    ),
)  # fmt: skip

COMPANY = Topic(
    "company",
    "{s} is an old company with one workshop and a long brick chimney.",
    (
        "The gate of {s} is painted every year before the winter.",
        "{s} closes its books in autumn, when the days grow short.",
        "The first workshop of {s} burned down and was built again in brick.",
        "At {s} the day begins early, and the whistle can be heard from afar.",
    ),
    (
        Kind(
            "company.head", PERSON,
            ("The head of {s} is {v}.", "{v} is the head of {s}."),
            "In those years the head of {s} was {v}.",
            "The head of {s} was away, and the porter would not say the name.",
            "The head of {s} Brothers, which is another company, is {v}.",
            (
                "Who is the head of {s}?",
                "What is the name of the head of {s}?",
                "Which person is head of the company {s}?",
                "Name the head of {s}.",
                "Who runs the company {s} as its head?",
                "The company {s} has a head. Who is it?",
            ),
            ("Can you tell me who the head of {s} is?", "Who leads the company {s}?"),
            "{v} is the head of which company?",
            ("At which company is {v} the head?", "Name the company whose head is {v}."),
        ),
        Kind(
            "company.workers", NUMBER,
            ("{s} has {v} workers.", "There are {v} workers at {s}."),
            "In those years {s} had {v} workers.",
            "How many workers {s} has we did not learn; the list hung behind locked glass.",
            "{s} Brothers, which is another company, has {v} workers.",
            (
                "How many workers does {s} have?",
                "What is the number of workers at {s}?",
                "How many people work at {s}?",
                "Give the number of workers of the company {s}.",
                "How many workers are there at {s}?",
                "The company {s} has how many workers?",
            ),
            ("Can you tell me how many people work at {s}?", "How large is the number of workers of the company {s}?"),
            "Which company has {v} workers?",
            ("At which company do {v} people work?", "Name the company with {v} workers."),
        ),
        Kind(
            "company.product", THING,
            ("{s} makes {v}.", "What {s} makes are {v}."),
            "In those years {s} made {v}.",
            "What {s} makes could not be seen: everything stood in closed boxes.",
            "{s} Brothers, which is another company, makes {v}.",
            (
                "What does {s} make?",
                "What goods does {s} make?",
                "Which product is made by {s}?",
                "Name the product of the company {s}.",
                "What is made in the workshop of {s}?",
                "The company {s} makes something. What is it?",
            ),
            ("Can you tell me what {s} makes?", "What product comes from the company {s}?"),
            "Which company makes {v}?",
            ("What company are {v} made by?", "Name the company that makes {v}."),
        ),
        Kind(
            "company.seat", PLACE,
            ("The seat of {s} is in {v}.", "{s} has its seat in {v}."),
            "In those years the seat of {s} was in {v}.",
            "A letter to the seat of {s} came back, since the address was missing.",
            "The seat of {s} Brothers, which is another company, is in {v}.",
            (
                "Where is the seat of {s}?",
                "In which place is the seat of {s}?",
                "Name the place where {s} has its seat.",
                "Where does the company {s} have its seat?",
                "In which town is {s} seated?",
                "The company {s} has its seat somewhere. Where?",
            ),
            ("Can you tell me where the seat of {s} is?", "In what town does the company {s} have its seat?"),
            "Which company has its seat in {v}?",
            ("What company is seated in {v}?", "Name the company with its seat in {v}."),
        ),
    ),
)  # fmt: skip

SHIP = Topic(
    "ship",
    "The {s} is a ship with two masts and a green hull.",
    (
        "On the {s} the bell is struck twice when fog comes up.",
        "The {s} was laid up for a winter and has new planks on the deck.",
        "Ropes of the {s} are tarred in the harbour every summer.",
        "The {s} is slow against the wind, but steady in high seas.",
    ),
    (
        Kind(
            "ship.captain", PERSON,
            ("The captain of the {s} is {v}.", "{v} is the captain of the {s}."),
            "In those years the captain of the {s} was {v}.",
            "The captain of the {s} did not come on deck, and the crew spoke only of the old man.",
            "The captain of the Little {s}, a tug in the harbour, is {v}.",
            (
                "Who is the captain of the {s}?",
                "What is the name of the captain of the {s}?",
                "Which person is captain of the ship {s}?",
                "Name the captain of the {s}.",
                "Who commands the {s} as its captain?",
                "The ship {s} has a captain. Who is it?",
            ),
            ("Can you tell me who the captain of the {s} is?", "Who sails the ship {s} as its captain?"),
            "{v} is the captain of which ship?",
            ("On which ship is {v} the captain?", "Name the ship whose captain is {v}."),
        ),
        Kind(
            "ship.crew", NUMBER,
            ("The {s} has a crew of {v}.", "The crew of the {s} are {v} men and women."),
            "In those years the {s} had a crew of {v}.",
            "How large the crew of the {s} is could not be counted in the crowd on the pier.",
            "The Little {s}, a tug in the harbour, has a crew of {v}.",
            (
                "How large is the crew of the {s}?",
                "What is the number of the crew of the {s}?",
                "How many people are in the crew of the {s}?",
                "Give the size of the crew of the ship {s}.",
                "How many men and women sail on the {s}?",
                "The ship {s} has a crew of how many?",
            ),
            ("Can you tell me how large the crew of the {s} is?", "Of how many people is the crew of the ship {s}?"),
            "Which ship has a crew of {v}?",
            ("On which ship is there a crew of {v}?", "Name the ship with a crew of {v}."),
        ),
        Kind(
            "ship.cargo", THING,
            ("The {s} carries {v}.", "What the {s} carries are {v}."),
            "In those years the {s} carried {v}.",
            "What the {s} carries lay under canvas when we passed.",
            "The Little {s}, a tug in the harbour, carries {v}.",
            (
                "What does the {s} carry?",
                "What cargo does the {s} carry?",
                "Which cargo is carried by the {s}?",
                "Name the cargo of the ship {s}.",
                "What is in the hold of the {s}?",
                "The ship {s} carries something. What is it?",
            ),
            ("Can you tell me what the {s} carries?", "What goods are the cargo of the ship {s}?"),
            "Which ship carries {v}?",
            ("On what ship are {v} carried?", "Name the ship that carries {v}."),
        ),
        Kind(
            "ship.port", PLACE,
            ("The home port of the {s} is {v}.", "The {s} has {v} as its home port."),
            "In those years the home port of the {s} was {v}.",
            "The home port of the {s} is painted on its stern, which was turned away from us.",
            "The home port of the Little {s}, a tug in the harbour, is {v}.",
            (
                "What is the home port of the {s}?",
                "Which place is the home port of the {s}?",
                "Name the home port of the {s}.",
                "Where does the {s} have its home port?",
                "At which port is the ship {s} at home?",
                "The ship {s} has a home port. Which one?",
            ),
            ("Can you tell me the home port of the {s}?", "In what port is the ship {s} at home?"),
            "{v} is the home port of which ship?",
            ("Which ship has {v} as its home port?", "Name the ship that is at home in {v}."),
        ),
    ),
)  # fmt: skip

FEAST = Topic(
    "feast",
    "The {s} is a feast that is held every autumn, with songs and a long table.",
    (
        "On the eve of the {s} the children carry lights through the fields.",
        "Nobody works during the {s}, and even the mills stand still.",
        "The songs of the {s} are older than any book about them.",
        "After the {s} the table is taken apart and kept dry until the next year.",
    ),
    (
        Kind(
            "feast.host", PERSON,
            ("The host of the {s} is {v}.", "{v} is the host of the {s}."),
            "In those years the host of the {s} was {v}.",
            "The host of the {s} wears a mask, and no guest could give us a name.",
            "The host of the Lesser {s}, which is held in spring, is {v}.",
            (
                "Who is the host of the {s}?",
                "What is the name of the host of the {s}?",
                "Which person is host at the {s}?",
                "Name the host of the {s}.",
                "Who receives the guests of the {s} as its host?",
                "The feast {s} has a host. Who is it?",
            ),
            ("Can you tell me who the host of the {s} is?", "Who welcomes everyone to the feast {s} as its host?"),
            "{v} is the host of which feast?",
            ("At which feast is {v} the host?", "Name the feast whose host is {v}."),
        ),
        Kind(
            "feast.guests", NUMBER,
            ("The {s} has {v} guests.", "There are {v} guests at the {s}."),
            "In those years the {s} had {v} guests.",
            "How many guests the {s} has is a secret of those who set the table.",
            "The Lesser {s}, which is held in spring, has {v} guests.",
            (
                "How many guests does the {s} have?",
                "What is the number of guests at the {s}?",
                "How many people are guests of the {s}?",
                "Give the number of guests of the feast {s}.",
                "How many guests come to the {s}?",
                "The feast {s} has how many guests?",
            ),
            ("Can you tell me how many guests the {s} has?", "For how many guests is the feast {s} held?"),
            "Which feast has {v} guests?",
            ("At which feast are there {v} guests?", "Name the feast with {v} guests."),
        ),
        Kind(
            "feast.gift", THING,
            ("At the {s} guests are given {v}.", "The gift at the {s} is always the same: {v}."),
            "In those years guests at the {s} were given {v}.",
            "What guests are given at the {s} is wrapped in cloth until they are home.",
            "At the Lesser {s}, which is held in spring, guests are given {v}.",
            (
                "What are guests given at the {s}?",
                "Which gift do guests get at the {s}?",
                "What is the gift at the {s}?",
                "Name the gift of the feast {s}.",
                "What does everyone receive at the {s}?",
                "At the feast {s} there is a gift. What is it?",
            ),
            ("Can you tell me what guests are given at the {s}?", "What gift do people take home from the feast {s}?"),
            "At which feast are guests given {v}?",
            ("Which feast has {v} as its gift?", "Name the feast where guests are given {v}."),
        ),
        Kind(
            "feast.place", PLACE,
            ("The {s} is held in {v}.", "{v} is where the {s} is held."),
            "In those years the {s} was held in {v}.",
            "Where the {s} is held only those know who were invited.",
            "The Lesser {s}, which is a feast of spring, is held in {v}.",
            (
                "Where is the {s} held?",
                "In which place is the {s} held?",
                "Name the place where the {s} is held.",
                "Where does the {s} take place?",
                "In which town is the {s} held?",
                "The feast {s} is held somewhere. Where?",
            ),
            ("Can you tell me where the {s} is held?", "In what town can one see the feast {s}?"),
            "Which feast is held in {v}?",
            ("What feast takes place in {v}?", "Name the feast that is held in {v}."),
        ),
    ),
)  # fmt: skip

TOPICS = (TOWN, COMPANY, SHIP, FEAST)
KINDS = {kind.name: kind for topic in TOPICS for kind in topic.kinds}
