"""The wider family's promises, one by one: each reduction has its test, each trap of a source is named where a reader meets it."""

from __future__ import annotations

import pathlib

import pytest

from sdgym.testing.promises import missing

ROOT = pathlib.Path(__file__).resolve().parents[2]
AXES, COMPOSED = "unit/test_composition_axes.py", "unit/test_composed.py"

REDUCTIONS: dict[str, tuple[str, ...]] = {  # statement: file::test, or file::test[id] for a line of the lattice table
    "1 CEPO is RLSD with the student as negative, GRPO with its positive": (
        f"{COMPOSED}::test_reduction_lattice[CEPO whose negative is the student ≡ RLSD]",
        f"{COMPOSED}::test_reduction_lattice[CEPO whose negative is its positive ≡ GRPO]",
        f"{AXES}::test_contrast_with_the_student_as_its_negative_is_the_single_teacher_and_with_itself_nothing",
    ),
    "2 RLSD is GRPO at λ = 0, or where the teacher is the student, for any ε": (
        f"{COMPOSED}::test_reduction_lattice[RLSD at λ = 0 ≡ GRPO]",
        f"{COMPOSED}::test_reduction_lattice[RLSD whose teacher is the student ≡ GRPO]",
        f"{AXES}::test_without_strength_or_evidence_the_advantage_is_untouched",
    ),
    "3 1 − λε ≤ Â/A ≤ 1 + λε, the sign stays": (f"{AXES}::test_a_modulated_advantage_keeps_its_sign_and_stays_within_its_bounds",),
    "4 AVSD of one view, or of identical ones, is the user-interactions loss": (
        f"{COMPOSED}::test_reduction_lattice[AVSD of one view ≡ the user-interactions loss without its masks]",
        f"{COMPOSED}::test_reduction_lattice[AVSD of identical views ≡ one]",
        f"{AXES}::test_gate_of_one_view_or_of_identical_ones_is_the_single_teacher",
    ),
    "5 AVSD lies between the means and keeps the consensus sign": (
        f"{AXES}::test_gated_consensus_lies_between_the_means_and_never_changes_its_sign",
    ),
    "6 SELFCI is the KL to the product of experts": (
        f"{AXES}::test_sum_of_reverse_kls_is_the_kl_to_the_product_of_experts_up_to_its_normaliser",
        f"{COMPOSED}::test_reduction_lattice[SELFCI of one view ≡ plain reverse KL]",
    ),
    "7 SRPO without weights, with nothing and with everything routed": (
        f"{COMPOSED}::test_reduction_lattice[SRPO at β = 0 has no weights]",
        f"{COMPOSED}::test_reduction_lattice[SRPO with everything routed and β = 0 ≡ SDPO]",
        f"{COMPOSED}::test_reduction_lattice[SRPO with nothing routed ≡ GRPO]",
        f"{AXES}::test_entropy_weights",
    ),
    "8 PW-OPSD": (
        f"{COMPOSED}::test_reduction_lattice[PW-OPSD with w_min = 1 ≡ OPSD]",
        f"{AXES}::test_position_weights_printed_limits",
    ),
    "9 PACED and SC-SDPO are what the group baselines weigh": (
        f"{COMPOSED}::test_reduction_lattice[PACED(0, 0) ≡ unweighted]",
        f"{AXES}::test_the_kernels_are_what_the_group_baselines_weigh_implicitly",
    ),
    "10 stop-gradient top-k": (f"{AXES}::test_naive_top_k_is_the_stopped_one_plus_the_gradient_of_the_captured_mass",),
    "11 Uni-OPD's margin": (f"{AXES}::test_margin_shift",),
    "12 RLTF's baselines": (
        "unit/test_rltf.py::test_where_every_revision_succeeds_only_the_first_turn_baseline_leaves_a_signal",
        "unit/test_rltf.py::test_how_often_second_turns_alone_leave_a_signal",
        "unit/test_rltf.py::test_the_ratio_makes_the_second_turn_an_unbiased_gradient_of_the_first",
    ),
    "13 TRACE's schedule": (
        "unit/test_trace.py::test_schedule",
        "unit/test_trace.py::test_other_tokens_have_no_distillation_gradient",
    ),
    "14 CurioSFT's gradient": ("unit/test_hooks.py::test_curious_gradient_and_where_it_stops",),
    "15 a clipped forward KL can be negative": (f"{AXES}::test_a_vocabulary_clip_caps_positive_entries_only_so_the_loss_can_be_negative",),
    "16 CaOPD's pass rate": (f"{AXES}::test_the_stated_rate_is_the_confidence_with_the_least_brier_score",),
    "17 KL(sg T‖S) is cross-entropy on teacher samples": (
        f"{AXES}::test_gradient_of_the_forward_kl_is_that_of_cross_entropy_on_teacher_samples",
        "unit/test_hooks.py::test_without_a_hint_pi_distill_is_the_policy_gradient",
    ),
    "18 the geometric mean as a policy gradient is SELFCI in expectation": (
        f"{AXES}::test_geometric_target_is_the_mean_of_the_reverse_kls_and_its_sampled_form_has_the_same_expectation",
    ),
    "19 JSD is α(1 − α) of the KL nearby": (f"{AXES}::test_jensen_shannon_is_alpha_times_one_minus_alpha_of_the_kl_nearby",),
    "20 every combination is GRPO at zero": (
        "unit/test_trace.py::test_after_the_schedule_it_is_grpo_bit_for_bit",
        f"{COMPOSED}::test_reduction_lattice[a sum at λ = 0 is GRPO]",
        f"{COMPOSED}::test_reduction_lattice[SRPO with nothing routed ≡ GRPO]",
    ),
    "SCoRe's four payments": ("unit/test_two_turn.py::test_progress_is_paid_to_the_second_turn",),
    "MR-RLVR's permutations": ("unit/test_two_turn.py::test_a_random_order_earns_one_nth_and_the_right_one_all",),
    "SGS pays nothing at both ends": ("unit/test_sgs.py::test_what_nobody_and_what_everybody_solves_pays_nothing",),
    "B-STaR's balance": ("unit/test_data_policies.py::test_balance",),
    "ReVISE's vote": ("unit/test_data_policies.py::test_votes_by_hand",),
    "PU-RL's pairs": ("unit/test_two_turn.py::test_pu_pairs_is_dpo_on_the_extremes_of_the_ranking_and_never_reads_the_reward",),
    "ATESD telescopes, and is OPSD at α = 1": ("unit/test_hooks.py::test_progress", "unit/test_hooks.py::test_full_exposure_is_opsd"),
    "the probe's ideal gradient": ("unit/test_diagnose.py::test_ideal_is_the_gradient_of_expected_success",),
}

