"""Teacher conditioning: what privileged text a teacher reads before it scores the student's tokens.

One conditioner per file; text in, token-exact views out. To add one: subclass
:class:`sdgym.algos.conditioning.base.Conditioner`, write ``tell``, register it below (or in a plugin).
"""

from sdgym.algos.conditioning.base import CONTROLS, Conditioner, Told
from sdgym.algos.conditioning.outcome import OutcomeOnly
from sdgym.algos.conditioning.peer import FeedbackOnly, Peer, PeerFeedback
from sdgym.algos.conditioning.reference import Reference
from sdgym.registry import Registry

conditioners: Registry[type[Conditioner]] = Registry("conditioner")
for _class in (Reference, Peer, FeedbackOnly, PeerFeedback, OutcomeOnly):
    conditioners.register(_class.kind, _class)

__all__ = ["CONTROLS", "Conditioner", "FeedbackOnly", "OutcomeOnly", "Peer", "PeerFeedback", "Reference", "Told", "conditioners"]
