"""Real chat templates, played like an episode: ids, masks, the prefix property, thinking on and off, tools, and refusals.

The templates are read from the installed ``trl`` package; none is copied here. What each family does with a fixed
conversation is kept as lengths and digests in ``tests/data/chat_families.json`` (``SDGYM_GOLDEN=write`` rewrites it):
a change of a template, of transformers or of our rendering shows up as a difference that somebody has to look at.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pathlib
import re
from typing import Any

import numpy as np
import pytest

from sdgym.chat import ChatFormat
from sdgym.core import Message
from sdgym.envs.tools.api import typed
from sdgym.envs.tools.calls import parse_calls
from sdgym.errors import PolicyError
from sdgym.testing_policy import small_tokenizer

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "data" / "chat_families.json"
FAMILIES: dict[str, tuple[str, str]] = {  # template in trl → end of a turn, beginning of a text
    "qwen2_5": ("<|im_end|>", "<|endoftext|>"),
    "qwen3": ("<|im_end|>", "<|endoftext|>"),
    "qwen3_5_think": ("<|im_end|>", "<|endoftext|>"),
    "qwen3_instruct_2507": ("<|im_end|>", "<|endoftext|>"),
    "llama3": ("<|eot_id|>", "<|begin_of_text|>"),
    "gemma3": ("<end_of_turn>", "<bos>"),
    "gemma4": ("<turn|>", "<bos>"),
    "phi3": ("<|end|>", "<s>"),
    "cohere2": ("<|END_OF_TURN_TOKEN|>", "<BOS_TOKEN>"),
    "deepseekv3": ("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"),
    "deepseek_r1_distill": ("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"),
    "glm4moe": ("<|user|>", "[gMASK]"),
    "lfm2": ("<|im_end|>", "<|startoftext|>"),
    "nemotron_3_nano": ("<|im_end|>", "<s>"),
}
REFUSED = ("idefics3", "smolvlm", "llava_next")
MARKS = re.compile(r"<[|｜][^<>{}\s'\"]+?[|｜]>|<(?:bos|start_of_turn|end_of_turn|turn\||\|turn)>|<end_of_utterance>|\[gMASK\]|<sop>")
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look somewhere.",
        "parameters": {"type": "object", "properties": {"where": {"type": "string"}}, "required": ["where"]},
    },
}
NATIVE = {"glm4moe", "lfm2", "llama3_1", "nemotron_3_nano", "qwen2_5", "qwen3", "qwen3_5_think", "qwen3_8", "qwen3_instruct_2507"}
WANTED = {"id": "integer", "loud": "boolean", "text": "string", "code": "string", "labels": "array"}
ARGUMENTS = {"id": 7, "loud": True, "text": 'a "b"\n<c>', "code": "0042", "labels": ["x", "y"]}
ACTIONS = ["In the box.", "<think>It moved.</think>In the bag.", "Gone."]
ANSWERS: list[list[Message]] = [[{"role": "user", "content": "Look again."}], [{"role": "user", "content": "And now?"}]]
MODES = {"default": None, "on": True, "off": False}


def template(family: str) -> str:
    trl = pytest.importorskip("trl", reason="requires trl")
    path = pathlib.Path(trl.__file__).parent / "chat_templates" / f"{family}.jinja"
    if not path.is_file():
        pytest.skip(f"requires trl with its chat template {family}")
    return path.read_text(encoding="utf-8")


def marks_of(family: str) -> tuple[str, list[str], str, str]:
    """The template, its special tokens (padding first), the end of a turn and the beginning of a text."""
    source = template(family)
    eos, bos = FAMILIES.get(family, ("<end_of_utterance>", "<s>"))
    return source, ["<|pad|>", *sorted({*MARKS.findall(source), eos, bos})], eos, bos


def chat_of(family: str, thinking: bool | None = None) -> ChatFormat:
    return ChatFormat(small_tokenizer(*marks_of(family)), thinking)


def merging_tokenizer(source: str, special: list[str], eos: str, bos: str) -> Any:
    """A byte-level BPE whose merges were learned on the template and cross words and line ends: where a text is cut changes its ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    spoken = ["\n".join(("user", *ACTIONS, "assistant", "Look again.", "And now?", "Be brief.", "Where is it?"))]
    core.train_from_iterator([*spoken * 5, *source.splitlines()], trainer)
    core.add_special_tokens(special)
    names = {"pad_token": special[0], "eos_token": eos, "bos_token": bos, "chat_template": source, "clean_up_tokenization_spaces": False}
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def play(chat: ChatFormat, actions: list[str], answers: list[list[Message]]) -> dict[str, Any]:
    """An episode as the rollout driver plays it: segments of ids and masks, built from events alone."""
    history: list[Message] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is it?"}]
    segments: list[tuple[list[int], list[bool]]] = []
    ids = chat.prompt_ids(history).tolist()
    mask = [False] * len(ids)
    for action, answer in zip(actions, [*answers, []], strict=True):
        sampled = [*chat.encode_text(action).tolist(), chat.end_ids[0]]
        ids, mask = ids + sampled, mask + [True] * len(sampled)
        assert chat.decode_action(sampled) == action
        history.append({"role": "assistant", "content": action})
        if not answer:
            break
        new = chat.continuation_ids(history, answer, ended=True)
        history += answer
        if new is None:
            segments.append((ids, mask))
            ids = chat.prompt_ids(history).tolist()
            mask = [False] * len(ids)
        else:
            assert new[0] != chat.end_ids[0], "the end that was sampled is not repeated"
            ids, mask = ids + new.tolist(), mask + [False] * len(new)
    return {"segments": [*segments, (ids, mask)], "history": history}


