"""Which tokens of an attempt matter: pieces of text, who marks them, and where they lie among the sampled tokens."""

from sdgym.algos.spans.align import pieces, sentences, token_mask, token_spans, turned_down
from sdgym.algos.spans.annotators import ANNOTATORS, Annotator, by_policy, by_rules, cap, random_spans

__all__ = [
    "ANNOTATORS",
    "Annotator",
    "by_policy",
    "by_rules",
    "cap",
    "pieces",
    "random_spans",
    "sentences",
    "token_mask",
    "token_spans",
    "turned_down",
]
