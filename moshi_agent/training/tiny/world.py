"""The closed world of the built-in model: what it can be told to say, composed of a few hundred words.

Numbers to ninety-nine, times of the day, weekdays, amounts, orders, dishes, short names, yes and no.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np

from moshi_agent.training.tiny.number_words import amount, clock, number

Rng = np.random.Generator

# fmt: off
WEEKDAYS = (
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
)
NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Julia", "Kate", "Leo", "Maria",
    "Nick", "Olivia", "Paul", "Rosa", "Sam", "Tom", "Vera", "Peter", "Susan", "Laura", "George", "Helen",
    "Martin",
)
DISHES = (
    "soup", "salad", "pizza", "coffee", "tea", "bread", "cake", "pasta", "rice", "fish", "chicken",
    "cheese", "breakfast", "lunch", "dinner",
)
THINGS = (
    "ticket", "book", "lamp", "phone", "bottle", "jacket", "key", "letter", "package", "chair", "table",
    "radio", "camera", "bicycle",
)
PLACES = (
    "shop", "bank", "library", "museum", "station", "kitchen", "office", "hotel", "market", "pharmacy",
    "restaurant", "pool",
)
ROOMS = (
    "kitchen", "office", "garden", "hall", "bedroom", "bathroom",
)
WEATHER = (
    "sunny", "rainy", "cloudy", "windy", "cold", "warm", "dry", "foggy",
)
COLOURS = (
    "red", "blue", "green", "yellow", "black", "white", "brown", "grey",
)
# fmt: on

TEMPLATES = (
    # orders
    "Your order is on its way.",
    "Your order has arrived.",
    "Your order is late.",
    "Your order is late, I am sorry.",
    "Your order will arrive on {weekday}.",
    "Your order will arrive {daytime}.",
    "Your order was sent on {weekday}.",
    "Your order will be there in {number} minutes.",
    "Your {thing} is on its way.",
    "Your {thing} has arrived.",
    "Your {thing} will arrive on {weekday} at {time}.",
    "Order number {number} is ready.",
    "I cannot find your order.",
    "You have {number} orders.",
    # times
    "It is {time}.",
    "It is {time} now.",
    "It is {weekday}.",
    "Today is {weekday}.",
    "Tomorrow is {weekday}.",
    "The {place} opens at {time}.",
    "The {place} closes at {time}.",
    "The {place} is open from {time} to {time}.",
    "The {place} is closed on {weekday}.",
    "The next train leaves at {time}.",
    "The next bus leaves in {number} minutes.",
    "The train is {number} minutes late.",
    "Your appointment is on {weekday} at {time}.",
    "Your appointment is with {name} at {time}.",
    "You have no appointment {daytime}.",
    "The meeting begins at {time}.",
    "The table is booked for {time}.",
    "The table is booked for {number} people.",
    # amounts
    "The {dish} costs {amount}.",
    "The {dish} and the {dish} cost {amount}.",
    "The {thing} costs {amount}.",
    "That makes {amount}.",
    "You have {amount} left.",
    "Your bill is {amount}.",
    "You owe {name} {amount}.",
    # numbers
    "{number}.",
    "{number}, {number}, {number}.",
    "{number} plus {number} is {number}.",
    "{number} minus {number} is {number}.",
    "The number is {number}.",
    "Your room number is {number}.",
    "There are {number} {thing}s in the {room}.",
    "There are {number} messages for you.",
    "You have {number} new messages from {name}.",
    "It is {number} degrees and {weather}.",
    "It will be {weather} {daytime}.",
    "It will be {weather} on {weekday}, with {number} degrees.",
    # yes and no
    "Yes.",
    "No.",
    "Yes, it is.",
    "No, it is not.",
    "Yes, we have {dish}.",
    "No, there is no {dish} today.",
    "Yes, the {place} is open.",
    "No, the {place} is closed.",
    "Yes, on {weekday}.",
    "No, I am sorry.",
    "Of course.",
    "I do not know.",
    # names
    "{name} is in the {room}.",
    "{name} is not here.",
    "{name} will call you back at {time}.",
    "{name} called at {time}.",
    "This is {name}.",
    "Hello, {name}.",
    "Thank you, {name}.",
    "Goodbye, {name}.",
    "{name} and {name} are here.",
    "The message is from {name}.",
    "The {thing} is {colour}.",
    "The {thing} is in the {room}.",
    "Today we have {dish} and {dish}.",
    # what covers a wait
    "One moment, please.",
    "Let me see.",
    "Let me look that up.",
    "Just a moment, {name}.",
    "I am looking.",
    "Please wait a moment.",
    "Here it is.",
    "I have found it.",
    "I could not find that.",
)


def sentence(rng: Rng, templates: tuple[str, ...] = TEMPLATES) -> str:
    """A sentence of the closed world."""
    return filled(templates[int(rng.integers(len(templates)))], rng)


def filled(template: str, rng: Rng) -> str:
    """`template` with a choice in the place of every name in braces, and a capital letter."""
    text = re.sub(r"\{(\w+)\}", lambda slot: SLOTS[slot.group(1)](rng), template)
    return text[0].upper() + text[1:]


def _one_of(choices: tuple[str, ...]) -> Callable[[Rng], str]:
    return lambda rng: choices[int(rng.integers(len(choices)))]


def _number(rng: Rng) -> str:
    return number(int(rng.integers(100)) if rng.random() < 0.7 else int(rng.integers(13)))


def _time(rng: Rng) -> str:
    return clock(int(rng.integers(1, 13)), int(rng.integers(12)) * 5)


def _amount(rng: Rng) -> str:
    currency = ("dollar", "euro")[int(rng.integers(2))]
    hundredths = int(rng.integers(1, 20)) * 5 if rng.random() < 0.5 else 0
    return amount(int(rng.integers(1, 100)), hundredths, currency)


SLOTS: Mapping[str, Callable[[Rng], str]] = {
    "number": _number,
    "time": _time,
    "amount": _amount,
    "weekday": _one_of(WEEKDAYS),
    "name": _one_of(NAMES),
    "dish": _one_of(DISHES),
    "thing": _one_of(THINGS),
    "place": _one_of(PLACES),
    "room": _one_of(ROOMS),
    "weather": _one_of(WEATHER),
    "colour": _one_of(COLOURS),
    "daytime": _one_of(("today", "tomorrow", "tonight", "in the morning", "this afternoon", "this evening")),
}