def check(chat: ChatFormat, played: dict[str, Any], actions: list[str]) -> None:
    """Masks cover what was sampled and nothing else; a segment is the beginning of what the template itself renders."""
    tokenizer = chat.tokenizer
    spoken = [tokenizer.decode(np.array(ids)[np.array(mask)], skip_special_tokens=False) for ids, mask in played["segments"]]
    end = tokenizer.decode([chat.end_ids[0]])
    assert "".join(spoken) == "".join(action + end for action in actions)
    options = {} if chat.enable_thinking is None else {"enable_thinking": chat.enable_thinking}
    if len(played["segments"]) == 1:  # the whole conversation is one text, and the template agrees with it to the letter
        ids, _ = played["segments"][0]
        ours = tokenizer.decode(ids, skip_special_tokens=False)
        asked = tokenizer.apply_chat_template(played["history"][:-1], tokenize=False, add_generation_prompt=True, **options)
        assert ours == asked + actions[-1] + end


def digest(ids: list[int]) -> str:
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()[:16]


def runs(mask: list[bool]) -> list[int]:
    """Lengths of the runs of a mask, not sampled first."""
    changes = [0, *[i for i in range(1, len(mask)) if mask[i] != mask[i - 1]], len(mask)]
    return [b - a for a, b in itertools.pairwise(changes)]


