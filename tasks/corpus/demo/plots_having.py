"""Plots of the demo corpus about having: things found, lost and given, pets, and shopping.

Every way to tell a move states what its answers say, and no question of a plot has two answers.
A pronoun only stands where the sentences before leave no doubt whom it means.
"""

from __future__ import annotations

from tasks.corpus.demo.moves import (
    HE_IS_GLAD,
    HERO_IS_GLAD,
    HERO_IS_SORRY,
    HERO_WAS,
    MEAL,
    WEATHER,
    Plot,
    tell,
)

FOUND = Plot(
    titles=("{hero} and the {thing}", "The {colour} {thing}", "A day {place.in}"),
    paragraphs=(
        (
            HERO_WAS,
            tell(
                "One day, {hero.he} went to {place}.",
                "One {daypart}, {hero} went to {place}.",
                "{hero} went to {place} one {daypart}.",
                ask={"Where did {hero} go?": "{hero} went to {place}."},
            ),
            tell(
                "{hero.he} walked slowly and looked around.",
                "{hero.he} sang a little song on the way.",
                "{hero.he} wanted to be alone for a while.",
                chance=0.4,
            ),
            WEATHER,
            tell(
                "{hero} found {colour.a} {thing}.",
                "There {hero} found {colour.a} {thing}.",
                "Soon {hero} found {colour.a} {thing}.",
                ask={
                    "What did {hero} find?": "{hero} found {colour.a} {thing}.",
                    "What colour was the {thing}?": "The {thing} was {colour}.",
                },
            ),
            HE_IS_GLAD,
            tell(
                "It looked old, but it was not broken.",
                "Nobody else was there.",
                "{hero} looked at the {thing} for a long time.",
                chance=0.7,
            ),
        ),
        (
            tell(
                "Then {hero} met {friend}.",
                "On the way home, {hero} met {friend}.",
                "Later, {hero} met {hero.his} friend {friend}.",
                ask={"Who did {hero} meet?": "{hero} met {friend}."},
            ),
            tell(
                '"What a nice {thing}!" said {friend}.',
                '"I like your {thing}," said {friend}.',
                '"Where did you find the {thing}?" asked {friend}.',
                "{friend} looked at the {thing} and smiled.",
                chance=0.7,
            ),
            tell(
                "{hero} gave the {thing} to {friend}.",
                "So {hero} gave the {thing} to {friend}.",
                "In the end, {hero} gave the {thing} to {friend}.",
                ask={"What did {hero} give to {friend}?": "{hero} gave the {thing} to {friend}."},
                chance=0.8,
            ),
            tell(
                "They talked for {number} hours.",
                "They sat down and talked for {number} hours.",
                ask={"How long did they talk?": "They talked for {number} hours."},
                chance=0.6,
            ),
            tell(
                "They walked home together.",
                "Then they went home.",
                "They laughed and sang on the way home.",
                "It was a good day for both of them.",
            ),
        ),
    ),
)

LOST = Plot(
    titles=("The lost {thing}", "{hero} and the lost {thing}", "{friend} helps {hero}"),
    paragraphs=(
        (
            HERO_WAS,
            tell(
                "{hero} had {colour.a} {thing}.",
                "{hero.he} had {colour.a} {thing} at home.",
                "{hero} had {colour.a} {thing}, a gift from {hero.his} {relative}.",
                ask={
                    "What did {hero} have?": "{hero} had {colour.a} {thing}.",
                    "What colour was the {thing}?": "The {thing} was {colour}.",
                },
            ),
            tell(
                "{hero.he} liked it very much.",
                "{hero.he} looked at it every day.",
                "It was old, but {hero.he} loved it.",
                chance=0.8,
            ),
            tell(
                "But one {daypart}, the {thing} was gone.",
                "One {daypart}, {hero} could not find the {thing}.",
                "One day, {hero} lost the {thing}.",
            ),
            HERO_IS_SORRY,
        ),
        (
            tell(
                "{hero} looked {spot}, but the {thing} was not there.",
                "First, {hero} looked {spot}, but the {thing} was not there.",
                ask={"Where did {hero} look?": "{hero} looked {spot}."},
            ),
            tell('"Where is my {thing}?" asked {hero}.', '"I need help," said {hero}.', chance=0.4),
            tell(
                "{friend} came to help.",
                "Then {friend} came to help.",
                "Soon {friend} came to help {hero.him}.",
                ask={"Who came to help?": "{friend} came to help."},
            ),
            tell(
                "{friend} lived near {place}.",
                "{friend} lived in a small house near {place}.",
                ask={"Where did {friend} live?": "{friend} lived near {place}."},
                chance=0.6,
            ),
            tell(
                "{friend} found the {thing} {spot2}.",
                "At last, {friend} found the {thing} {spot2}.",
                "{friend} looked around and found the {thing} {spot2}.",
                ask={
                    "Who found the {thing}?": "{friend} found the {thing}.",
                    "Where was the {thing}?": "The {thing} was {spot2}.",
                },
            ),
        ),
        (
            tell(
                '"Thank you, {friend}," said {hero}.',
                '"You are a good friend," said {hero}.',
                '"Thank you very much," said {hero}.',
                chance=0.7,
            ),
            tell(
                "They were both very glad.",
                "After that, they drank {drink} together.",
                "Then they went out to play.",
                "{hero} never lost the {thing} again.",
            ),
        ),
    ),
)

