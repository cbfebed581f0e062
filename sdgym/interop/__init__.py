"""Other people's libraries: our worlds in their trainers and servers, their servers as our worlds.

Each module needs its library and nothing else here does: ``trl_bridge`` (TRL's GRPOTrainer), ``openenv_bridge`` (OpenEnv servers
and clients), ``verifiers_bridge`` (tasks of Prime Intellect's verifiers).
"""
