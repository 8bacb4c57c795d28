"""Writes the labelled rows of `jaxdlm eval --tasks decisions`: 200 questions with answers, 50 of each of four kinds;
hand-written texts, and seeded combinations.

    python benchmarks/labelled.py

Rows are those of `jaxdlm decide`: prompt, questions, and answers by their names, so that `--calibrate` reads them as well.
"""

import json
import pathlib
import random
from collections.abc import Iterator
from typing import Any

FILE = pathlib.Path(__file__).parents[1] / "jaxdlm" / "eval" / "labelled.jsonl"
Row = dict[str, Any]

GOOD = (
    "I have rarely laughed so much in a cinema, and I would watch it again tomorrow.",
    "The soup was hot, the bread was fresh and the waiter remembered our names.",
    "After two years this kettle still works as it did on the first day.",
    "Check-in took a minute and the view from the window was worth every cent.",
    "My daughter finished the whole series in a week and asked for the next one.",
    "The repair cost half of what I had feared and was done by noon.",
    "A quiet, patient book that stayed with me for days.",
    "Our guide knew every bird in the valley; the children did not want to leave.",
    "The new update is fast and I finally find my files.",
    "They answered my mail within the hour and sent the missing screw for free.",
    "The orchestra was superb and the hall sounded wonderful.",
    "Best pair of walking shoes that I have owned, not one blister in ten days.",
)
BAD = (
    "I left after forty minutes, and I was not the first one.",
    "The soup was cold, the bread was stale and nobody apologised.",
    "The kettle leaked on the second day and the shop does not answer.",
    "We waited an hour for a key and the room smelled of smoke.",
    "My daughter gave up after ten pages, and so did I.",
    "The repair cost twice the estimate and the noise is back.",
    "A dull, endless book; I skipped the last chapters.",
    "Our guide was late, rude and mostly on his phone.",
    "Since the update the app crashes whenever I open a file.",
    "Three mails, no answer, and the screw is still missing.",
    "The singer was out of tune and the sound was dreadful.",
    "These shoes fell apart in a week and gave me blisters.",
)
THINGS = (
    "hotel",
    "phone",
    "restaurant",
    "film",
    "course",
    "train ride",
    "headset",
    "museum",
    "game",
    "delivery service",
)
PRAISE = (
    "was a pleasure from beginning to end",
    "was better than anything that I have tried before",
    "is worth the money",
)
BLAME = (
    "was a disappointment from beginning to end",
    "was worse than anything that I have tried before",
    "is a waste of money",
)
WHO = (
    "My brother agrees",
    "I told all my friends",
    "We talked about it on the way home",
    "Nobody in the family would say otherwise",
)

TOPICS = {
    "sport": (
        "The keeper saved two penalties and the visitors left with a draw.", "She broke the national record over 400 metres.",
        "The coach will miss three of his best players in the final.", "Rain stopped play in the second set.",
        "The club has signed a striker from the second division.", "The cyclist lost his lead on the last climb.",
        "After the break the hosts scored twelve points in a row.", "The referee sent off the captain before half-time.",
        "The swimmers train at five in the morning, six days a week.", "Fans queued all night for tickets to the derby.",
        "The rower won silver by the length of a hand.", "The tournament will be played on clay this year.",
    ),
    "money": (
        "The central bank left interest rates where they were.", "Shares of the carmaker fell by eight percent after the news.",
        "Prices rose more slowly in May than in April.", "The start-up raised twenty million from two funds.",
        "Savers moved their deposits to bonds.", "The pound gained against the dollar on Thursday.",
        "The retailer will close forty shops and cut its debt.", "Exports shrank for the third quarter in a row.",
        "The ministry plans a tax on second homes.", "Mortgage lending is at its lowest in ten years.",
        "The insurer pays a dividend of two euros a share.", "Analysts expect profits to double.",
    ),
    "science": (
        "The probe sent its first pictures of the icy moon.", "Researchers found a gene that helps wheat survive drought.",
        "The telescope saw a galaxy older than any before.", "Bees can tell human faces apart, an experiment shows.",
        "Chemists have made a plastic that dissolves in sea water.", "The fossil is of a feathered dinosaur the size of a crow.",
        "A vaccine against the virus passed its first trial.", "Physicists measured the mass of the particle once more.",
        "The glacier has lost a third of its ice since 1980.", "Neurons of the octopus edit their own messages.",
        "The earthquake was felt by sensors on the other side of the globe.", "Bacteria from hot springs yield a new enzyme.",
    ),
    "food": (
        "Fry the onions slowly until they are golden.", "The bakery sells out of rye bread before nine.",
        "Let the dough rest overnight in the fridge.", "Her lentil soup needs nothing but cumin and a lemon.",
        "The chef serves the fish with fennel and orange.", "A pinch of salt makes the caramel less sweet.",
        "The village is known for its goat cheese.", "Roast the pumpkin with thyme and garlic.",
        "The tasting menu has seven courses, all without meat.", "Whisk the eggs before you add the warm milk.",
        "This year's olives were pressed within a day.", "The café roasts its own beans behind the counter.",
    ),
}  # fmt: skip
LEADS = ("From this morning's paper: ", "A note on the board says: ", "", "He read aloud: ", "In the newsletter: ")

