"""Chat template: ChatML after a leading end-of-text token.

It has two definitions, which a test keeps equal: ``CHAT_TEMPLATE``, the
Jinja text shipped in the tokenizer files for other runtimes, and ``render``, plain Python for ours.
Nothing is encoded here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from pydantic import Field, ValidationError

from model.core.config import Config
from model.core.errors import SourceRecordError
from model.text.tokenizer import END_OF_TEXT, IM_END, IM_START

# transformers derives the loss mask from the generation block: the assistant's words and the token
# that ends its turn. Every tag strips its own white space, so the text does not depend on a
# runtime's trim_blocks and lstrip_blocks.
CHAT_TEMPLATE: Final = (
    f"{{{{- '{END_OF_TEXT}' }}}}"
    "{%- for message in messages %}"
    f"{{{{- '{IM_START}' + message['role'] + '\\n' }}}}"
    "{%- if message['role'] == 'assistant' %}"
    f"{{%- generation %}}{{{{- message['content'] + '{IM_END}' }}}}{{%- endgeneration %}}"
    f"{{%- else %}}{{{{- message['content'] + '{IM_END}' }}}}{{%- endif %}}"
    "{{- '\\n' }}"
    "{%- endfor %}"
    f"{{%- if add_generation_prompt %}}{{{{- '{IM_START}assistant\\n' }}}}{{%- endif %}}"
)


class Message(Config):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"] = Field(description="author of the message")
    content: str = Field(min_length=1, description="text of the message, taken literally")


def read_messages(records: Iterable[Mapping[str, object]], *, where: object) -> tuple[Message, ...]:
    """Return the checked messages of one conversation from a file or a request."""
    messages: list[Message] = []
    for index, record in enumerate(records):
        try:
            messages.append(Message.model_validate(record))
        except ValidationError as exc:
            raise _broken(_first_fault(exc), where=f"{where}, message {index}") from exc
    if not messages:
        raise _broken("no message", where=where)
    return tuple(messages)


def render(messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    r"""Return the text of a conversation.

    Args:
        add_generation_prompt: end with the header of an assistant's turn.

    Example:
        >>> render([Message(role="user", content="Hi")], add_generation_prompt=True)
        '<|endoftext|><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n'
    """
    turns = [f"{IM_START}{turn.role}\n{turn.content}{IM_END}\n" for turn in messages]
    prompt = f"{IM_START}assistant\n" if add_generation_prompt else ""
    return END_OF_TEXT + "".join(turns) + prompt


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    name = ".".join(str(part) for part in fault["loc"]) or "message"
    return f"{name}={fault['input']!r} ({fault['msg']})"


def _broken(found: str, *, where: object) -> SourceRecordError:
    return SourceRecordError(
        "a conversation is broken",
        expected="messages of role system, user or assistant, none with an empty content",
        found=found,
        where=where,
        fix="correct the record or leave the conversation out",
    )
