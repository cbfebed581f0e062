"""A small tokenizer for an embedded policy: words whole, every digit and mark alone, bytes for the rest."""

from __future__ import annotations

import collections
import itertools
import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, SYSTEM, USER, ASSISTANT, END = "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# A LaTeX command with its brace is one piece, a word with its leading space is one, anything else stands
# alone: numbers are read digit by digit and a grid cell by cell.
_PIECES = Regex(r"\\[A-Za-z]+\{?| ?[A-Za-z]+|[^A-Za-z]")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train byte-level BPE on ``texts``; any Unicode text can be encoded and decoded back."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(_PIECES, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, SYSTEM, USER, ASSISTANT, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=END, chat_template=CHAT_TEMPLATE, clean_up_tokenization_spaces=False
    )


def extend_tokenizer(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Return ``tokenizer`` with merges learnt from ``texts`` added behind its own, up to ``vocab_size`` tokens.

    Every old token keeps its id, and whatever was one token stays one, so that the weights of a policy that knows
    the old tokens go on meaning what they meant. Fewer tokens than asked for where the texts have nothing left to merge.
    """
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab, merges = core["model"]["vocab"], core["model"]["merges"]
    pieces: collections.Counter[str] = collections.Counter()
    for text in texts:
        pieces.update(piece for piece, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text))
    words = {piece: [token.value for token in tokenizer.backend_tokenizer.model.tokenize(piece)] for piece in pieces}
    while len(vocab) < vocab_size:
        pairs: collections.Counter[tuple[str, str]] = collections.Counter()
        for piece, tokens in words.items():
            for pair in itertools.pairwise(tokens):
                pairs[pair] += pieces[piece]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(list(best))
        vocab.setdefault("".join(best), len(vocab))
        words = {piece: _merged(tokens, best) for piece, tokens in words.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(core)),
        pad_token=PAD,
        eos_token=END,
        chat_template=tokenizer.chat_template,
        clean_up_tokenization_spaces=False,
    )


def _merged(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    """Return ``tokens`` with each occurrence of ``pair``, from the left, as one."""
    merged: list[str] = []
    for token in tokens:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged
