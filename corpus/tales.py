# SPDX-License-Identifier: Apache-2.0
"""Short tales about animals who lose, find, share and give back things: the prose of the built-in corpus.

A tale is an opening, one of the plots below and sometimes a moral. It remembers who is in it: names,
pronouns, kinds, homes and things are drawn once and copied from then on. So a model must look back to get
them right, and `corpus/checker.py` can say whether it did. How a template is read: `corpus/grammar.py`.

    {h=a}         a new animal enters: "a shy fox named Otto"
    {h=the} {h=,} the same: "Otto the fox"; "Otto, a shy fox,"
    {h} {h.he} {h.his} {h.him} {h.kind} {h.home}      what follows from it
    {t=a}        a new thing: "a red kite"; {t=}: "red kite"; {t} "kite", {t.full} "red kite"
    {s=SPOT} {s}  a new place, and the same again
"""

from __future__ import annotations

import re
from typing import Any

from corpus.grammar import Choice, Copy, Grammar, Node, Sort, Text, parse, said

# Heroes and those they meet have different names: no tale has two animals of one name.
HEROES = "Nora Lena Clara Oscar Finley Hugo".split()
OTHERS = "Daisy Poppy Greta Olive Milo Bruno Casper Felix".split()
NAMES = HEROES + OTHERS
BOYS = set("Oscar Finley Hugo Milo Bruno Casper Felix".split())
HOMES = {
    "fox": "den",
    "rabbit": "burrow",
    "bear": "cave",
    "frog": "pond",
    "squirrel": "nest",
    "beaver": "lodge",
    "hamster": "barn",
    "goat": "stable",
    "raven": "tower",
    "mole": "tunnel",
    "donkey": "shed",
    "hedgehog": "cottage",
    "tortoise": "boathouse",
    "badger": "hut",
}


def values(text: str, distinct: bool = True) -> Sort:
    """The values of a sort, written with a bar between them."""
    return Sort(tuple(text.split("|")), distinct)


SORTS = {
    "HERO": Sort(tuple(HEROES)),
    "NAME": Sort(tuple(OTHERS)),
    "KIND": Sort(tuple(HOMES), distinct=False),
    "TRAIT": values(
        "shy|brave|clever|curious|cheerful|sleepy|hungry|gentle|lazy|proud|quiet|merry|lonely|polite",
        distinct=False,
    ),
    "LOOK": values("red|blue|green|yellow|golden|silver|striped|shiny", distinct=False),
    "THING": values(
        "kite|lantern|drum|whistle|blanket|kettle|ribbon|marble|feather|pillow|trumpet|bucket|necklace|crown"
    ),
    "PLACE": values(
        "by the river|near the old mill|at the edge of the forest|on a green hill|"
        "behind the garden wall|beside the lake|at the foot of the mountain|in a quiet valley|"
        "under the tall pines|at the end of the village"
    ),
    "SPOT": values(
        "under a bush|in the tall grass|on a flat rock|behind a fallen tree|on top of a fence|"
        "inside a hollow log|under the bridge|between two roots|under a pile of leaves|"
        "beside the stream|near the gate|in the hay"
    ),
    "FOOD": values(
        "a piece of bread|a bowl of soup|some cheese|a honey cake|a ripe pear|a cup of milk|"
        "a plate of pancakes|some nuts|a slice of pie|a pot of jam"
    ),
    "GOAL": values("the bridge|the old oak|the mill|the lake|the church|the great stone|the well|the market"),
    "SKY": values(
        "The sun was shining|It was a warm day|A cold wind was blowing|The sky was blue|"
        "Birds were singing|Grey clouds covered the sky|The leaves were falling|"
        "The air was fresh and clear"
    ),
    "DARK": values(
        "The moon was bright|Not a star could be seen|The wind howled|Everyone was asleep|"
        "An owl was calling|The air was cold"
    ),
    "LOVE": values(
        "sing|dance|paint pictures|climb trees|tell stories|count the stars|bake bread|swim|"
        "pick flowers|watch the clouds|dig holes|listen to the rain"
    ),
    "TOOL": values("a long rope|a tall ladder|a strong stick|a fishing net|a thick plank"),
    "NOISE": values("a knock|a strange sound|a squeak|a loud crash|a rustling|a soft hum"),
    "NUMBER": values("three|four|five|six|seven|eight"),
}
PRONOUNS = {"he": "she", "He": "She", "his": "her", "His": "Her", "him": "her"}
ANY_THING, ANY_LOOK, ANY_KIND = (
    r"\b(?:" + "|".join(SORTS[sort].values) + r")\b" for sort in ("THING", "LOOK", "KIND")
)
ANY_NAME = r"\b(?:" + "|".join(NAMES) + r")\b"
MISTAKABLE = {  # what a model may write in the place of a copied value
    "name": ANY_NAME,
    "thing": ANY_THING,
    "look": ANY_LOOK,
    "kind": ANY_KIND,
    "home": r"\b(?:" + "|".join(HOMES.values()) + r")\b",
    **{form: rf"\b(?:{form}|{other})\b" for form, other in PRONOUNS.items()},
    **{sort: "(?:" + "|".join(values.values) + ")" for sort, values in SORTS.items()},
}
PEOPLE = "hkmno"  # slots of animals; t, u, v, w are things, all others places and the like


