"""How long a step takes on machines that are not here: a discrete-event simulation of rollout, stragglers and learner.

``lengths`` are what a policy says (measured, or a lognormal fitted to that), ``costs`` what an engine, a learner and the worlds need
for it (measured on this machine, or arithmetic over a data sheet), ``simulation`` plays them against each other in virtual time.
``python -m sdgym.benchmarks.simulate --help`` measures, calibrates and runs the scenarios of ``docs/scale.md``.
"""
