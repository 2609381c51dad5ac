"""Plots of the demo corpus about doing: making, travelling, working, racing and playing.

Every way to tell a move states what its answers say, and no question of a plot has two answers.
A pronoun only stands where the sentences before leave no doubt whom it means.
"""

from __future__ import annotations

from tasks.corpus.demo.moves import HE_IS_GLAD, HERO_IS_GLAD, HERO_WAS, MEAL, WEATHER, Plot, tell

MAKE = Plot(
    titles=("{hero} learns something new", "{hero} and {hero.his} {relative}", "A day with {hero}"),
    paragraphs=(
        (
            HERO_WAS,
            tell(
                "{hero} wanted to {craft}.",
                "One day, {hero.he} wanted to {craft}.",
                "On {day}, {hero} wanted to {craft}.",
                ask={"What did {hero} want to do?": "{hero} wanted to {craft}."},
            ),
            tell(
                "But {hero.he} did not know how.",
                "It was not easy, but {hero.he} wanted to learn.",
                "{hero.he} had never done this before.",
                chance=0.7,
            ),
            tell(
                "{hero} asked {hero.his} {relative} for help.",
                "So {hero.he} asked {hero.his} {relative} for help.",
                ask={
                    "Who did {hero} ask for help?": "{hero} asked {hero.his} {relative} for help."
                },
            ),
            tell(
                '"I will show you," said {hero.his} {relative}.',
                '"We can do it together," said {hero.his} {relative}.',
                "{hero.his} {relative} was glad to help.",
                chance=0.7,
            ),
        ),
        (
            tell(
                "They worked for {number} hours.",
                "Together they worked for {number} hours.",
                ask={"How long did they work?": "They worked for {number} hours."},
            ),
            tell(
                "At last, {hero} {craft.past}.",
                "In the end, {hero} {craft.past}, and it was not bad.",
                "So {hero} {craft.past} for the first time.",
            ),
            HE_IS_GLAD,
        ),
        (
            tell(
                "{friend} came to see it in the {daypart}.",
                "In the {daypart}, {friend} came to see it.",
                ask={
                    "Who came to see it?": "{friend} came to see it.",
                    "When did {friend} come?": "{friend} came in the {daypart}.",
                },
            ),
            tell(
                '"You did very well," said {friend}.',
                '"I want to learn this too," said {friend}.',
                '"Can you teach me?" asked {friend}.',
                chance=0.6,
            ),
            tell(
                "{friend} brought {colour.a} {thing} for {hero}.",
                ask={"What did {friend} bring?": "{friend} brought {colour.a} {thing}."},
                chance=0.4,
            ),
            tell(
                "They sat down and drank some {drink}.",
                "Then it was time to say goodbye.",
                "They talked about it for a long time.",
            ),
        ),
    ),
)

TRIP = Plot(
    titles=("A trip to {place}", "{hero} and {friend} {place.in}", "{weather.a} {day}"),
    paragraphs=(
        (
            tell(
                "{hero} and {friend} went to {place}.",
                "One day, {hero} and {friend} went to {place}.",
                ask={"Where did {hero} and {friend} go?": "{hero} and {friend} went to {place}."},
            ),
            tell(
                "They went on {day}.",
                "It was {day}.",
                ask={"When did they go?": "They went on {day}."},
                chance=0.5,
            ),
            tell(
                "They went there by {vehicle}.",
                "They went by {vehicle} because it was far.",
                ask={"How did they go there?": "They went there by {vehicle}."},
                chance=0.7,
            ),
            tell(
                "The trip took {number2} hours.",
                ask={"How long was the trip?": "The trip took {number2} hours."},
                chance=0.7,
            ),
            WEATHER,
            tell(
                "{hero} took {colour.a} {thing} with {hero.him}.",
                "{hero} took {colour.a} {thing}.",
                ask={"What did {hero} take?": "{hero} took {colour.a} {thing}."},
                chance=0.7,
            ),
            tell(
                "{friend} took {colour2.a} {thing2} with {friend.him}.",
                "{friend} took {colour2.a} {thing2}.",
                ask={"What did {friend} take?": "{friend} took {colour2.a} {thing2}."},
                chance=0.7,
            ),
        ),
        (
            tell(
                "{hero} saw {number} {animal.many} on the way.",
                "On the way, {hero} saw {number} {animal.many}.",
                ask={
                    "What did {hero} see?": "{hero} saw {number} {animal.many}.",
                    "How many {animal.many} did {hero} see?": "{hero} saw {number} {animal.many}.",
                },
            ),
            tell(
                "{friend} saw {look.a} {animal2}.",
                "Then, {friend} saw {look.a} {animal2}.",
                ask={"What did {friend} see?": "{friend} saw {look.a} {animal2}."},
            ),
            tell(
                '"Look at that!" said {friend}.',
                '"I have never seen that before," said {friend}.',
                '"Can we stay a little longer?" asked {friend}.',
                chance=0.5,
            ),
            MEAL,
            HERO_IS_GLAD,
            tell(
                "They came home late and went to bed.",
                "They were tired when they came home.",
                "They wanted to go there again.",
            ),
            tell(
                "The next day, {hero} {habit.past}.",
                ask={"What did {hero} do the next day?": "The next day, {hero} {habit.past}."},
                chance=0.4,
            ),
        ),
    ),
)

