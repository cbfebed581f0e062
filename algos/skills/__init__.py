"""Skills for Skill-SD: what finished attempts teach (summarisers), where it is kept (bank), how a teacher reads it (context)."""

from sdgym.algos.skills.bank import Skill, SkillBank
from sdgym.algos.skills.context import SkillContext, shelf_of
from sdgym.algos.skills.cycle import SkillCycle, recurs
from sdgym.algos.skills.endpoint import ChatEndpoint
from sdgym.algos.skills.summary import ModelSummariser, Summariser, Summary, TemplateSummariser, parse_summary, summary_request

__all__ = [
    "ChatEndpoint",
    "ModelSummariser",
    "Skill",
    "SkillBank",
    "SkillContext",
    "SkillCycle",
    "Summariser",
    "Summary",
    "TemplateSummariser",
    "parse_summary",
    "recurs",
    "shelf_of",
    "summary_request",
]
