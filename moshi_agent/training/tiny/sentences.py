"""Sentences that the built-in model does not know, made by a small grammar.

The grammar never yields a known question or one of the sentences kept for measuring.
"""

from __future__ import annotations

import re

import numpy as np

from moshi_agent.training.tiny.held_out_sentences import HELD_OUT_SENTENCES
from moshi_agent.training.tiny.phrases import load_phrases, plain

# A word in braces is replaced by one of the choices under that name.
TEMPLATES = (
    "where is the {thing}?",
    "where did you put the {thing}?",
    "how much does the {thing} cost?",
    "is there a {place} near here?",
    "how do I get to the {place}?",
    "when does the {place} open?",
    "who is {person}?",
    "have you seen {person}?",
    "when will {person} {verb}?",
    "why did {person} {verb}?",
    "what is a {thing}?",
    "what does {topic} mean?",
    "what do you know about {topic}?",
    "tell me about {topic}.",
    "explain {topic} to me.",
    "can you help me with {topic}?",
    "do you like {food}?",
    "how do I cook {food}?",
    "I would like some {food}, please.",
    "we had {food} {time}.",
    "my {relative} hates {food}.",
    "{person} is going to {verb} {time}.",
    "I think we should {verb} {time}.",
    "shall we {verb} {time}?",
    "do you want to {verb} with me?",
    "I forgot to {verb} {time}.",
    "remind me to {verb} {time}.",
    "my {relative} works at the {place}.",
    "the {thing} is {quality}.",
    "this {thing} looks {quality} to me.",
    "why is the {thing} so {quality}?",
    "are you {quality}?",
    "were you ever {quality}?",
    "I feel {quality} {time}.",
    "how {quality} is your {thing}?",
    "the {animal} is under the {thing}.",
    "there is a {animal} in the {place}.",
    "do you have a {animal}?",
    "what does a {animal} eat?",
    "how old is your {relative}?",
    "please open the {thing}.",
    "please close the {thing}.",
    "turn on the {thing}.",
    "turn off the {thing}.",
    "play some {topic}.",
    "call {person}.",
    "send a message to {person}.",
    "book a table at the {place}.",
    "buy a {thing} at the {place}.",
    "{number} {animal}s are too many.",
    "I need {number} {thing}s.",
    "what is {number} times {number}?",
    "the train leaves at {number}.",
    "my number is {number} {number} {number}.",
    "could you bring me the {thing}?",
    "would you ever {verb}?",
    "did you {verb} {time}?",
    "never mind the {thing}.",
    "did it rain in {country} {time}?",
    "have you been to {country}?",
    "{person} comes from {country}.",
    "how far away is {country}?",
    "nobody told me about the {thing}.",
    "that {animal} was really {quality}.",
    "yes.",
    "no, thanks.",
    "maybe {time}.",
    "well, I am not sure.",
    "just a moment.",
    "of course, {person}.",
    "okay, let us {verb}.",
    "{topic}.",
    "the {thing}, please.",
    "what about {topic}?",
    "and {person}?",
)
# Close to a known question, and yet another one.
NEAR_TEMPLATES = (
    "what is the name of your {relative}?",
    "what is my name?",
    "what is your address?",
    "tell me a secret.",
    "tell me a story about a {animal}.",
    "tell me a poem.",
    "what is the capital of {country}?",
    "how much is {number} plus {number}?",
    "count to {number}.",
    "count the {thing}s.",
    "what is your favourite {thing}?",
    "which {thing} do you like best?",
    "which colour is the {thing}?",
    "can you tell me the {thing}?",
    "can you tell me a lie?",
    "can you see me?",
    "can you hear the {animal}?",
    "do you speak with {person}?",
    "do you speak {language}?",
    "how are your {relative}s?",
    "how is {person} today?",
    "how old are you?",
    "how tall are you?",
    "who created the {thing}?",
    "who invented {topic}?",
    "are you a {animal}?",
    "are you a teacher?",
    "please sing louder.",
    "please stop the {thing}.",
    "please start talking.",
    "where does {person} live?",
    "where do you work?",
    "spell the word {thing}.",
    "explain what a {thing} is.",
    "name the months of the year.",
    "what is the {thing} like?",
    "good morning, {person}.",
    "thank you for the {thing}.",
    "read me a long book.",
    "could you open that?",
    "what can {person} do?",
    "how fast does the {animal} run?",
    "how does the {thing} begin?",
    "what is the",
    "can you tell me",
    "how much is",
    "tell me a",
    "do you speak",
    "how does the",
    "please",
)
# Choices are parted by commas.
CHOICE_LISTS = {
    "thing": (
        "table, book, lamp, window, door, kettle, phone, bicycle, ticket, bottle, jacket, ladder, mirror, "
        "camera, basket, pillow, hammer, letter, blanket, spoon, computer, radio, umbrella, wallet, "
        "garden, chair, key, painting, battery, candle"
    ),
    "place": (
        "station, market, library, museum, hospital, bakery, airport, school, cinema, office, beach, "
        "hotel, pharmacy, church, restaurant, bank, stadium, harbour, theatre, bridge"
    ),
    "person": (
        "my brother, your sister, the doctor, Peter, Susan, the neighbour, Michael, Laura, the teacher, "
        "my boss, the driver, George, our friend, the manager, Helen, that man, everybody, Martin"
    ),
    "relative": "mother, father, cousin, uncle, aunt, daughter, son, grandfather, husband, wife",
    "verb": (
        "come back, travel, go swimming, read the paper, clean the kitchen, write a letter, buy a car, "
        "learn the piano, leave early, wait outside, cook dinner, visit the doctor, play football, watch "
        "a film, paint the fence, run a marathon, change the plan, fix the roof, pay the bill, dance"
    ),
    "topic": (
        "history, football, politics, cooking, the moon, gravity, dinosaurs, jazz, insurance, "
        "photography, the ocean, money, volcanoes, modern art, chess, electricity, the election, my "
        "holiday, rock music, medicine, ancient Rome, gardening, the stock market, yoga"
    ),
    "food": (
        "pizza, soup, cheese, bread, rice, pancakes, salad, chicken, chocolate, pasta, apples, fish, honey"
    ),
    "time": (
        "tomorrow, yesterday, tonight, next week, last month, on Monday, in the morning, at noon, every "
        "day, after lunch, this afternoon, on my birthday, in summer, later"
    ),
    "quality": (
        "broken, heavy, expensive, tired, happy, angry, cold, hungry, strange, clever, noisy, old, "
        "dangerous, boring, lucky, busy, perfect, dirty, nervous, empty"
    ),
    "animal": "dog, cat, horse, spider, rabbit, chicken, monkey, tiger, snake, parrot, mouse, elephant, duck",
    "number": "three, four, six, seven, eight, nine, ten, eleven, twelve, twenty, thirty, hundred",
    "country": "Spain, Italy, Canada, Japan, Brazil, Norway, Egypt, Mexico, India, Germany, Poland, Kenya",
    "language": "Spanish, Chinese, Italian, Russian, Arabic, French, German",
}
NEAR_SHARE = 0.2


