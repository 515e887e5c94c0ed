"""The two small worlds that the pre-training text is written about, as data.

`WORLD` feeds `base` and every question; `WORLD_PRIME` has other people, things, phrases and another
sentence grammar and feeds `base_prime`. Slots in braces are filled by `corpus.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class World:
    """Words and phrases of one corpus.

    Attributes:
        names: people, each with pronouns (subject, object).
        things: countable things, in the plural.
        places: where things can be.
        starts: sentences that state an amount `{a}`.
        groups: sentences that state `{k}` groups of `{a}`.
        gains: events that add `{x}`.
        losses: events that take `{x}` away.
        results: sentences that state the amount `{r}` at the end.
        slots: fillers of the free text grammar.
        sentences: templates of the free text grammar.
        facts: sentences that are always true in this world.
        shares: how often each kind of pre-training document is written.
    """

    names: tuple[tuple[str, str, str], ...]
    things: tuple[str, ...]
    places: tuple[str, ...]
    starts: tuple[str, ...]
    groups: tuple[str, ...]
    gains: tuple[str, ...]
    losses: tuple[str, ...]
    results: tuple[str, ...]
    slots: Mapping[str, tuple[str, ...]]
    sentences: tuple[str, ...]
    facts: tuple[str, ...]
    shares: Mapping[str, float]


def _people(women: str, men: str) -> tuple[tuple[str, str, str], ...]:
    she = tuple((name, "she", "her") for name in women.split())
    he = tuple((name, "he", "him") for name in men.split())
    return she + he


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _colours(pairs: str) -> tuple[str, ...]:
    couples = (pair.split(":") for pair in pairs.split())
    return tuple(f"The {thing} is {colour}." for thing, colour in couples)


WORLD = World(
    names=_people("Mia Anna Lucy Emma Rosa Nora Kate Ella", "Tom Ben Sam Max Leo Paul Jack Omar"),
    things=_words(
        "apples books coins cards shells stones pencils stickers marbles cookies oranges stamps "
        "beads buttons eggs flowers"
    ),
    places=_words("box basket kitchen garden bag school shop room"),
    starts=(
        "{n} has {a} {o}.",
        "There are {a} {o} in the {p} of {n}.",
        "{n} found {a} {o} in the {p}.",
        "In the morning {n} had {a} {o}.",
        "{n} keeps {a} {o} in the {p}.",
        "{n} counted {a} {o}.",
        "At first {n} had {a} {o}.",
        "{n} bought {a} {o} at the shop.",
    ),
    groups=(
        "{n} has {k} bags with {a} {o} in each bag.",
        "There are {k} boxes. {n} puts {a} {o} in each box.",
        "{n} buys {k} packs of {a} {o} each.",
        "Each day {n} finds {a} {o}. It goes on for {k} days.",
        "{n} fills {k} rows with {a} {o} in every row.",
        "Every friend gives {n} {a} {o}. There are {k} friends.",
    ),
    gains=(
        "{m} gives {n} {x} more {o}.",
        "{n} gets {x} more {o} from {m}.",
        "Then {n} buys {x} more.",
        "Later {n} finds {x} more {o} in the {p}.",
        "{m} brings {x} {o} to {n}.",
        "After lunch {x} {o} are added.",
        "The next day {n} makes {x} more {o}.",
    ),
    losses=(
        "{n} gives {x} {o} to {m}.",
        "Then {n} loses {x} of them.",
        "{m} takes {x} {o} away from {n}.",
        "Later {n} sells {x} {o} at the shop.",
        "After lunch {x} of the {o} are gone.",
        "The next day {n} uses {x} {o}.",
        "{n} leaves {x} {o} in the {p}.",
    ),
    results=(
        "Now {n} has {r} {o}.",
        "In the end there are {r} {o}.",
        "So the number of {o} is {r} now.",
        "In all there are {r} {o} now.",
    ),
    slots={
        "adj": _words("red blue green dark new small big warm happy quiet"),
        "animal": _words("dog cat bird horse rabbit fox"),
        "act": _words("runs sleeps plays sings waits jumps"),
        "at": ("in the garden", "near the school", "by the river", "under the tree", "at home"),
        "time": ("In the morning", "After lunch", "The next day", "Today", "Later"),
        "obj": _words("ball book cake letter picture song"),
        "does": _words("likes makes finds wants sees shows"),
        "feel": _words("happy sad tired glad"),
    },
    sentences=(
        "{time} {n} {does} a {adj} {obj}.",
        "The {adj} {animal} {act} {at}.",
        "{n} and {m} are {feel}.",
        "{n} {does} the {animal} of {m}.",
        "{time} the {animal} {act} {at} and {he} is {feel}.",
        "{n} is {feel} because {m} {does} the {obj}.",
        "There is a {adj} {animal} {at}.",
        "{n} asks {m} about the {adj} {obj}.",
        "The {obj} of {n} is {adj}.",
    ),
    facts=(
        *_colours("sun:yellow sky:blue grass:green snow:white night:black rose:red"),
        "A week has 7 days.",
        "A year has 12 months.",
        "A dog has 4 legs.",
        "A bird has 2 legs.",
        "A hand has 5 fingers.",
        "An hour has 60 minutes.",
        "Bread is made in the kitchen.",
        "Fish live in the river.",
    ),
    shares={
        "equations": 0.27,
        "chain": 0.19,
        "columns": 0.12,
        "story": 0.22,
        "text": 0.07,
        "numbers": 0.08,
        "lookup": 0.05,
    },
)

WORLD_PRIME = World(
    names=_people(
        "Vera Ines Olga Ruth Gina Hana Tess Yara", "Karl Ivan Hugo Rolf Nils Dean Amir Otto"
    ),
    things=_words(
        "bricks candles bottles tickets nails ropes lamps plates tiles keys boats masks drums "
        "kites spoons wheels"
    ),
    places=_words("harbor cellar market tower mill barn station cabin"),
    starts=(
        "A crate in the {p} holds {a} {o}.",
        "The {p} stores {a} {o} for {n}.",
        "{n} ordered {a} {o} last month.",
        "We saw {a} {o} beside the {p}.",
        "{a} {o} belong to {n}.",
    ),
    groups=(
        "{n} stacked {k} piles of {a} {o}.",
        "On each of {k} shelves lie {a} {o}.",
        "{k} ships carry {a} {o} apiece.",
    ),
    gains=(
        "A ship delivers another {x} {o}.",
        "{m} lends {n} a further {x}.",
        "Workers build {x} extra {o}.",
        "{x} {o} arrive from the {p}.",
    ),
    losses=(
        "A storm breaks {x} {o}.",
        "{m} borrows {x} of these {o}.",
        "Workers remove {x} {o}.",
        "{x} {o} sink near the {p}.",
    ),
    results=(
        "That makes {r} {o} altogether.",
        "The total came to {r}.",
        "Finally {r} {o} remain.",
    ),
    slots={
        "adj": _words("heavy broken silver narrow bright cold wooden dusty"),
        "animal": _words("goat eagle wolf crab mule seal"),
        "act": _words("climbs hides swims hunts rests feeds"),
        "at": ("behind the mill", "over the hills", "along the coast", "inside the barn"),
        "time": ("At dawn", "During winter", "Before sunset", "Last month"),
        "obj": _words("hammer map ladder wagon blanket bell"),
        "does": _words("repairs carries paints hides sells"),
        "feel": _words("angry proud hungry calm"),
    },
    sentences=(
        "{time}, a {adj} {animal} {act} {at}.",
        "{he} {does} that {adj} {obj}, and {m} feels {feel}.",
        "Nobody {does} the {obj} {at}.",
        "{m}, who feels {feel}, {does} one {obj}.",
        "Which {animal} {act} {at}? The {adj} one.",
        "{time}, {n} {does} a {obj} for the {animal}.",
    ),
    facts=(
        *_colours("sea:grey moon:pale coal:black gold:bright leaf:brown ice:clear"),
        "A spider has 8 legs.",
        "A day has 24 hours.",
        "A minute has 60 seconds.",
        "Iron is heavier than wood.",
        "Ships sail on the sea.",
    ),
    shares={
        "equations": 0.30,
        "chain": 0.12,
        "columns": 0.08,
        "story": 0.20,
        "text": 0.18,
        "numbers": 0.12,
        "lookup": 0.0,
    },
)