def copied(ref: str) -> Copy:
    """The node of {ref}: a name, a pronoun, a kind, a home, a thing or what else was drawn in that slot."""
    slot, _, part = ref.partition(".")
    if slot in PEOPLE:
        if not part:
            return Copy("name", said(f"{slot}.name").value)
        if part == "kind":
            return Copy("kind", said(f"{slot}.kind").value)
        if part == "home":
            return Copy("home", lambda slots: HOMES[slots[f"{slot}.kind"][1]])
        return Copy(part, lambda slots: part if slots[f"{slot}.name"][1] in BOYS else PRONOUNS[part])
    if slot in "tuvw":
        part = part or "thing"
        return Copy(part, said(f"{slot}.{part}").value)
    return Copy(SLOT_SORT[slot], said(slot).value)


SLOT_SORT = {
    "p": "PLACE",
    "s": "SPOT",
    "r": "SPOT",
    "f": "FOOD",
    "g": "GOAL",
    "x": "LOVE",
    "z": "NOISE",
    "c": "NUMBER",
    "a": "TOOL",
    "d": "SKY",
    "e": "DARK",
}


def template(text: str) -> tuple[Node, ...]:
    """A sentence as nodes; its short forms (see the top of this file) are written out first."""
    text = text.replace("{h=a}", "a {h.trait=TRAIT} {h.kind=KIND} named {h.name=HERO}")
    text = re.sub(r"\{([tuvw])=a\}", r"a {\1.look=LOOK} {\1.thing=THING}", text)
    text = re.sub(r"\{(\w)=a\}", r"a {\1.trait=TRAIT} {\1.kind=KIND} named {\1.name=NAME}", text)
    text = re.sub(r"\{(\w)=the\}", r"{\1.name=NAME} the {\1.kind=KIND}", text)
    text = re.sub(r"\{(\w)=,\}", r"{\1.name=NAME}, a {\1.trait=TRAIT} {\1.kind=KIND},", text)
    text = re.sub(r"\{(\w)=\}", r"{\1.look=LOOK} {\1.thing=THING}", text)
    text = re.sub(r"\{(\w)\.full\}", r"{\1.look} {\1}", text)
    return parse(text, copied)


SENTENCES: list[tuple[Node, ...]] = []  # all of them, for the checker


def tell(*parts: Any) -> tuple[Node, ...]:
    """Sentences in their order as nodes, a blank before each but the tale's first.

    A tuple among them is a choice: one of its options, a sentence or a list of them, comes here.
    """
    nodes: list[Node] = []
    for part in parts:
        if isinstance(part, str) and part:
            SENTENCES.append(template(part))
            nodes += SENTENCES[-1] if "{h=a}" in part else (Text(" "), *SENTENCES[-1])
        elif isinstance(part, str):
            continue
        else:
            nodes.append(
                Choice(tuple(tell(*([option] if isinstance(option, str) else option)) for option in part))
            )
    return tuple(nodes)


