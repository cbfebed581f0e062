"""Native tool calls: schemas and tool answers go through the chat template where it speaks tools, else to the user's side."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np
import pytest

from sdgym.chat import ChatFormat, tools_as_user
from sdgym.core import Message
from sdgym.envs.tools.env import ToolWorldEnv
from sdgym.generation.base import SamplingParams
from sdgym.ledger import Ledger
from sdgym.model_store import local_path
from sdgym.rollout import Job, RolloutDriver
from sdgym.testing_engine import ScriptedSampler
from sdgym.testing_policy import CHATML, small_tokenizer

TOOLS = (  # a layout common among open models: schemas in a system turn, answers in a turn of their own kind
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'tool' %}"
    "{% if loop.first or messages[loop.index0 - 1]['role'] != 'tool' %}<|im_start|>user{% endif %}\n<tool_response>\n{{ message['content'] }}\n"
    "</tool_response>{% if loop.last or messages[loop.index0 + 1]['role'] != 'tool' %}<|im_end|>\n{% endif %}"
    "{% else %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REFUSES_TOOLS = "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{% endfor %}" + TOOLS
DROPS_ANSWERS = TOOLS.replace("\n{{ message['content'] }}\n</tool_response>", "\n</tool_response>")
SCHEMA = {"type": "function", "function": {"name": "mail.list", "description": "d", "parameters": {"type": "object", "properties": {}}}}
USER, CALL = Message(role="user", content="Do it."), Message(role="assistant", content="<tool_call>{}</tool_call>")
ANSWERS = [Message(role="tool", content=text) for text in ("one", "two")]


def chat(template: str) -> ChatFormat:
    return ChatFormat(small_tokenizer(template))


def text(format_: ChatFormat, ids: np.ndarray | None) -> str:
    assert ids is not None
    return str(format_.tokenizer.decode(ids))


@pytest.mark.parametrize(("template", "speaks"), [(TOOLS, True), (CHATML, False), (REFUSES_TOOLS, False), (DROPS_ANSWERS, False)])
def test_what_a_template_can_say_is_found_out(template: str, speaks: bool) -> None:
    plain = chat(template)
    shown = plain.with_tools([SCHEMA])
    assert plain.speaks_tools is speaks and (shown is not plain) is speaks
    assert ("mail.list" in text(shown, shown.prompt_ids([USER]))) is speaks
    assert plain.with_tools(None) is plain and plain.with_tools([]) is plain


def test_the_embedded_policys_template_hears_tools_as_the_user() -> None:
    from transformers import AutoTokenizer

    tiny = ChatFormat(AutoTokenizer.from_pretrained(str(local_path("tiny"))))
    assert tiny.with_tools([SCHEMA]) is tiny
    together = Message(role="user", content="one\ntwo")
    assert np.array_equal(tiny.prompt_ids([USER, CALL, *ANSWERS]), tiny.prompt_ids([USER, CALL, together]))
    assert tools_as_user([USER, CALL, *ANSWERS, CALL, ANSWERS[0]]) == [USER, CALL, together, CALL, Message(role="user", content="one")]


def test_answers_of_several_tools_continue_the_sampled_context_exactly() -> None:
    shown = chat(TOOLS).with_tools([SCHEMA])
    sampled = shown.encode_text(CALL["content"])
    tail = shown.continuation_ids([USER, CALL], ANSWERS, ended=False)
    assert text(shown, tail).count("<tool_response>") == 2
    whole = np.concatenate([shown.prompt_ids([USER]), sampled, tail])  # type: ignore[list-item]
    np.testing.assert_array_equal(whole, shown.prompt_ids([USER, CALL, *ANSWERS]))
    assert shown.thinking(False).tools == shown.tools


class Says(ScriptedSampler):
    """Writes one text in every turn."""

    def __init__(self, chat: ChatFormat, said: str) -> None:
        super().__init__([0], chat.end_ids[0], context_limit=1_000_000)
        self.script = [*(int(i) for i in chat.encode_text(said)), self.end_id]

    def _draw(self, key: int, index: int) -> int:
        return self.script[index]


@pytest.mark.parametrize("template", [TOOLS, CHATML])
def test_an_episode_with_two_native_calls_a_turn(template: str) -> None:
    settings: dict[str, Any] = {"level": "easy", "native": True}
    env = ToolWorldEnv(**settings)
    plain = chat(template)
    shown = plain.with_tools(env.tools)
    said = '<tool_call>{"name": "docs.apps", "arguments": {}}</tool_call>\n<tool_call>{"name": "supervisor.profile", "arguments": {}}</tool_call>'
    (task,) = env.tasks("train", 0, 1)
    make = functools.partial(gymnasium.make, "sdgym/ToolWorld-v0", **settings)
    with RolloutDriver(make, shown, Says(shown, said), Ledger(), 0) as driver:
        (row,) = driver.collect([task], 1, SamplingParams(max_tokens=500), Job("train", 0))
    (segment,) = row.segments
    read = text(shown, segment.ids)
    assert len(row.actions) == env.max_turns and set(row.actions) == {said}
    native = template is TOOLS
    assert read.count("<tool_response>") == (2 * (env.max_turns - 1) if native else 0)
    assert ('"name": "docs.show"' in read) is native, "the schemas are in the prompt where the template can show them"
    assert read.count("[docs.apps]") == read.count("[supervisor.profile]") == env.max_turns - 1
    assert np.array_equal(segment.ids[: segment.prompt_length], shown.prompt_ids(list(task.messages)))