GIFT = Plot(
    titles=("{hero.s} birthday", "The party", "A birthday on {day}"),
    paragraphs=(
        (
            tell(
                "It was {hero.s} birthday.",
                "At last it was {hero.s} birthday.",
                ask={"Whose birthday was it?": "It was {hero.s} birthday."},
            ),
            tell(
                "{hero} was {number} years old.",
                "{hero} was now {number} years old.",
                ask={"How old was {hero}?": "{hero} was {number} years old."},
                chance=0.8,
            ),
            tell(
                "The party was on {day}.",
                "There was a party on {day}.",
                ask={"When was the party?": "The party was on {day}."},
                chance=0.8,
            ),
            WEATHER,
            tell(
                "{friend} and {third} came to the party.",
                "In the {daypart}, {friend} and {third} came to the party.",
                ask={"Who came to the party?": "{friend} and {third} came to the party."},
                chance=0.7,
            ),
        ),
        (
            tell(
                "{friend} gave {hero} {colour.a} {thing}.",
                "First, {friend} gave {hero} {colour.a} {thing}.",
                ask={
                    "What did {friend} give {hero}?": "{friend} gave {hero} {colour.a} {thing}.",
                    "Who gave {hero} the {thing}?": "{friend} gave {hero} the {thing}.",
                },
            ),
            tell(
                "{third} gave {hero} {colour2.a} {thing2}.",
                "Then {third} gave {hero} {colour2.a} {thing2}.",
                ask={
                    "What did {third} give {hero}?": "{third} gave {hero} {colour2.a} {thing2}.",
                    "Who gave {hero} the {thing2}?": "{third} gave {hero} the {thing2}.",
                },
            ),
            (
                tell(
                    "{hero} liked the {thing} best.",
                    ask={"What did {hero} like best?": "{hero} liked the {thing} best."},
                ),
                tell(
                    "{hero} liked the {thing2} best.",
                    ask={"What did {hero} like best?": "{hero} liked the {thing2} best."},
                ),
            ),
            tell('"Thank you, my friends," said {hero}.', '"How kind you are!" said {hero}.'),
        ),
        (
            MEAL,
            HERO_IS_GLAD,
            tell(
                "Everyone sang and danced until the evening.",
                "They played games until it was dark.",
                "It was a very good party.",
            ),
        ),
    ),
)

