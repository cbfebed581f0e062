"""Teacher conditioning: what privileged text a teacher reads before it scores the student's tokens.

One conditioner per file; text in, token-exact views out. To add one: subclass
:class:`sdgym.algos.conditioning.base.Conditioner`, write ``tell``, register it below (or in a plugin).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.algos.conditioning.answers import Answer, Example, FollowUp, OutcomeHint, PartialReference, Plain, Rule, WrongAnswer, WrongPeer
from sdgym.algos.conditioning.base import CONTROLS, Conditioner, Told
from sdgym.algos.conditioning.outcome import OutcomeOnly
from sdgym.algos.conditioning.peer import FeedbackOnly, Peer, PeerFeedback
from sdgym.algos.conditioning.reference import Reference
from sdgym.algos.conditioning.verdict import Contrast, Verdict
from sdgym.errors import UnknownNameError
from sdgym.registry import Registry

conditioners: Registry[type[Conditioner]] = Registry("conditioner")
_CLASSES: tuple[type[Conditioner], ...] = (
    *(Reference, PartialReference, Answer, Example, Peer, PeerFeedback, WrongPeer, WrongAnswer, Contrast),
    *(FeedbackOnly, Verdict, FollowUp, OutcomeOnly, OutcomeHint, Rule, Plain),
)
for _class in _CLASSES:
    conditioners.register(_class.kind, _class)


def build_conditioners(kinds: Sequence[str], options: Mapping[str, Any], **shared: Any) -> tuple[Conditioner, ...]:
    """Return a conditioner per kind: ``shared`` goes to all, of ``options`` each gets those that its class names in ``options``.

    An option that belongs to none of these kinds waits for the one that it does belong to.

    Raises:
        UnknownNameError: a kind that nobody registered, or an option that no conditioner has.
    """
    classes = [conditioners.get(kind) for kind in kinds]
    known = sorted({name for kind in conditioners.names() for name in conditioners.get(kind).options})
    if unknown := set(options) - set(known):
        raise UnknownNameError("option of a context", min(unknown), known)
    taken = [{name: options[name] for name in cls.options if name in options} for cls in classes]
    return tuple(cls(**own, **shared) for cls, own in zip(classes, taken, strict=True))


__all__ = ["CONTROLS", "Conditioner", "FeedbackOnly", "OutcomeOnly", "Peer", "PeerFeedback", "Reference", "Told"]
__all__ += ["build_conditioners", "conditioners"]
