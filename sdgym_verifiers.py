"""The plugin ``sdgym-verifiers`` of the package ``verifiers``, which looks for plugins among top-level modules: ``vf-eval sdgym-verifiers``.

See :mod:`sdgym.interop.verifiers_bridge`.
"""

from sdgym.interop.verifiers_bridge import Taskset, World

__all__ = ["Taskset", "World"]
