"""One update on a recorded buffer, in as many processes as the launcher's environment says; the first one saves the outcome.

one_update.py REQUEST.json   with keys config (a run's settings), algorithms, buffer (Parquet), out (folder)
"""

from __future__ import annotations

import json
import pathlib
import sys

from safetensors.torch import save_file

from sdgym.algos.base import AnnotateContext, Batch
from sdgym.buffer import RolloutBuffer
from sdgym.config import make_config
from sdgym.seeding import generator
from sdgym.session import Session

request = json.loads(pathlib.Path(sys.argv[1]).read_text())
out = pathlib.Path(request["out"])
for name, algo in request["algorithms"].items():
    session = Session(make_config({**request["config"], "algo": algo}), out)
    buffer = RolloutBuffer.load(request["buffer"])
    context = AnnotateContext(0, session.policy.chat, generator(0, "one"), session.learner.score, False, session.policy.context_limit)
    terms = session.algorithm.annotate(Batch(buffer.rows, buffer.groups()), context)
    assert terms
    rows = range(len(buffer))
    metrics = session.learner.update(terms, buffer.rows, [rows[: len(rows) // 2], rows[len(rows) // 2 :]])
    session.teacher.after_step()
    session.world.settle(session.ledger)
    session.sampler.sync_weights()
    weights = {key: value.contiguous().clone() for key, value in session.learner.weights()}
    state = session.learner.state_dict()
    session.learner.load_state_dict(state)
    again = dict(session.learner.weights())
    assert all(bool((again[key] == weights[key]).all()) for key in weights)
    if session.world.main:
        save_file(weights, out / f"{name}.safetensors")
        save_file({k: v.contiguous().clone() for k, v in state["teacher"].items()}, out / f"{name}.teacher.safetensors")
        kind = str(session.accelerator.distributed_type)
        summary = {"metrics": metrics, "ledger": session.ledger.state_dict(), "kind": kind, "processes": session.world.size}
        (out / f"{name}.json").write_text(json.dumps(summary))
    session.world.gather(None)
    session.driver.close()
    session.env.close()
session.accelerator.end_training()  # ends the process group, whose threads otherwise abort an interpreter that leaves, now and then