def maybe(*sentences: str) -> tuple:
    """With probability 1/2 one of the sentences, else none."""
    return ("", [sentences]) if len(sentences) > 1 else ("", sentences[0])


# -------------------------------------------------------------------------------------------------- the plots

DAY = "[One day|One morning|One afternoon|In spring|In autumn]"
NIGHT = "[One night|One evening|Late one night|At midnight]"
THEN = "[Then|Just then|After a while|Soon]"

OPENING = tell(
    (
        "Once upon a time there [was|lived] {h=a}.",
        "Long ago there lived {h=a}.",
        "This is the story of {h=a}.",
        "In a land far away there lived {h=a}.",
    ),
    "[{h.He}|{h}] had a [cosy|small|lovely] {h.home} {p=PLACE}.",
    maybe(
        "[{h.He}|{h}] loved to {x=LOVE}.",
        "{h} had no friends at all.",
        "Everyone knew {h} and liked {h.him}.",
        "{h} could {x=LOVE} better than anyone else.",
    ),
)

LOST = tell(
    DAY + " {h} lost {h.his} {t=}.",
    maybe("{d=SKY}."),
    "{h} looked for the {t} {s=SPOT}, but the {t} was not there.",
    "[{h.He} was sad and cried.|{h.He} sat down and wept.|{h.He} did not know what to do.]",
    THEN + " {k=a} [came along|came by|stopped|walked up].",
    '"[What is wrong|Why are you so sad|What are you looking for]?" asked {k}.',
    '"I [have lost|cannot find|miss] my {t}," said {h}.',
    (
        [
            '"I saw [it|a {t}] {r=SPOT}," said {k}.',
            '"[Come with me|Follow me|I will show you the way]!"',
            "{h} [ran|walked|hurried] there with {k}, and there was the {t}.",
        ],
        [
            '"Do not [worry|cry|be sad]," said {k}.',
            '"[I will help you|Let us look together]."',
            "They searched [all day|until the evening|for a long time].",
            "At last {k} found the {t} {r=SPOT}.",
        ],
    ),
    "{h} was so [happy|glad] that {h.he} [danced|sang|jumped for joy|laughed out loud].",
    "From that day on {h} and {k} were [friends|the best of friends].",
    maybe("What is lost can be found again.", "A good friend is worth more than gold."),
)

FOUND = tell(
    DAY + " {h} found {t=a} {s=SPOT}.",
    maybe("{d=SKY}."),
    '"Whose {t} is this?" {h.he} [wondered|asked|thought].',
    "{h} [took|carried|brought] the {t} to {k=the}.",
    '"Is this your {t}?" asked {h}.',
    (
        [
            '"Yes, that is my {t}," [said|cried] {k}.',
            '"[Thank you|How kind of you], {h}!"',
            "{k} was so happy that {k.he} gave {h} {f=FOOD}.",
        ],
        [
            '"No, it is not mine," said {k}.',
            '"You may keep it, {h}."',
            "So {h} took the {t} home.",
        ],
    ),
    "[{h}|{h.He}] [smiled|sang] all the way home.",
    maybe("An honest heart is a happy heart.", "It is good to give back what is not yours."),
)

STUCK = tell(
    DAY + " {h} heard a [voice|cry|shout] near {g=GOAL}.",
    maybe("{d=SKY}."),
    '"[Help me!|Is anybody there?|Please come quickly!]" it called.',
    "It was {k=,} who was stuck {s=SPOT}.",
    "{h} ran home and came back with {a=TOOL}.",
    "Soon {k} was free again.",
    '"You [saved me|are very kind|came just in time], {h}," said {k}.',
    '"Please take my {t=}."',
    (
        ["{h} thanked {k.him} and took the {t} home."],
        [
            '"Keep your {t}, {k}, a smile is enough," said {h}.',
            "[A week|A month|A year] later {h} was stuck {r=SPOT}.",
            "This time {k} came and helped {h.him} out.",
        ],
    ),
    maybe("Help others, and they will help you.", "No one is too small to help."),
)