def observed(family: str, mode: str) -> dict[str, Any]:
    chat = chat_of(family, MODES[mode])
    played = play(chat, ACTIONS, ANSWERS)
    check(chat, played, ACTIONS)
    tools = chat.with_tools([TOOL])
    native = bool(tools.tools)
    called = ['<tool_call>{"name": "look", "arguments": {"where": "bag"}}</tool_call>', "Found it."]
    with_tools = play(tools, called, [[{"role": "tool", "content": "nothing here"}]])
    text = tools.tokenizer.decode(with_tools["segments"][-1][0], skip_special_tokens=False)
    assert "nothing here" in text and ("Look somewhere." in text) == native
    return {
        "end": [tools.tokenizer.decode([i]) for i in chat.end_ids],
        "segments": [{"ids": digest(ids), "runs": runs(mask)} for ids, mask in played["segments"]],
        "tools": "native" if native else "as text of the user",
        "tool_segments": [{"ids": digest(ids), "runs": runs(mask)} for ids, mask in with_tools["segments"]],
    }


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    if os.environ.get("SDGYM_GOLDEN") == "write":
        found = {family: {mode: observed(family, mode) for mode in MODES} for family in sorted(FAMILIES)}
        lines = [f'"{family}": {{\n' + ",\n".join(f' "{mode}": {json.dumps(value, ensure_ascii=False)}' for mode, value in modes.items())
                 for family, modes in found.items()]  # fmt: skip
        GOLDEN.write_text("{\n" + "\n},\n".join(lines) + "\n}\n}\n", encoding="utf-8")
    return dict(json.loads(GOLDEN.read_text(encoding="utf-8")))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_renders_as_recorded(family: str, golden: dict[str, Any]) -> None:
    for mode in MODES:
        assert observed(family, mode) == golden[family][mode], (family, mode)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_merges_across_the_seams_change_no_sampled_token(family: str) -> None:
    """With a tokenizer that merges, ids are those that were sampled, and the text is still the template's to the letter."""
    tokenizer = merging_tokenizer(*marks_of(family))
    assert len(tokenizer.encode(ACTIONS[0], add_special_tokens=False)) < len(ACTIONS[0]), "it merges"
    chat = ChatFormat(tokenizer)
    played = play(chat, ACTIONS, ANSWERS)
    check(chat, played, ACTIONS)
    sampled = [int(i) for ids, mask in played["segments"] for i, mine in zip(ids, mask, strict=True) if mine]
    assert sampled == [int(i) for action in ACTIONS for i in [*chat.encode_text(action), chat.end_ids[0]]]


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_trained_token_exactly_is_refused_with_a_reason(family: str) -> None:
    with pytest.raises(PolicyError, match=r"drops the assistant's turns|refuses a conversation of roles"):
        chat_of(family)


def test_the_record_shows_what_differs_between_families(golden: dict[str, Any]) -> None:
    """Thinking changes prompts where a template has the switch, reasoning in history makes new segments, tools are native somewhere."""
    assert len(golden) >= 12
    assert golden["qwen3"]["on"]["segments"] != golden["qwen3"]["off"]["segments"]
    assert golden["llama3"]["on"] == golden["llama3"]["off"] == golden["llama3"]["default"]
    assert len(golden["qwen2_5"]["default"]["segments"]) == 1 and len(golden["qwen3_5_think"]["default"]["segments"]) > 1
    assert {golden[name]["default"]["tools"] for name in golden} == {"native", "as text of the user"}


@pytest.mark.parametrize("family", sorted(NATIVE))
def test_a_call_in_the_templates_own_format_is_read(family: str) -> None:
    """What the template writes for two calls, as it would be sampled and decoded, gives the two calls back."""
    chat = chat_of("lfm2_2_5" if family == "lfm2" else family)  # the first template shows tools and writes no calls
    asked: list[Any] = [{"role": "user", "content": "Where is it?"}]
    calls: list[Any] = [
        {"type": "function", "function": {"name": n, "arguments": a}} for n, a in (("mail.show", ARGUMENTS), ("docs.apps", {}))
    ]
    calls = calls[:1] if family == "llama3_1" else calls  # it knows one call a turn
    said = {"role": "assistant", "content": "", "tool_calls": calls}
    before, whole = (str(chat.tokenizer.apply_chat_template(m, tools=[TOOL], tokenize=False)) for m in (asked, [*asked, said]))
    assert whole.startswith(before)
    action = chat.decode_action(chat.tokenizer(whole[len(before) :], add_special_tokens=False).input_ids)
    found = parse_calls(action, 10)
    assert [call.tool for call in found] == [call["function"]["name"] for call in calls], action
    assert {name: typed(value, {"type": WANTED[name]}) for name, value in found[0].args.items()} == ARGUMENTS
    assert all(call.args == {} for call in found[1:])


def test_every_format_that_is_shown_to_a_model_is_read(golden: dict[str, Any]) -> None:
    assert {family for family in golden if golden[family]["default"]["tools"] == "native"} <= NATIVE