PROFILE = Plot(
    titles=("{hero} the {job}", "About {hero}", "{hero} and {friend}"),
    paragraphs=(
        (
            tell(
                "{hero} is {job.a}.",
                "My neighbour {hero} is {job.a}.",
                ask={"What is {hero.s} job?": "{hero} is {job.a}."},
            ),
            tell(
                "{hero.he} lives near {place}.",
                "{hero} lives near {place}.",
                "{hero} lives in a small house near {place}.",
                ask={"Where does {hero} live?": "{hero} lives near {place}."},
            ),
            tell(
                "{hero} has {number} {animal.many}.",
                "{hero.he} has {number} {animal.many}.",
                ask={
                    "How many {animal.many} does {hero} have?": (
                        "{hero} has {number} {animal.many}."
                    ),
                    "What pets does {hero} have?": "{hero} has {number} {animal.many}.",
                },
                chance=0.7,
            ),
            tell(
                "Every {daypart}, {hero.he} {habit.s}.",
                "{hero.he} {habit.s} every {daypart}.",
                "{hero} {habit.s} every {daypart}.",
                ask={"What does {hero} do every {daypart}?": "{hero} {habit.s} every {daypart}."},
            ),
            tell(
                "{hero.he} is very {trait}.",
                "{hero} is {trait} and works hard.",
                ask={"What is {hero} like?": "{hero} is {trait}."},
                chance=0.7,
            ),
        ),
        (
            tell(
                "{hero.s} best friend is {friend}.",
                ask={"Who is {hero.s} best friend?": "{hero.s} best friend is {friend}."},
            ),
            tell(
                "They have known each other for {number2} years.",
                ask={
                    "How long have they known each other?": (
                        "They have known each other for {number2} years."
                    )
                },
                chance=0.7,
            ),
            tell(
                "{friend} is {job2.a}.",
                ask={"What is {friend.s} job?": "{friend} is {job2.a}."},
                chance=0.8,
            ),
            tell(
                "{friend} lives near {place3}.",
                "{friend} lives in a small house near {place3}.",
                ask={"Where does {friend} live?": "{friend} lives near {place3}."},
                chance=0.6,
            ),
            tell(
                "{hero} likes {food.many}, but {friend} likes {food2.many}.",
                "{hero} likes {food.many}, and {friend} likes {food2.many}.",
                ask={
                    "What does {hero} like?": "{hero} likes {food.many}.",
                    "What does {friend} like?": "{friend} likes {food2.many}.",
                },
                chance=0.7,
            ),
            tell(
                "On {day}, they go to {place2} together.",
                "They go to {place2} together every {day}.",
                ask={
                    "Where do they go on {day}?": "On {day}, they go to {place2}.",
                    "When do they go to {place2}?": "They go to {place2} on {day}.",
                },
                chance=0.7,
            ),
            tell(
                "They often {habit2} together.",
                ask={"What do they often do together?": "They often {habit2} together."},
                chance=0.4,
            ),
            tell(
                "They are never bored.",
                "They help each other every day.",
                "They have many things to talk about.",
            ),
        ),
    ),
)