LEVELS = ("not urgent", "can wait a week", "this week", "today", "at once")
URGENT = (
    (
        "No hurry at all: some day I would like the printed catalogue.",
        "Just an idea for next year: a darker cover would look nice.",
        "Whenever you are bored, tell me who drew the logo.",
        "There is no rush, I only wonder whether you have a museum.",
        "Someday you might mend the typo on page 90; nobody minds it.",
    ),
    (
        "Please send the invoice again, some time next week is fine.",
        "The spare lamp is flickering; have a look within ten days or so.",
        "I would like to change my address from next month on.",
        "Could you book the small room for the meeting in two weeks?",
        "The next order can leave with the usual delivery, about a week from now.",
    ),
    (
        "We need the signed contract before Friday.",
        "The heating makes a noise; please come in the next two or three days.",
        "Our stock of paper lasts until the weekend, so send more this week.",
        "The guests arrive on Saturday and the beds are not here yet.",
        "I must hand in the report in three days and miss one figure.",
    ),
    (
        "I need the password this afternoon, the presentation is tonight.",
        "The shop opens at six this evening and the till does not start.",
        "Please call me back today, the offer ends at midnight.",
        "Our freezer stopped this morning; someone has to come before the evening.",
        "The parcel must leave today or it will miss the ship.",
    ),
    (
        "Water is pouring through the ceiling right now, send somebody immediately!",
        "There is smoke in the server room, what do we do?",
        "The patient has stopped breathing, help!",
        "The lift is stuck with two people inside, come now!",
        "Someone is using my card this very minute, block it at once!",
    ),
)  # fmt: skip
FIRST = ("Hello! ", "To the team: ", "", "Good morning. ")

NAMES = ("Anders", "Bela", "Carmen", "Dilip", "Esra", "Femi", "Greta", "Hugo", "Ines", "Jonas")
FACTS: tuple[tuple[str, str, str, str], ...] = (  # text, text of the other answer, question, ...
    ("{a} paid the bill on Monday, and {b} thanked {a}.", "{a} has still not paid the bill, and {b} sent a reminder.",
     "Has {a} paid the bill?", "bill"),
    ("The train of {a} came on time and {b} was at the station.", "The train of {a} was two hours late and {b} went home.",
     "Was the train on time?", "train"),
    ("{a} speaks Portuguese at home, and {b} only German.", "{a} speaks Danish at home, and only {b} knows Portuguese.",
     "Does {a} speak Portuguese?", "language"),
    ("{a} is older than {b} by three years.", "{a} is younger than {b} by three years.", "Is {a} older than {b}?", "age"),
    ("The keys of {a} are in the drawer, {b} saw them there.", "The keys of {a} are gone, {b} looked in every drawer.",
     "Are the keys in the drawer?", "keys"),
    ("{a} took the blue car and {b} the red one.", "{a} took the red car and {b} the blue one.",
     "Did {a} take the blue car?", "car"),
    ("{b} asked for the day off, and the manager agreed at once.", "{b} asked for the day off, but the manager refused.",
     "Does {b} get the day off?", "leave"),
    ("The shop in the lane where {a} works opens on Sundays.", "The shop in the lane where {a} works is closed on Sundays.",
     "Is the shop open on Sundays?", "shop"),
)  # fmt: skip


def sentiment(rng: random.Random) -> Iterator[Row]:
    texts = [(text, True) for text in GOOD] + [(text, False) for text in BAD]
    while len(texts) < 50:
        good = len(texts) % 2 == 0
        verdict = rng.choice(PRAISE if good else BLAME)
        text = f"The {rng.choice(THINGS)} {verdict}. {rng.choice(WHO)}."
        texts += [] if (text, good) in texts else [(text, good)]
    for text, good in texts:
        question = {"type": "choice", "name": "sentiment", "instructions": "What is the feeling of this review?",
                    "choices": [{"value": "positive"}, {"value": "negative"}]}  # fmt: skip
        yield row(text, question, "positive" if good else "negative")


def topic(rng: random.Random) -> Iterator[Row]:
    every = [(text, name) for name, texts in TOPICS.items() for text in texts]
    pairs = [(rng.choice(LEADS) + text, name) for text, name in every]
    pairs += [(f"{a} {b}", name) for name, (a, b, *_) in list(TOPICS.items())[:2]]
    for text, name in pairs:
        question = {"type": "choice", "name": "topic", "instructions": "What is this text about?",
                    "choices": [{"value": name} for name in TOPICS]}  # fmt: skip
        yield row(text, question, name)


def truth(rng: random.Random) -> Iterator[Row]:
    made: set[str] = set()
    while len(made) < 50:
        (yes, no, question, _), (a, b) = FACTS[len(made) % len(FACTS)], rng.sample(NAMES, 2)
        right = rng.random() < 0.5
        text = (yes if right else no).format(a=a, b=b)
        if text not in made:
            made.add(text)
            asked = {"type": "predicate", "name": "fact", "instructions": question.format(a=a, b=b)}
            yield row(text, asked, right)


def urgency(rng: random.Random) -> Iterator[Row]:
    for level, texts in enumerate(URGENT):
        for text in texts:
            for lead in rng.sample(FIRST, 2):
                question = {"type": "score", "name": "urgency", "instructions": "How urgent is this message?",
                            "levels": [{"label": name} for name in LEVELS]}  # fmt: skip
                yield row(lead + text, question, level)


def row(text: str, question: Row, answer: Any) -> Row:
    return {"prompt": text, "questions": [question], "answers": {question["name"]: answer}}


def rows() -> list[Row]:
    """All of them, in an order of no meaning."""
    rng = random.Random(11)
    made = [each for kind in (sentiment, topic, truth, urgency) for each in kind(rng)]
    rng.shuffle(made)
    return [{"id": number, **each} for number, each in enumerate(made)]


if __name__ == "__main__":
    FILE.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows()), encoding="utf-8")
