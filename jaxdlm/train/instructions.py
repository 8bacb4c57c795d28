"""Prompts in plain English for models that chat: templates filled from lists, a different prompt for every number."""

import random
from collections.abc import Callable

from jaxdlm.errors import InputError
from jaxdlm.eval.task import SPLITS
from jaxdlm.eval.tasks.base import split_of

TOPICS = (
    "the water cycle|bread baking|black holes|the printing press|bees|earthquakes|coral reefs|the Roman Empire|vaccines|"
    "bicycles|the moon|photosynthesis|chess|rainbows|volcanoes|the Silk Road|coffee|glaciers|dinosaurs|the human heart|"
    "electric cars|jazz music|deserts|compasses|libraries|the Great Wall of China|solar panels|whales|the stock market|"
    "tea|railways|penguins|recycling|the telescope|honey|the Olympics|tides|bridges|cheese|lightning|maps|sleep|"
    "gardening|the alphabet|clouds|paper|batteries|marathons|soap|owls"
).split("|")
PLACES = (
    "France|Japan|Brazil|Egypt|Canada|Kenya|Norway|India|Mexico|Australia|Italy|Peru|Turkey|Vietnam|Spain|Greece|Poland|"
    "Chile|Morocco|Ireland|Thailand|Argentina|Finland|Portugal"
).split("|")
THINGS = (
    "a lost key|an old lighthouse|a talking cat|a broken clock|a rainy market|a hidden garden|a small robot|a paper boat|a "
    "night train|a new neighbour|a forgotten song|a snowy village|a curious fox|a missing letter|a red balloon|a quiet "
    "library"
).split("|")
PEOPLE = (
    "Anna|Omar|Lucy|Kenji|Maria|Tom|Priya|Sven|Chloe|David|Amina|Leo|Nora|Ivan|Grace|Hugo|Mina|Paul|Rosa|Ben"
).split("|")
JOBS = "teacher|nurse|baker|pilot|carpenter|farmer|programmer|librarian|chef|gardener|doctor|plumber".split("|")
FOODS = "pancakes|vegetable soup|fried rice|apple pie|pasta with tomatoes|a fruit salad|flatbread|an omelette".split(
    "|"
)
GOODS = "apples|pens|tickets|books|cups|stamps|eggs|candles|chairs|oranges".split("|")
CODES = (
    "reverses a string|finds the largest number in a list|counts the vowels of a word|checks whether a number is prime|"
    "adds up the digits of a number|removes duplicates from a list|sorts words by length|converts Celsius to Fahrenheit|"
    "merges two dictionaries|computes a factorial|tells whether a word is a palindrome|counts the words of a text"
).split("|")
MAILS = (
    "to thank a colleague for help|to ask for a day off|to move a meeting to another day|to invite a friend to dinner|"
    "to apologise for a late reply|to ask a shop about a missing parcel|to recommend a former student|to cancel a booking"
).split("|")
FACTS = (
    "The museum opens at ten and closes at six, except on Mondays, when it stays shut.|"
    "The first train leaves at seven in the morning and reaches the coast two hours later.|"
    "Rivers carry sand to the sea, where waves and wind shape it into beaches and dunes.|"
    "The old mill was bought by a school, which now uses its upper floor as a workshop.|"
    "Most owls hunt at night; their soft feathers let them fly without a sound.|"
    "The council planted two hundred trees last spring, and nearly all of them survived the dry summer.|"
    "Tea came to the town with merchants, and soon every family had a kettle on the stove.|"
    "The team lost its first three games, changed its goalkeeper, and has not lost since."
).split("|")
WORDS = "happy|slow|bright|quiet|brave|cold|simple|strange|large|gentle|quick|ancient|rough|clear|empty|kind".split("|")
TONES = "short|friendly|formal|simple|funny|careful".split("|")