def race(winner: str, loser: str) -> list:
    """Both ends of the race."""
    end = (
        ["So {h} kept {h.his} {t}.", "{k} was [sad|angry], but {h} let {k.him} play with the {t}."]
        if winner == "h"
        else [
            "So {h} gave the {t} to {k}.",
            "{h} was [sad|angry], but {k} let {h.him} play with the {t}.",
        ]
    )
    return [
        f"{{{loser}}} was first at the start, "
        f"but {{{loser}.he}} [stopped to rest|fell over a root|took the wrong path].",
        f"{{{winner}}} [ran on and on|did not stop] and was there first.",
        *end,
    ]


RACE = tell(
    DAY + " {h} met {k=the}.",
    maybe("{d=SKY}."),
    '"I am faster than you, {h}," said {k}.',
    '"Then let us race to {g=GOAL}," said {h}.',
    '"The winner gets my {t=}."',
    "{h} and {k} counted to {c=NUMBER} and ran.",
    (race("h", "k"), race("k", "h")),
    maybe("Slow and careful wins in the end.", "Those who never stop get there."),
)

DARK = tell(
    NIGHT + " {h} could not find the way home.",
    maybe("{e=DARK}."),
    "{h.He} was [afraid|cold and tired|all alone].",
    "{k=the} saw {h.him} {s=SPOT}.",
    '"[Where do you live|Are you lost|Why are you out so late], {h}?" asked {k}.',
    '"I live in a {h.home}," said {h}.',
    '"Take my {t=}," said {k}.',
    '"The {t} will [bring you luck|show you the way|keep you safe]."',
    "{h} took the {t} and thanked {k}.",
    "Soon {h.he} was home again.",
    "The next [day|morning] {h} gave the {t} back to {k}.",
    maybe("A small light is enough in the dark.", "Give back what you borrow."),
)

PRESENT = tell(
    "[Tomorrow|On Friday|Soon] it would be the birthday of {k=the}.",
    "{h} had [found|bought|made] {t=a} for {k.him}.",
    "{h.He} hid the {t} {s=SPOT}, so that {k} would not see it.",
    '"[What are you hiding|What is your secret|Why do you smile], {h}?" asked {k}.',
    '"[Nothing at all|Nothing, only leaves|You will see]," said {h}.',
    "On the [great day|birthday] {h} took the {t} out of its hiding place.",
    '"[Happy birthday|This is for you|Surprise], {k}!" [said|called|cried] {h}.',
    "{k} [could not believe it|laughed for joy] and thanked {h.him} for the {t}.",
    "Then {h} and {k} had {f=FOOD}[| and danced| and sang].",
    maybe("To give is better than to get.", "The best presents come from the heart."),
)

TRADE = tell(
    "{h} had {t=a}, but {h.he} [dreamed of|wished for] {u=a}.",
    DAY + " {h} met {k=the} {s=SPOT}.",
    "{k} had just such a {u}!",
    '"Will you give me your {u} for my {t}, {k}?" asked {h}.',
    '"[Gladly|With pleasure|Why not], {h}," [said|answered] {k}.',
    "So {h} took the {u} home, and {k} took the {t} home.",
    (
        [
            "But soon {h} [missed|longed for] {h.his} {t}.",
            "{h.He} went back to {k} with the {u}.",
            '"May I have my {t} again?" {h.he} asked.',
            "{k} smiled and gave the {t} back to {h}.",
        ],
        ["{h} played with the {u} every day, and {k} played with the {t}.", "Both were very happy."],
    ),
    maybe("Be happy with what you have.", "A fair trade makes two people happy."),
)

