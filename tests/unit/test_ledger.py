from __future__ import annotations

import pytest

from sdgym.errors import CheckpointError
from sdgym.ledger import Ledger


def test_flops_by_hand() -> None:
    ledger = Ledger(parameters=10, sampled_tokens=3, prompt_tokens=4, score_inputs=5, train_inputs=7, eval_tokens=1000, scored_tokens=9)
    assert ledger.flops == 10 * (2 * (3 + 4 + 5) + 6 * 7)


def test_state_survives() -> None:
    ledger = Ledger(parameters=10, sampled_tokens=3, discarded_tokens=2, updates=4)
    other = Ledger()
    other.load_state_dict(ledger.state_dict())
    assert other == ledger and other.summary()["flops"] == ledger.flops


def test_every_stream_but_the_rollouts_is_a_second_pass() -> None:
    ledger = Ledger()
    ledger.charge_sampled(5, "train")
    ledger.charge_sampled(3, "train-revise")
    assert (ledger.sampled_tokens, ledger.second_pass_tokens) == (8, 3)


def test_other_counters_are_refused() -> None:
    with pytest.raises(CheckpointError, match="tokens_of_old"):
        Ledger().load_state_dict({**Ledger().state_dict(), "tokens_of_old": 1})


def test_metric_names() -> None:
    names = Ledger(parameters=5).metrics()
    assert "ledger/sampled_tokens" in names and "ledger/flops" in names and "ledger/parameters" not in names
