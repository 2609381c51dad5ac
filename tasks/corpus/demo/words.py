"""The words of the demo corpus: what may fill each slot of a sentence pattern, and other languages.

Each kind of slot holds entries; an entry is one thing of the world (a person, a kite, a place) with
all its forms: the plain one under "", the others under a short name that patterns write after
a dot, as in `{thing.a}`. Agreement is kept by keeping the forms of an entry together.

All lists are this project's own. No word starts with a silent h or a spoken consonant written as a
vowel ("hour", "uniform"), so the first letter alone chooses between "a" and "an".
"""

from __future__ import annotations

Forms = dict[str, str]


def _with_article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _people(names: str, *, he: str, him: str, his: str, child: str) -> list[Forms]:
    pronouns = {"he": he, "him": him, "his": his, "child": child}
    return [{"": name, "s": f"{name}'s", **pronouns} for name in names.split()]


def _plain(words: str) -> list[Forms]:
    """One entry for each of `words`, which are parted by commas."""
    return [{"": word.strip()} for word in words.split(",")]


def _describing(words: str) -> list[Forms]:
    """Adjectives and nouns that may follow an indefinite article."""
    return [{"": word, "a": _with_article(word)} for word in words.split()]


def _countable(pairs: str) -> list[Forms]:
    """Nouns written "singular/plural"."""
    entries = []
    for pair in pairs.split():
        one, many = pair.split("/")
        entries.append({"": one, "a": _with_article(one), "s": f"{one}'s", "many": many})
    return entries


def _places(phrases: str) -> list[Forms]:
    """Places written with the preposition of being there: "at the zoo"."""
    entries = []
    for phrase in phrases.split(", "):
        place = phrase.split(" ", 1)[1]
        entries.append({"": place, "in": phrase})
    return entries


def _verb_phrases(triples: str) -> list[Forms]:
    """Verb phrases written "base past third rest": "bake baked bakes a cake"."""
    entries = []
    for triple in triples.split(", "):
        base, past, third, rest = triple.split(" ", 3)
        forms = {"": base, "past": past, "s": third}
        entries.append({form: f"{verb} {rest}" for form, verb in forms.items()})
    return entries


KINDS: dict[str, list[Forms]] = {
    "person": [
        *_people(
            "Anna Clara Ella Emma Lily Lucy Mia Nora Rosa Sara",
            he="she",
            him="her",
            his="her",
            child="girl",
        ),
        *_people(
            "Adam Ben Hugo Jack Leo Max Oscar Paul Peter Tom",
            he="he",
            him="him",
            his="his",
            child="boy",
        ),
    ],
    "relative": _plain("mother, father, grandmother, grandfather, aunt, uncle, teacher, neighbour"),
    "trait": _describing("kind clever brave quiet funny curious polite active"),
    "job": _describing("baker doctor nurse farmer painter singer gardener artist"),
    "joy": _plain("happy, proud, glad, excited, calm"),
    "sorrow": _plain("sad, worried, angry, upset, lonely"),
    "thing": _describing(
        "ball bell book box brush button clock cup doll drum flute hat kite lamp map mask pen ring "
        "scarf umbrella"
    ),
    "colour": _describing("red blue green yellow orange purple black white"),
    "food": _countable(
        "apple/apples pear/pears egg/eggs bun/buns carrot/carrots potato/potatoes lemon/lemons "
        "banana/bananas cherry/cherries peach/peaches"
    ),
    "meal": _plain("bread, cheese, rice, fish, cake, fruit, meat, soup"),
    "drink": _plain("milk, water, tea, juice"),
    "animal": _countable(
        "dog/dogs cat/cats rabbit/rabbits duck/ducks mouse/mice goose/geese hen/hens "
        "parrot/parrots puppy/puppies turtle/turtles"
    ),
    "petname": _plain("Spot, Rusty, Coco, Daisy, Biscuit, Pepper, Lucky, Snowy"),
    "look": _describing("small big old young friendly shy clever lazy"),
    "place": _places(
        "in the park, at the zoo, in the forest, in the village, on the beach, on the farm, "
        "on the island, by the river, by the lake, at the castle"
    ),
    "spot": _plain(
        "under the bed, under the table, behind the door, behind the sofa, behind the curtain, "
        "in the kitchen, in the cupboard, in the attic, by the window, next to the piano"
    ),
    "weather": _describing("sunny rainy windy cloudy cold warm foggy icy"),
    "day": _plain("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    "daypart": _plain("morning, afternoon, evening"),
    "number": _plain("two, three, four, five, six, seven, eight, nine, ten"),
    "vehicle": _plain("bus, train, boat, car, bike"),
    "craft": _verb_phrases(
        "bake baked bakes a cake, paint painted paints a picture, build built builds a tower, "
        "plant planted plants a tree, knit knitted knits a scarf, draw drew draws a map, "
        "carve carved carves a spoon, sew sewed sews a shirt"
    ),
    "habit": _verb_phrases(
        "read read reads a book, drink drank drinks tea, feed fed feeds the birds, "
        "sweep swept sweeps the floor, water watered waters the flowers, "
        "play played plays the piano, write wrote writes a letter, sing sang sings a song"
    ),
}

REPEATABLE_KINDS = frozenset({"colour", "look", "job", "number"})
"""Kinds whose slots are filled independently; elsewhere two slots of a story never agree."""

FOREIGN_WORDS: dict[str, str] = {
    "es": "el la los una casa perro gato libro agua noche cielo verde rojo grande pequeño niño "
    "camino montaña come bebe corre canta mira siempre nunca también porque cuando hermano "
    "ventana puerta mañana flor árbol lluvia amigo ciudad pueblo pan leche sobre entre hacia",
    "de": "der die das eine Haus Hund Katze Buch Wasser Nacht Himmel grün rot groß klein Kind "
    "Weg Berg isst trinkt läuft singt sieht immer niemals auch weil wenn Bruder Fenster Tür "
    "Morgen Blume Baum Regen Freund Stadt Dorf Brot Milch über zwischen nach und oder",
    "fr": "le la les une maison chien chat livre eau nuit ciel vert rouge grand petit enfant "
    "chemin montagne mange boit court chante regarde toujours jamais aussi parce quand frère "
    "fenêtre porte matin fleur arbre pluie ami ville village pain lait sur entre vers",
    "fi": "talo koira kissa kirja vesi yö taivas vihreä punainen suuri pieni lapsi tie vuori "
    "syö juo juoksee laulaa katsoo aina koskaan myös koska kun veli ikkuna ovi aamu kukka puu "
    "sade ystävä kaupunki kylä leipä maito yli välillä kohti ja tai mutta järvi metsä lumi",
}
"""Everyday words by language code. Their order in a text is invented: they only look foreign."""
