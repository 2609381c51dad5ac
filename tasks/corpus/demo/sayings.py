"""What people say in the demo's conversations besides stories: greetings, thanks, requests.

An exchange is the ways to say something and the answers to it; any answer goes with any way of
saying it. Its slots are those of `demo_moves`, filled once an exchange, so that an answer names
whoever said who they are. The grammar takes every answer for a statement (`demo_grammar`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Exchange:
    """Something a person may say, and what may be answered."""

    said: tuple[str, ...]
    answers: tuple[str, ...]


GREETINGS = (
    Exchange(
        ("Hello!", "Hi!", "Good {daypart}!", "Hello, how are you?", "Hi, how are you?"),
        ("Hello! I am very well. Do you want to hear a story?",),
    ),
    Exchange(
        ("Hello, I am {hero}.", "Hi, I am {hero}.", "My name is {hero}.", "Hi, my name is {hero}."),
        ("Hello, {hero}! Do you want to hear a story?",),
    ),
)
WHO_ARE_YOU = Exchange(
    (
        "Who are you?",
        "Hello! Who are you?",
        "Hello, who are you?",
        "Hi, who are you?",
        "What are you?",
        "What is your name?",
        "Can you tell me who you are?",
    ),
    ("I am a small language model. I tell stories and answer questions about them.",),
)
WHAT_CAN_YOU_DO = Exchange(
    ("What can you do?", "Can you help me?", "What can I ask you?", "How can you help me?"),
    ("I can tell you a story. I can also answer questions about a story.",),
)
THANKS = Exchange(
    ("Thank you!", "Thank you very much!", "Thanks!", "That was a good story."),
    ("I am glad that you liked it.",),
)
GOODBYE = Exchange(
    ("Goodbye!", "Bye!", "I have to go now.", "Good night!"),
    ("Goodbye! Come back soon.",),
)

SMALL_TALK = (*GREETINGS, WHO_ARE_YOU, WHAT_CAN_YOU_DO)
FAREWELLS = (THANKS, GOODBYE)

STORY_REQUESTS = (
    "Tell me a story about {hero}.",
    "Please tell me a story about {hero}.",
    "Can you tell me a story about {hero}?",
    "I want to hear a story about {hero}.",
    "Tell me a story.",
    "Can you tell me a story?",
)
"""Where a person is named, the story is about them."""