RACE = Plot(
    titles=("The race", "A race {place.in}", "The race on {day}"),
    paragraphs=(
        (
            tell("{hero}, {friend} and {third} were good friends."),
            (
                tell(
                    "On {day}, they had a race.",
                    "They had a race on {day}.",
                    ask={"When was the race?": "The race was on {day}."},
                ),
                tell(
                    "One day, they had a race {place.in}.",
                    "One {daypart}, they had a race {place.in}.",
                    ask={"Where was the race?": "The race was {place.in}."},
                ),
            ),
            WEATHER,
            tell(
                "{hero} wore {colour.a} shirt, and {friend} wore {colour2.a} shirt.",
                "{hero} wore {colour.a} shirt, but {friend} wore {colour2.a} shirt.",
                ask={
                    "What did {hero} wear?": "{hero} wore {colour.a} shirt.",
                    "What did {friend} wear?": "{friend} wore {colour2.a} shirt.",
                },
                chance=0.7,
            ),
        ),
        (
            tell(
                "{hero} ran very fast, but {friend} was faster.",
                "They all ran as fast as they could.",
                "{third} fell down, but {third.he} was not hurt.",
                chance=0.7,
            ),
            tell(
                "{friend} won the race.",
                "In the end, {friend} won the race.",
                ask={"Who won the race?": "{friend} won the race."},
            ),
            tell("{hero} came second.", ask={"Who came second?": "{hero} came second."}),
            tell(
                "{third} came last.",
                "{third} came last, but {third.he} did not mind.",
                ask={"Who came last?": "{third} came last."},
            ),
        ),
        (
            tell(
                "{friend} got {colour3.a} {thing} and was very glad.",
                "For this, {friend} got {colour3.a} {thing}.",
                ask={"What did {friend} get?": "{friend} got {colour3.a} {thing}."},
            ),
            tell('"Well done!" said {third}.', '"You are so fast!" said {third}.', chance=0.6),
            tell(
                "Then they rested and drank some {drink}.",
                "After the race, they drank some {drink}.",
                ask={"What did they drink?": "They drank some {drink}."},
                chance=0.7,
            ),
            MEAL,
            tell("Then they all went home.", "They wanted to race again soon."),
        ),
    ),
)

HIDE = Plot(
    titles=("A game at home", "{weather.a} {daypart}", "{hero}, {friend} and {third}"),
    paragraphs=(
        (
            tell(
                "It was {weather.a} {daypart}.",
                "It was {weather.a} {daypart}, and there was nothing to do.",
                ask={"What was the weather like?": "The weather was {weather}."},
            ),
            tell(
                "{hero}, {friend} and {third} played a game at home.",
                "{hero}, {friend} and {third} were at home and played a game.",
                ask={"Who played a game?": "{hero}, {friend} and {third} played a game."},
            ),
            tell(
                "{hero} counted to {number}.",
                "First, {hero} counted to {number}.",
                "{hero} closed {hero.his} eyes and counted to {number}.",
                ask={"Who counted to {number}?": "{hero} counted to {number}."},
            ),
            tell(
                "{friend} hid {spot}.",
                "{friend} quickly hid {spot}.",
                ask={"Where did {friend} hide?": "{friend} hid {spot}."},
            ),
            tell(
                "{third} hid {spot2}.",
                "{third} quickly hid {spot2}.",
                ask={"Where did {third} hide?": "{third} hid {spot2}."},
            ),
        ),
        (
            tell('"Where are you?" called {hero}.', '"I can hear you," said {hero}.', chance=0.7),
            (
                tell(
                    "{hero} found {friend} first.",
                    "{hero} found {friend} first, and they both laughed.",
                    ask={"Who did {hero} find first?": "{hero} found {friend} first."},
                ),
                tell(
                    "{hero} found {third} first.",
                    "{hero} found {third} first, and they both laughed.",
                    ask={"Who did {hero} find first?": "{hero} found {third} first."},
                ),
            ),
            tell(
                "{hero} also found {colour.a} {thing} {spot3}.",
                "Then {hero} found {colour.a} {thing} {spot3}.",
                ask={
                    "Where was the {thing}?": "The {thing} was {spot3}.",
                    "What colour was the {thing}?": "The {thing} was {colour}.",
                },
                chance=0.6,
            ),
            tell("It took a long time to find everyone.", chance=0.5),
            MEAL,
            tell(
                "They played until it was dark.",
                "Then they played again.",
                "It was a good game.",
            ),
        ),
    ),
)

DOING_PLOTS: tuple[Plot, ...] = (MAKE, TRIP, PROFILE, RACE, HIDE)