QUARREL = tell(
    DAY + " {h} and {k=the} found {t=a} {s=SPOT}.",
    maybe("{d=SKY}."),
    '"[It is mine|I saw it first|Give it to me], {k}!" said {h}.',
    '"No, the {t} is mine, {h}!" said {k}.',
    "They [shouted|quarrelled] [until they were tired|for an hour].",
    "{m=,} heard {h} and {k}.",
    '"[Listen|Be quiet]," said {m}.',
    '"[Share the {t}|Play with the {t} together|If you fight, I will keep the {t}]."',
    "{h} and {k} [nodded|shook hands|laughed].",
    "{h} gave the {t} to {k}.",
    '"You go first, {k}," {h.he} said.',
    "Soon they played with the {t} together.",
    maybe("Sharing is better than fighting.", "A wise word ends a quarrel."),
)

NOISE = tell(
    NIGHT + " {h} heard {z=NOISE} {s=SPOT}.",
    maybe("{e=DARK}."),
    "{h} was afraid, but {h.he} took {h.his} {t=} and went out.",
    "There sat {k=a}.",
    '"I am sorry, I did not want to scare you," said {k}.',
    '"I have lost my {u=}."',
    "{h} [laughed|smiled].",
    '"I thought you were a [monster|ghost|robber]," {h.he} said.',
    "{h} held up the {t}, and together they found the {u} {r=SPOT}.",
    "Then {h} and {k} went in and [had|shared] {f=FOOD}.",
    maybe("Fear makes small things big.", "Go and look, and the fear will go away."),
)

TURNIP = tell(  # a chain of helpers, told again each time it grows
    DAY + " {h} found a huge turnip.",
    maybe("{d=SKY}."),
    "{h} pulled the turnip, but it did not move.",
    "{h} called {k=the}.",
    "{k} pulled {h}, {h} pulled the turnip, but it did not move.",
    "{k} called {m=the}.",
    "{m} pulled {k}, {k} pulled {h}, {h} pulled the turnip, and out it came!",
    "{h} cooked a soup, and {h.he} gave [a bowl|a cup|a plate] of it to {k} and {m}.",
    "They [ate|sang|laughed] until [the moon rose|it was dark].",
    maybe("Together we are strong.", "Many small hands move great things."),
)

BAG = tell(  # each says all that was said before and adds one thing
    DAY + " {h} and {k=the} played a game.",
    maybe("{d=SKY}."),
    '"I pack my bag and take {t=a}," said {h}.',
    '"I pack my bag and take a {t.full} and {u=a}," said {k}.',
    '"I pack my bag and take a {t.full}, a {u.full} and {v=a}," said {h}.',
    '"I pack my bag and take a {t.full}, a {u.full}, a {v.full} and {w=a}," said {k}.',
    'But {h} [forgot the {v}|forgot the {u}|only said, "A {t} and a {u}"], and {h.he} [laughed|began again].',
    maybe("Practice makes perfect.", "A game is best with friends."),
)

FEAST = tell(  # names are called in turn and answered
    DAY + " {h} invited {k=the} and {m=the} to a [feast|picnic|party].",
    maybe("{d=SKY}."),
    "{k} brought {t=a}, and {m} brought {u=a}.",
    '"Who brought the {t}?" asked {h}.',
    '"I brought the {t}," said {k}.',
    '"And who brought the {u}?" asked {h}.',
    '"I brought the {u}," said {m}.',
    "{h} was so [happy|glad] that {h.he} gave {k} and {m} {f=FOOD}.",
    "They [sang|danced|played] until [the moon rose|it was dark].",
    '"Goodbye, {k} and {m}!" called {h}.',
    maybe("A friend is always welcome.", "The more, the merrier."),
)

PLOTS = (LOST, FOUND, STUCK, RACE, DARK, PRESENT, TRADE, QUARREL, NOISE, TURNIP, BAG, FEAST)
NODES = (*OPENING, Choice(PLOTS))
GRAMMAR = Grammar(NODES, SORTS, MISTAKABLE)
