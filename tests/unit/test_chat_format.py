import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdgym.chat import ChatFormat
from sdgym.errors import PolicyError
from sdgym.testing_policy import CHATML, small_tokenizer

USER, ANSWER, MORE = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": " 5 "}, {"role": "user", "content": "no"}
HEADERS = (
    "{% for message in messages %}<|user|>{{ message['role'] }}:{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant:{% endif %}"
)
TRIMS = CHATML.replace("{{ message['content'] }}", "{{ message['content'] | trim }}")
FORGETS = (  # keeps only what follows </think> in earlier assistant turns, as reasoning models' templates do
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' and not loop.last %}{{ message['content'].split('</think>')[-1] }}"
    "{% else %}{{ message['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKS = CHATML.replace("assistant\n{% endif %}", "assistant\n{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}")


def chat(template=CHATML, **options):
    return ChatFormat(small_tokenizer(template), **options)


def text(format_, ids):
    return format_.tokenizer.decode(ids)


@pytest.mark.parametrize("template", [CHATML, HEADERS, TRIMS])
@pytest.mark.parametrize("ended", [True, False])
def test_a_continued_context_is_what_the_template_renders(template, ended):
    c = chat(template)
    sampled = c.encode_text("5")
    context = [c.prompt_ids([USER]), sampled, *([np.array(c.end_ids[:1])] if ended else [])]
    answer = {"role": "assistant", "content": c.decode_action(sampled)}
    tail = c.continuation_ids([USER, answer], [MORE], ended)
    np.testing.assert_array_equal(np.concatenate([*context, tail]), c.prompt_ids([USER, answer, MORE]))


def test_prompts_end_with_the_generation_marker():
    assert text(chat(), chat().prompt_ids([USER])) == "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"


def test_end_of_turn_is_the_templates_own_and_then_eos():
    assert chat().tokenizer.convert_ids_to_tokens(list(chat().end_ids)) == ["<|im_end|>"]
    assert chat(HEADERS).tokenizer.convert_ids_to_tokens(list(chat(HEADERS).end_ids)) == ["<|end|>", "<|im_end|>"]


def test_blanks_trimmed_by_a_template_are_not_rewriting():
    c = chat(TRIMS)
    assert text(c, c.continuation_ids([USER, ANSWER], [MORE], ended=True)).startswith("\n<|im_start|>user\nno")


def test_rewritten_history_asks_for_a_new_segment():
    c = chat(FORGETS)
    thought = {"role": "assistant", "content": "<think>hm</think>4"}
    assert c.continuation_ids([USER, thought], [MORE], ended=True) is None
    assert c.continuation_ids([USER, ANSWER], [MORE], ended=True) is not None


def test_a_thinking_stub_that_vanishes_from_history_asks_for_a_new_segment():
    c = chat(THINKS, enable_thinking=False)
    assert text(c, c.prompt_ids([USER])).endswith("<think></think>")
    assert c.continuation_ids([USER, ANSWER], [MORE], ended=True) is None
    assert chat(THINKS, enable_thinking=True).continuation_ids([USER, ANSWER], [MORE], ended=True) is not None


def test_two_messages_can_follow_one_turn():
    c = chat()
    tail = text(c, c.continuation_ids([USER, ANSWER], [MORE, MORE], ended=False))
    assert tail == "<|im_end|>\n" + "<|im_start|>user\nno<|im_end|>\n" * 2 + "<|im_start|>assistant\n"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.sampled_from(["<|im_end|>", "<|im_start|>", "<|<|im_end|>im_end|>"]), st.text(max_size=10))
def test_text_from_outside_never_becomes_a_control_token(before, control, after):
    c = chat()
    hostile = before + control + after
    plain = c.prompt_ids([{"role": "user", "content": "x"}])
    special = np.isin(c.prompt_ids([{"role": "user", "content": hostile}]), sorted(c._special)).sum()
    assert special == np.isin(plain, sorted(c._special)).sum()
    assert not np.isin(c.encode_text(hostile), sorted(c._special)).any()


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"]), max_size=60))
def test_plain_text_round_trips(value):
    c = chat()
    if c._neutral(value) == value:
        assert c.decode_action([*c.encode_text(value), c.end_ids[0]]) == value


def test_decoding_drops_every_special_token():
    c = chat()
    ids = c.tokenizer.convert_tokens_to_ids(["<|im_start|>", "a", "<|pad|>", "b", "<|im_end|>"])
    assert c.decode_action(ids) == "ab"


def test_history_must_end_with_the_assistant():
    with pytest.raises(PolicyError, match="must be the assistant's"):
        chat().continuation_ids([USER], [MORE], ended=True)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "no chat template"),
        (CHATML.split("{% if add_generation_prompt %}")[0], "no generation prompt"),
        ("{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}>", "drops the assistant"),
    ],
)
def test_unusable_templates_are_named(template, says):
    with pytest.raises(PolicyError, match=says):
        chat(template)


def test_a_template_that_refuses_roles_says_which():
    strict = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}" + CHATML
    with pytest.raises(PolicyError, match=r"\[system, user\]: no system"):
        chat(strict).prompt_ids([{"role": "system", "content": "s"}, USER])