TEMPLATES: tuple[Callable[[random.Random], str], ...] = (
    lambda r: f"Explain {r.choice(TOPICS)} in {r.choice(('two', 'three', 'four'))} sentences.",
    lambda r: f"What should a beginner know about {r.choice(TOPICS)}?",
    lambda r: f"Explain {r.choice(TOPICS)} to a child of {r.randint(5, 12)}.",
    lambda r: f"Give {r.randint(3, 7)} facts about {r.choice(TOPICS)}.",
    lambda r: f"Why do people care about {r.choice(TOPICS)}? Answer in a {r.choice(TONES)} way.",
    lambda r: f"Compare {' and '.join(r.sample(TOPICS, 2))} in a few sentences.",
    lambda r: f"List {r.randint(3, 6)} things to see in {r.choice(PLACES)}.",
    lambda r: f"What is the capital of {r.choice(PLACES)}, and what is it known for?",
    lambda r: f"Plan {r.randint(2, 4)} days in {r.choice(PLACES)} for a {r.choice(JOBS)} who likes {r.choice(TOPICS)}.",
    lambda r: f"Write a {r.choice(TONES)} story about {r.choice(THINGS)} and {r.choice(PEOPLE)}.",
    lambda r: f"Write a poem of {r.choice(('four', 'six', 'eight'))} lines about {r.choice(THINGS)}.",
    lambda r: f"Continue the story: {r.choice(PEOPLE)} opened the door and saw {r.choice(THINGS)}.",
    lambda r: f"Write a {r.choice(TONES)} email {r.choice(MAILS)}. Sign it as {r.choice(PEOPLE)}.",
    lambda r: f"How do I make {r.choice(FOODS)} for {r.randint(2, 8)} people?",
    lambda r: (
        f"{r.choice(PEOPLE)} has {r.randint(12, 60)} {(good := r.choice(GOODS))} and gives away {r.randint(2, 11)}. "
        f"How many {good} are left?"
    ),
    lambda r: (
        f"One of the {r.choice(GOODS)} costs {r.randint(2, 9)} dollars. What do {r.randint(3, 12)} of them cost? Show "
        "your steps."
    ),
    lambda r: f"What is {r.randint(11, 99)} {r.choice(('plus', 'minus', 'times'))} {r.randint(2, 30)}?",
    lambda r: f"Write a Python function that {r.choice(CODES)}.",
    lambda r: f"Write a Python function that {r.choice(CODES)}, and explain it to a {r.choice(JOBS)}.",
    lambda r: f"Summarise in one sentence: {' '.join(r.sample(FACTS, 2))}",
    lambda r: f"Rewrite this in a {r.choice(TONES)} tone: {r.choice(FACTS)}",
    lambda r: f'Text: {" ".join(r.sample(FACTS, 2))}\nWrite a question about the text, and answer it.',
    lambda r: (
        f"Turn this into JSON with the keys name, job and city: {r.choice(PEOPLE)} is a {r.choice(JOBS)} from "
        f"{r.choice(PLACES)}."
    ),
    lambda r: f"Give a synonym and an antonym of each: {', '.join(r.sample(WORDS, r.randint(2, 4)))}.",
    lambda r: f"Use the words {', '.join(r.sample(WORDS, 3))} in one sentence about {r.choice(TOPICS)}.",
    lambda r: f"Translate into French: {r.choice(PEOPLE)} works as a {r.choice(JOBS)} in {r.choice(PLACES)}.",
    lambda r: f"What does a {r.choice(JOBS)} do all day? Name {r.randint(3, 6)} tasks.",
    lambda r: f"Give {r.choice(PEOPLE)}, a {r.choice(JOBS)}, {r.randint(2, 5)} tips for learning about {r.choice(TOPICS)}.",
)  # fmt: skip
HELD_OUT = 0.02


def instructions(count: int, seed: int, split: str = "train") -> list[str]:
    """`count` prompts of a split, the templates in turn; prompt i is a function of seed, split and i alone.

    Splits are decided by a hash of the text, so that no prompt is in two of them: 2 % test, 1 % validation.
    """
    if split not in SPLITS:
        raise InputError(f"split {split!r} is unknown; one of {', '.join(SPLITS)}")
    return [_instruction(number, seed, split) for number in range(count)]


def _instruction(number: int, seed: int, split: str) -> str:
    rng = random.Random(f"instructions:{seed}:{split}:{number}")
    for _ in range(10**4):
        text = TEMPLATES[number % len(TEMPLATES)](rng)
        if split_of("instructions", text, HELD_OUT) == split:
            return text
        number += 1  # a template with few fillings may have none in this split
    raise AssertionError(f"no prompt of split {split}")
