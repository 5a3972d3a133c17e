"""Conversations: lists of messages, as a tokenizer's chat template writes them."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from jinja2 import TemplateError

from afcore.data.sources import Rows
from afcore.data.stored_values import StoredValues
from afcore.data.table import Table
from afcore.data.written_values import written_value
from afcore.errors import DataError, ModelError
from afcore.tasks.tokenizing import check_offsets

__all__ = [
    "ASSISTANT",
    "is_conversation",
    "means_conversation",
    "read_conversations",
    "tokens_of_conversations",
]

ASSISTANT = "assistant"
"""The role of whose messages a model learns."""

Conversation = list[dict[str, str]]
_WRITTEN = re.compile(r"""\s*\[\s*\{[^{}]*["'](?:role|content|from)["']\s*:""")
"""How a list of messages begins, where a CSV holds it as text."""


def is_conversation(value: Any) -> bool:
    """Whether a value that was read is one."""
    return isinstance(value, list)


def means_conversation(value: Any) -> bool:
    """Whether a value of a column is one, or meant to be: a list, or the text of one."""
    is_text = isinstance(value, str)
    return _WRITTEN.match(value) is not None if is_text else isinstance(value, list)


def read_conversations(source: str, key: str, column: str, table: Table) -> Sequence[Conversation]:
    """A column of lists of messages, each with a ``role`` and a ``content``; both are texts.

    A CSV has the lists as JSON, or as pandas writes them.

    Raises:
        DataError: for a value that is no such list, or in which the assistant says nothing.
    """

    def checked(row: int, given: Any) -> Conversation:
        value = _unwritten(given)
        if fault := _fault(value):
            raise DataError(
                f"data {source!r}: column {column!r} holds {fault} in {table.places.name(row)}. "
                'Write a list of messages, {"role": "user", "content": "..."}, of which one at '
                f"least is of the {ASSISTANT}, or name another column with data.{key}"
            )
        return [{name: str(one[name]) for name in ("role", "content")} for one in value]

    return StoredValues(checked(row, value) for row, value in enumerate(table.columns[column]))


def _unwritten(value: Any) -> Any:
    if not isinstance(value, str) or not means_conversation(value):
        return value
    try:
        return written_value(value)
    except ValueError:
        return value


def _fault(value: Any) -> str | None:
    if not isinstance(value, list):
        return f"{str(value)[:40]!r}, which is no conversation,"
    for number, message in enumerate(value, start=1):
        for name in ("role", "content"):
            if not isinstance(message, dict) or not isinstance(message.get(name), str):
                return f"a conversation whose message {number} has no {name} that is a text"
    if not any(one["role"] == ASSISTANT and one["content"].strip() for one in value):
        return f"a conversation in which the {ASSISTANT} says nothing"
    return None


def tokens_of_conversations(processor: Any, rows: Rows) -> Iterator[tuple[list[int], list[bool]]]:
    """Each conversation as the template writes it: its tokens, and which the assistant says.

    What the template writes behind an answer, the end of a turn, is a part of it.

    Raises:
        ModelError: when the tokenizer has no template, or one that writes a turn otherwise when
            another follows.
        DataError: when the template refuses a conversation, or the tokenizer does not know where
            its tokens stand.
    """
    if processor.chat_template is None:
        raise ModelError(
            f"the tokenizer of {processor.name_or_path!r} has no chat template, by which "
            "conversations are written. Give a model that was made for conversations, or columns "
            "of prompts and completions (data.text, data.label)"
        )
    check_offsets(processor, "causal-language-modeling")
    for row, conversation in enumerate(rows.inputs["text"]):
        try:
            yield _tokens(processor, conversation)
        except TemplateError as error:
            raise DataError(
                f"data {rows.source!r}: the model's chat template refuses the conversation in "
                f"{rows.place(row)}: {error}"
            ) from error


def _tokens(processor: Any, conversation: Conversation) -> tuple[list[int], list[bool]]:
    text = _written(processor, conversation)
    spans = []
    for number, message in enumerate(conversation):
        if message["role"] == ASSISTANT:
            before = _written(processor, conversation[:number], add_generation_prompt=True)
            until = _written(processor, conversation[: number + 1])
            if not (text.startswith(until) and until.startswith(before)):
                raise ModelError(
                    f"the chat template of {processor.name_or_path!r} writes an answer otherwise "
                    "when another message follows, so which tokens are the answer's is not clear. "
                    "Give columns of prompts and completions (data.text, data.label)"
                )
            spans.append((len(before), len(until)))
    given = processor(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    asked = [
        any(start <= begin < end for start, end in spans) for begin, _ in given["offset_mapping"]
    ]
    return given["input_ids"], asked


def _written(processor: Any, conversation: Conversation, **options: Any) -> str:
    text: str = processor.apply_chat_template(conversation, tokenize=False, **options)
    return text