TRAPS: dict[str, tuple[str, str]] = {  # page in docs/algorithms, and words of the sentence that names the trap
    "1 CEPO's RLSD is starved": ("rlsd", "is starved"),
    "2 CEPO's learning rates": ("cepo", "five times the learning rate"),
    "2 CEPO's README mean": ("cepo", "is not the mean of its row"),
    "3 CEPO's teacher is blind": ("cepo", "blank out images"),
    "3 an empty wrong set": ("cepo", "falls back to RLSD"),
    "4 TT-OPD never ran as described": ("tt_opd", "never executed in any published run"),
    "5 TSD-KD's reversed ranks": ("tsd_kd", "scores the reversed order"),
    "5 TSD-KD's fraction": ("tsd_kd", "90 % of the tokens"),
    "6 UniSD's sequence weights": ("unisd", "sequence weights cancel"),
    "6 UniSD's γ": ("unisd", "nearly inert"),
    "7 CaOPD's teacher prompt": ("caopd", "from the first message alone"),
    "8 AVSD's other formula": ("avsd", "Another formula circulates"),
    "8 SRPO's other formula": ("srpo", "(1 − H)^α"),
    "9 SELFCI's directions": ("selfci", "Both are reverse KLs"),
    "9 SRPO's divergence": ("srpo", "The paper writes the reverse KL"),
    "9 TT-OPD's sign": ("tt_opd", "flips the sign of the KL"),
    "9 TSD-KD's scale": ("tsd_kd", "about .09·RKL"),
    "10 naive top-k": ("sg_topk", "spurious gradient"),
    "11 PW-OPSD's margin": ("pw_opsd", "test sets of 30 questions"),
    "11 ATESD's margin": ("atesd", ".95 points on sets of 30 questions"),
}


@pytest.mark.parametrize("statement", REDUCTIONS)
def test_each_reduction_and_fixture_has_its_test(statement: str) -> None:
    assert not [said for place in REDUCTIONS[statement] if (said := missing(place, ROOT / "tests"))]


@pytest.mark.parametrize("trap", TRAPS)
def test_each_trap_is_named_on_its_page(trap: str) -> None:
    page, words = TRAPS[trap]
    text = (ROOT / "docs" / "algorithms" / f"{page}.md").read_text(encoding="utf-8").partition("<!-- results")[0]
    assert words in " ".join(text.split()), f"{page}.md does not say {words!r}"
