"""The algorithm zoo: one short file per method, each saying only what differs.

An algorithm turns finished rollouts into :class:`sdgym.core.LossTerm` records and says what its teacher
sees and weighs. It never sees an environment, a model or an optimizer.
To add one: a file here, a preset in ``presets/``, one line in the table below.
"""

if __name__ != "sdgym.algos":
    raise ImportError("this folder is the package sdgym.algos: write `import sdgym.algos` (a bare `import algos` would load it twice)")

from typing import Any

from sdgym.registry import Registry

algorithms: Registry[Any] = Registry("algorithm")
for _name, _target in {
    "grpo": "sdgym.algos.grpo:GRPO",
    "rft": "sdgym.algos.rft:RFT",
    "opsd": "sdgym.algos.opsd:OPSD",
    "sdpo": "sdgym.algos.sdpo:SDPO",
    "sd_zero": "sdgym.algos.sd_zero:SDZero",
    "skill_sd": "sdgym.algos.skill_sd:SkillSD",
    "sdft": "sdgym.algos.sdft:SDFT",
    "sft_reference": "sdgym.algos.sft_reference:SFTReference",
    "star": "sdgym.algos.star:Star",
    "vpd": "sdgym.algos.vpd:VPD",
    "sharpen": "sdgym.algos.sharpen:Sharpen",
    "compose": "sdgym.algos.compose:Composed",
    "rltf": "sdgym.algos.rltf:RLTF",
    "trace": "sdgym.algos.token_trace:Trace",
    "pi_distill": "sdgym.algos.pi_distill:PiDistill",
    "atesd": "sdgym.algos.atesd:ATESD",
    "tsd_kd": "sdgym.algos.tsd_kd:TSDKD",
    "curio_sft": "sdgym.algos.curio_sft:CurioSFT",
    "score": "sdgym.algos.score:Score",
    "rerest": "sdgym.algos.rerest:ReReST",
    "pu_rl": "sdgym.algos.pu_rl:PURL",
    "pu_pairs": "sdgym.algos.pu_pairs:PUPairs",
    "bstar": "sdgym.algos.bstar:BStar",
    "revise": "sdgym.algos.revise:Revise",
    "sgs": "sdgym.algos.sgs:SGS",
}.items():
    algorithms.register(_name, _target)
