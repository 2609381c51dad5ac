"""A short text that passes every quality rule, for tests to break one rule at a time."""

SENTENCES = (
    "The keeper of the lamp walked down to the shore that morning.",
    "Nobody had seen a ship since the autumn storms began.",
    "He counted the stones and wrote their number on a slate.",
    "A gull that knew him well sat with great patience on the wall.",
    "In the evening they cooked a soup of roots and dried fish.",
    "Some days later two men with a cart came over the hill.",
    "They have to mend the roof before the snow arrives, he said.",
    "Far out at sea a light blinked twice and then went dark.",
)
GOOD = "\n".join(SENTENCES)