PET = Plot(
    titles=("{hero} and the {animal}", "{petname} runs away", "{petname} the {animal}"),
    paragraphs=(
        (
            HERO_WAS,
            tell(
                "{hero} had {look.a} {animal}.",
                "{hero.he} had {look.a} {animal}, a gift from {hero.his} {relative}.",
                ask={"What pet did {hero} have?": "{hero} had {look.a} {animal}."},
            ),
            tell(
                "The {animal.s} name was {petname}.",
                ask={"What was the {animal.s} name?": "The {animal.s} name was {petname}."},
            ),
            tell(
                "{petname} liked to sleep {spot}.",
                "At night, {petname} liked to sleep {spot}.",
                ask={"Where did {petname} like to sleep?": "{petname} liked to sleep {spot}."},
                chance=0.6,
            ),
            tell(
                "Every day, {hero} gave {petname} some {meal}.",
                "{hero} gave {petname} some {meal} every {daypart}.",
                ask={"What did {hero} give {petname}?": "{hero} gave {petname} some {meal}."},
                chance=0.6,
            ),
        ),
        (
            tell(
                "One {daypart}, {petname} ran to {place}.",
                "One {daypart}, {petname} ran away to {place}.",
                "But one day, {petname} ran to {place}.",
                ask={"Where did {petname} run?": "{petname} ran to {place}."},
            ),
            HERO_IS_SORRY,
            tell(
                "{hero} called and called, but the {animal} did not come.",
                '"Where are you, {petname}?" called {hero}.',
                chance=0.5,
            ),
            tell(
                "{friend} found the {animal} {place2.in}.",
                "At last, {friend} found the {animal} {place2.in}.",
                ask={
                    "Who found the {animal}?": "{friend} found the {animal}.",
                    "Where was the {animal}?": "The {animal} was {place2.in}.",
                },
            ),
            tell(
                "Then {friend} carried {petname} home.",
                "{hero} and {friend} took {petname} home.",
                "The {animal} was tired and wanted to go home.",
                chance=0.6,
            ),
        ),
        (
            tell(
                '"Thank you for your help," said {hero}.',
                '"I am so glad," said {hero}.',
                '"You must not do that again," {hero} told {petname}.',
                chance=0.6,
            ),
            tell(
                "The {animal} soon fell asleep.",
                "{petname} never ran away again.",
                "That night, {petname} slept very well.",
            ),
        ),
    ),
)

MARKET = Plot(
    titles=("A day at the market", "{hero} and {friend}", "{number} {food.many}"),
    paragraphs=(
        (
            tell(
                "{hero} and {friend} went to the market.",
                "One {daypart}, {hero} and {friend} went to the market.",
                "One day, {hero} and {friend} went to the market.",
                ask={"Who went to the market?": "{hero} and {friend} went to the market."},
            ),
            tell(
                "{hero} needed {food.many}, and {friend} needed {food2.many}.",
                "{hero} wanted {food.many}, and {friend} wanted {food2.many}.",
                chance=0.9,
            ),
            WEATHER,
            tell(
                "{hero} bought {number} {food.many}.",
                "There {hero} bought {number} {food.many}.",
                ask={
                    "What did {hero} buy?": "{hero} bought {number} {food.many}.",
                    "How many {food.many} did {hero} buy?": "{hero} bought {number} {food.many}.",
                },
            ),
            tell(
                "{friend} bought {number2} {food2.many}.",
                "Then {friend} bought {number2} {food2.many}.",
                ask={
                    "What did {friend} buy?": "{friend} bought {number2} {food2.many}.",
                    "How many {food2.many} did {friend} buy?": (
                        "{friend} bought {number2} {food2.many}."
                    ),
                },
            ),
            tell(
                "They paid {number3} coins.",
                "For all this, they paid {number3} coins.",
                ask={"How many coins did they pay?": "They paid {number3} coins."},
                chance=0.9,
            ),
        ),
        (
            tell(
                "On the way home, they met {third}.",
                "Then they met {third}.",
                ask={"Who did they meet?": "They met {third}."},
            ),
            tell(
                "{third} lived near {place}.",
                "{third} lived in a small house near {place}.",
                ask={"Where did {third} live?": "{third} lived near {place}."},
                chance=0.6,
            ),
            tell(
                '"I am hungry," said {third}.',
                '"What did you buy?" asked {third}.',
                '"That looks very good," said {third}.',
                chance=0.8,
            ),
            tell(
                "{friend} gave {third} {food2.a}.",
                "Then {friend} gave {third} {food2.a}.",
                ask={"What did {friend} give {third}?": "{friend} gave {third} {food2.a}."},
            ),
            MEAL,
            tell(
                "Then they all went home.",
                "They all walked home together.",
                "{third} thanked them and went home.",
            ),
        ),
    ),
)

HAVING_PLOTS: tuple[Plot, ...] = (FOUND, LOST, GIFT, PET, MARKET)
