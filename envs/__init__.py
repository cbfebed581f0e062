"""The worlds: one folder or file per environment, registered with Gymnasium by string targets.

To add one: a file here (or anywhere) with a :class:`sdgym.text_env.TextEnv`, and one ``register`` call.
"""

if __name__ != "sdgym.envs":
    raise ImportError("this folder is the package sdgym.envs: write `import sdgym.envs` (a bare `import envs` would load it twice)")

import gymnasium as _gymnasium

ENVIRONMENTS: dict[str, str] = {}


def register(env_id: str, target: str) -> None:
    """Register the environment class ``target`` ("package.module:Class") as ``env_id`` ("namespace/Name-v0")."""
    _gymnasium.register(id=env_id, entry_point=target, disable_env_checker=True, order_enforce=False)
    ENVIRONMENTS[env_id] = target


register("sdgym/Code-v0", "sdgym.envs.programming.env:CodeEnv")
register("sdgym/Math-v0", "sdgym.envs.mathematics.env:MathEnv")
register("sdgym/Sokoban-v0", "sdgym.envs.sokoban.env:SokobanEnv")
register("sdgym/Steps-v0", "sdgym.envs.steps:StepsEnv")
register("sdgym/ToolWorld-v0", "sdgym.envs.tools.env:ToolWorldEnv")
register("sdgym/TwoTurn-v0", "sdgym.envs.two_turn:TwoTurnEnv")