def unknown_sentences(count: int, seed: int) -> list[str]:
    """`count` different sentences, none of them a known question or a held-out sentence."""
    rng = np.random.default_rng(seed)
    phrases = load_phrases()
    banned = {plain(known.question) for known in (*phrases.exchanges, *phrases.lookups)}
    banned |= {plain(sentence) for sentence in HELD_OUT_SENTENCES}
    sentences: dict[str, str] = {}
    while len(sentences) < count:
        sentence = _sentence(rng)
        if plain(sentence) not in banned:
            sentences.setdefault(plain(sentence), sentence)
    return list(sentences.values())


def grammar_words() -> set[str]:
    """Every word that a training sentence can hold, in plain form."""
    texts = (re.sub(r"\{\w+\}", " ", text) for text in (*TEMPLATES, *NEAR_TEMPLATES, *CHOICE_LISTS.values()))
    return {word for text in texts for word in plain(text).split()}


def _sentence(rng: np.random.Generator) -> str:
    templates = NEAR_TEMPLATES if rng.random() < NEAR_SHARE else TEMPLATES
    template = templates[int(rng.integers(len(templates)))]

    def choose(slot: re.Match[str]) -> str:
        choices = CHOICE_LISTS[slot.group(1)].split(", ")
        return choices[int(rng.integers(len(choices)))]

    filled = re.sub(r"\{(\w+)\}", choose, template)
    return filled[0].upper() + filled[1:]
