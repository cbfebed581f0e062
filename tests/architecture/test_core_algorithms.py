"""The named methods' promises, one by one: each fixture, property and edge case of their specification has its test.

The keys are the specification's own sections (algorithms-core); its headline numbers (sections f) are no promises. Left out,
because no method here has them: the weights of TRL's iw_opd (§9, another framework's trainer) and the optional SAPO, LUSPO and
VESPO losses (§1a).
"""

from __future__ import annotations

import pathlib
import re

import pytest

from sdgym.testing.promises import missing

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAWS, CORE = "properties/test_core_laws.py", "properties/test_losses_laws.py"
EDGES, ALGOS, ARMS = "unit/test_core_edges.py", "unit/test_algorithms.py", "unit/test_reference_arms.py"
DIVERGENCE, POLICY, ADVANTAGES = "unit/test_losses_divergence.py", "unit/test_losses_policy.py", "unit/test_advantages.py"
SD_ZERO, SKILL, VPD, TEACHER = "unit/test_sd_zero.py", "unit/test_skill_sd.py", "unit/test_vpd.py", "unit/test_teacher.py"
LEARNER, TOLD, ROLLOUT, TRAINER = "unit/test_learner.py", "unit/test_conditioning.py", "unit/test_rollout.py", "unit/test_trainer.py"
FIXTURE = f"{DIVERGENCE}::test_printed_fixture"

PROMISES: dict[str, tuple[str, ...]] = {  # statement: file::test, or file::test[words of its table]
    # ---- §0 notation, aggregation ----
    "0 a view's logits stand before its tokens, at one loss temperature": (f"{LEARNER}::test_scores_equal_a_fresh_forward",),
    "0 the teacher carries no gradient": (f"{DIVERGENCE}::test_no_gradient_reaches_the_teacher",),
    "0 the family is discontinuous in scale at its ends": (
        f"{CORE}::test_jensen_shannon_tends_to_scaled_kl_at_its_ends",
        f"{DIVERGENCE}::test_the_ends_of_jensen_shannon_are_not_members",
    ),
    "0 logit gradients": (f"{LAWS}::test_logit_gradients_are_the_closed_forms",),
    "0 the sampled gradient has the reverse KL's expectation": (f"{POLICY}::test_expected_sampled_gradient_is_the_reverse_kl_gradient",),
    "0.1 masked sequences count where asked": (
        f"{POLICY}::test_masked_sequences_count_only_where_asked",
        f"{LAWS}::test_micro_batches_of_one_sequence_count_a_masked_one",
        "unit/test_losses_trl.py::test_reduction_with_a_masked_sequence",
    ),
    # ---- §1 GRPO ----
    "1a k1, k2, k3, k3+ and w·k3": (
        f"{POLICY}::test_reference_kl_values_and_gradients",
        f"{LAWS}::test_expected_gradients_of_the_reference_kl_estimators",
        f"{POLICY}::test_ratio_form_is_the_derivative_of_w_times_k3",
    ),
    "1a TRL's delta": (f"{LAWS}::test_trls_delta_is_the_dual_clip",),
    "1a CISPO's two caps": (f"{POLICY}::test_cispo_cap_is_absolute_and_one_sided",),
    "1a rollout mismatch": (f"{POLICY}::test_rollout_correction",),
    "1c old log-probs": (f"{ALGOS}::test_old_logprobs_are_scored_only_off_policy", f"{LEARNER}::test_on_policy_ratios_are_exactly_one"),
    "1c dynamic sampling": (
        f"{ALGOS}::test_dynamic_sampling_rejects_groups_without_spread",
        f"{TRAINER}::test_rejected_groups_are_drawn_again_a_bounded_number_of_times",
    ),
    "1e an all-equal group is 0 and stays in the denominator": (
        f"{ADVANTAGES}::test_equal_rewards_give_exactly_zero",
        f"{ALGOS}::test_on_policy_gradient_is_the_papers",
    ),
    "1e a group of one is refused": (f"{ALGOS}::test_a_single_rollout_is_refused_where_a_group_is_needed",),
    "1e truncated rows": (f"{ALGOS}::test_ungradable_rows_are_absent_and_truncated_ones_can_be_masked",),
    "1e a reward of None": (f"{ADVANTAGES}::test_a_row_that_could_not_be_graded_leaves_the_statistics",),
    "1e several turns": (f"{ALGOS}::test_turn_credit_reaches_the_tokens_of_its_turn",),
    "1e a prompt too long": (f"{ROLLOUT}::test_a_prompt_that_does_not_fit_masks_its_rows",),
    "1e an empty micro-batch": (
        f"{POLICY}::test_empty_mask_gives_a_zero_attached_to_the_graph",
        f"{LEARNER}::test_an_empty_mask_is_a_zero_with_a_graph",
    ),
    "1g advantages": (f"{ADVANTAGES}::test_fixture",),
    "1g on-policy gradients": (f"{POLICY}::test_on_policy_every_objective_is_the_policy_gradient",),
    "1g clips": (f"{POLICY}::test_ppo_and_dual_clip",),
    "1g CISPO": (f"{POLICY}::test_cispo_keeps_the_gradient_where_ppo_drops_it",),
    "1g GSPO": (
        f"{POLICY}::test_gspo_ratio_is_the_geometric_mean_over_unmasked_tokens",
        f"{POLICY}::test_gradient_against_finite_differences",
    ),
    "1g overlong": (f"{ADVANTAGES}::test_overlong_fixture", f"{ALGOS}::test_overlong_shaping_lowers_the_reward_of_long_answers"),
    "1g aggregation": (f"{POLICY}::test_aggregation_fixture",),
    "1g micro-batches change the micro mean alone": (
        f"{CORE}::test_cutting_a_batch_into_micro_batches_changes_nothing",
        f"{CORE}::test_the_micro_batch_mean_does_depend_on_the_cut",
        f"{LEARNER}::test_micro_batches_change_only_the_micro_mean",
    ),
    # ---- §2 RFT ----
    "2e nothing right, everything right, truncated, duplicates": (
        f"{ALGOS}::test_an_empty_pool_is_no_update",
        f"{ALGOS}::test_rft_imitates_distinct_untruncated_successes_up_to_the_cap",
    ),
    "2e several turns": (f"{EDGES}::test_rejection_trains_the_actions_of_every_turn_and_no_observation",),
    "2g REINFORCE without a baseline": (f"{ALGOS}::test_rft_gradient_is_reinforce_without_baseline",),
    "2g all right is fine-tuning": (f"{EDGES}::test_where_everything_is_right_rejection_is_plain_fine_tuning",),
    "2g SD-Zero's generation": (f"{SD_ZERO}::test_without_attempt_and_phrase_the_generation_loss_is_rfts",),
    # ---- §3 OPSD ----
    "3a the clip inverts the pull": (
        f"{LAWS}::test_gradient_of_the_clipped_forward_kl",
        f"{CORE}::test_point_wise_clip_turns_the_pull_on_the_teachers_favourite_around",
        f"{DIVERGENCE}::test_token_clip_bounds_the_sum_and_stops_its_gradient",
    ),
    "3b thinking on either side": ("unit/test_thinking.py::test_the_teacher_thinks_where_the_student_does_not",),
    "3e no reward": (f"{EDGES}::test_the_outcome_does_not_matter_to_a_method_without_rewards",),
    "3e truncated rows are used": (f"{ALGOS}::test_opsd_teaches_every_gradable_row_from_the_reference",),
    "3e an empty answer": (f"{EDGES}::test_an_empty_answer_has_no_part",),
    "3e a reference too long": (f"{TOLD}::test_a_row_that_does_not_fit_drops_out_and_the_slot_can_be_cut_instead",),
    "3e tokens are never encoded again": (f"{ROLLOUT}::test_segments_hold_exactly_what_passed_through_the_sampler",),
    "3e several turns": (f"{TOLD}::test_multi_turn_rows_keep_observations_unscored",),
    "3g one context": (f"{ALGOS}::test_a_teacher_without_news_teaches_nothing",),
    "3g a fresh adapter": (
        "unit/test_adapters.py::test_a_fresh_adapter_changes_nothing_and_alone_is_trained",
        "unit/test_adapters.py::test_the_frozen_teacher_is_the_adapter_off",
    ),
    "3g EMA": (f"{LAWS}::test_an_average_begins_with_a_copy",),
    "3g sampled OPSD is sampled SDPO": (f"{EDGES}::test_sampled_opsd_is_sampled_sdpo_without_a_cap",),
    # ---- §4 SDPO ----
    "4a losses of TRL": ("unit/test_losses_trl.py::test_topk", "unit/test_losses_trl.py::test_full"),
    "4a hybrid of losses or of advantages": (f"{LAWS}::test_mixing_losses_is_mixing_advantages_on_policy",),
    "4b demonstrations lose closed thinking": (
        f"{TOLD}::test_texts_of_episodes",
        f"{EDGES}::test_only_closed_thinking_is_taken_out_of_a_demonstration",
    ),
    "4c, 4e demonstrations": (f"{ALGOS}::test_demonstrations_exclude_self", f"{TOLD}::test_peer_is_the_first_other_success"),
    "4e zeros of rows without a teacher": (f"{ALGOS}::test_rows_without_a_teacher_count_as_zeros_in_sdpo",),
    "4e a threshold of success": (f"{ALGOS}::test_success_threshold_decides_who_is_a_peer",),
    "4g K = V and K = V − 1": (f"{CORE}::test_support_of_everything_is_full_and_coarsening_loses_information",),
    "4g the tail grows with K": (f"{DIVERGENCE}::test_tail_reverse_kl_grows_with_k",),
    "4g a full tail": (f"{DIVERGENCE}::test_tail_of_a_full_support_is_finite_and_still",),
    "4g symmetry": (f"{CORE}::test_jensen_shannon_is_bounded_and_symmetric",),
    "4g is_clip": (f"{POLICY}::test_importance_cap_is_one_sided_and_without_gradient",),
    "4g EMA and trust region": (
        f"{TEACHER}::test_ema_ten_steps_at_a_twentieth",
        f"{TEACHER}::test_ema_ends_are_frozen_and_live_after_the_step",
        f"{TEACHER}::test_trust_region_mixes_the_frozen_copy_and_the_student",
        f"{LEARNER}::test_teacher_views_are_scored_by_the_teacher",
    ),
    "4g gating": (f"{ALGOS}::test_feedback_gating", f"{TOLD}::test_gating_of_peer_and_feedback"),
    "4g the hybrid's ends": (f"{ALGOS}::test_hybrid_mixes_by_coefficients_and_its_ends_are_its_parents",),
    # ---- §5 SD-Zero ----
    "5a joint and sequential": (f"{SD_ZERO}::test_joint_and_sequential_losses_are_the_papers_likelihoods",),
    "5a zero_outside_topk": (f"{SD_ZERO}::test_printed_fixture_of_the_floored_teacher",),
    "5a both divergences": (f"{SD_ZERO}::test_the_distillation_loss_is_the_written_out_divergence",),
    "5b the first copy stays open": (f"{SD_ZERO}::test_attempt_ids_keep_an_open_turn",),
    "5b r > 0.5, truncated is wrong": (f"{SD_ZERO}::test_a_truncated_attempt_is_wrong_whatever_its_reward",),
    "5b iterative sync": (f"{SD_ZERO}::test_phases_of_the_presets", f"{TEACHER}::test_phase_start_moves_with_phases_only"),
    "5c data of phase 1": (
        f"{SD_ZERO}::test_wrong_attempts_are_revised_and_right_revisions_kept_once",
        f"{SD_ZERO}::test_the_papers_variant_also_restates_right_attempts",
        f"{SD_ZERO}::test_stages_share_the_pool_as_the_repository_does",
    ),
    "5e right and wrong are both distilled": (f"{SD_ZERO}::test_labels_split_right_from_wrong",),
    "5e several turns are refused": (f"{SD_ZERO}::test_what_cannot_work_is_refused_with_a_way_out",),
    "5e self-localisation": (
        f"{SD_ZERO}::test_share_of_the_heaviest_tokens",
        "learning/test_letters_teachers.py::test_the_self_localisation_of_a_reviser_is_logged_for_right_and_wrong_attempts",
    ),
    "5g positions": (
        f"{SD_ZERO}::test_the_teacher_reads_prompt_attempt_and_phrase_then_scores_the_same_tokens",
        f"{SD_ZERO}::test_logit_index_without_an_end_token_is_the_papers",
    ),
    "5g nothing told": (f"{SD_ZERO}::test_no_attempt_and_no_phrase_leave_no_loss",),
    "5g mixed": (
        f"{SD_ZERO}::test_printed_fixtures_of_the_repositorys_loss",
        f"{SD_ZERO}::test_the_mixture_has_the_two_directions_as_its_ends",
    ),
    "5e, 5g cuts": (f"{SD_ZERO}::test_an_answer_that_must_fit_twice_is_cut", f"{SD_ZERO}::test_both_sides_are_cut_alike"),
    "5g mask sums": (f"{SD_ZERO}::test_generation_trains_everything_after_the_prompt_and_revision_only_the_second_answer",),
    # ---- §6 Skill-SD ----
    "6b skills of all three summarisers": (
        f"{SKILL}::test_template_says_what_the_environment_said",
        "unit/test_summarisers.py::test_the_policy_summarises_its_own_attempts",
        "unit/test_summarisers.py::test_endpoint_answers_in_order_and_counts_tokens",
    ),
    "6b the bank is resumable": (
        f"{SKILL}::test_bank_survives_a_checkpoint",
        "unit/test_skill_runs.py::test_resume_changes_nothing_and_second_passes_are_charged",
    ),
    "6e equal rewards": (f"{SKILL}::test_equal_rewards_silence_grpo_but_not_the_skill",),
    "6e no skill yet": (f"{SKILL}::test_the_first_step_is_grpo_and_the_second_has_skills",),
    "6e the turn limit": (f"{EDGES}::test_an_episode_that_ran_out_of_turns_counts_with_its_partial_reward",),
    "6e several turns": (f"{SKILL}::test_multi_turn_terms_are_the_formula",),
    "6e a skill too long": (f"{SKILL}::test_a_skill_that_does_not_fit_drops_the_row_and_never_the_history",),
    "6e no skill of its own making": (f"{SKILL}::test_no_rollout_is_scored_under_a_skill_of_its_groups_making",),
    "6g λ = 0": (f"{SKILL}::test_weight_zero_is_grpo",),
    "6g no skill, no loss": (f"{SKILL}::test_a_teacher_without_news_is_silent",),
    "6g fixture": (f"{SKILL}::test_printed_fixture", f"{POLICY}::test_sampled_fixture"),
    "6g ∇(ρ·k3)": (
        f"{SKILL}::test_gradient_is_that_of_the_plain_product_with_a_differentiable_ratio",
        f"{SKILL}::test_expected_gradient_is_that_of_the_reverse_kl_on_and_off_policy",
        f"{SKILL}::test_monte_carlo_gradient_is_unbiased",
        f"{SKILL}::test_bounds_bound_value_and_gradient_and_are_reported",
    ),
    "6g UCB": (
        f"{SKILL}::test_unseen_skills_come_first_in_order_of_arrival",
        f"{SKILL}::test_upper_confidence_bound",
        f"{SKILL}::test_equal_bounds_go_to_the_older_skill",
    ),
    # ---- §7 VPD ----
    "7a schedule": (
        f"{VPD}::test_an_e_step_stands_before_every_fth_m_step",
        f"{VPD}::test_after_an_e_step_the_rollouts_are_off_policy_for_m",
    ),
    "7b contexts": (
        f"{VPD}::test_verdicts",
        f"{VPD}::test_a_sibling_that_ended_the_other_way",
        f"{VPD}::test_own_critiques",
        f"{VPD}::test_critiques_work_without_a_success",
    ),
    "7e one side missing": (
        f"{VPD}::test_a_one_sided_batch_has_no_e_step_unless_asked",
        f"{VPD}::test_the_shift_is_remembered_over_a_checkpoint",
    ),
    "7e long sequences": (f"{VPD}::test_mean_instead_of_sum",),
    "7g fixture": (f"{VPD}::test_printed_fixture", f"{POLICY}::test_bco_fixture"),
    "7g C empty": (f"{VPD}::test_without_a_context_e_starts_at_two_ln_two_and_still_pulls_and_m_is_zero",),
    "7g F = ∞": (f"{VPD}::test_without_e_steps_it_is_sdpo_with_a_live_teacher",),
    "7g β → 0": (f"{VPD}::test_small_beta_silences_e",),
    "7g the prior slides and has no gradient": (
        f"{VPD}::test_terms_are_the_formula_and_the_prior_carries_no_gradient",
        f"{POLICY}::test_bco_prior_and_shift_carry_no_gradient",
    ),
    # ---- §8 SDFT ----
    "8a the objective": (f"{ARMS}::test_sdft_is_the_mean_over_sequences_of_the_forward_kl_after_three_tokens",),
    "8a mean of capped ratios": (f"{ARMS}::test_the_sequences_mean_of_capped_ratios_weighs_all_its_tokens",),
    "8e at most k tokens": (
        f"{ARMS}::test_sdft_is_the_mean_over_sequences_of_the_forward_kl_after_three_tokens",
        f"{ARMS}::test_skipping_whole_answers_is_refused",
    ),
    "8g tinker": (f"{ARMS}::test_printed_gradient_of_tinkers_cross_entropy",),
    # ---- §10 hazards ----
    "10 cosines": (
        f"{DIVERGENCE}::test_cosines_of_the_truncated_estimators",
        f"{LAWS}::test_plain_differentiation_of_a_truncated_sum_loses_direction",
    ),
    "10 proper distributions need no stop": (f"{LAWS}::test_stopping_the_log_ratio_changes_nothing_for_proper_distributions",),
    # ---- §11 fixtures, equivalences ----
    "11 p and q": (f"{LAWS}::test_the_printed_distributions",),
    "11 fixtures A and B": (FIXTURE, f"{POLICY}::test_sampled_fixture"),
    "11 at temperature 1.1": (f"{DIVERGENCE}::test_fixture_b_at_temperature_1_1",),
    "11 tinker's value": (f"{DIVERGENCE}::test_soft_cross_entropy_of_tinker_is_forward_kl_plus_the_teachers_entropy",),
    "11 agreement is silent": (
        f"{CORE}::test_never_negative_and_zero_with_zero_gradient_at_agreement",
        f"{LAWS}::test_a_teacher_that_agrees_is_silent_token_by_token",
        f"{LAWS}::test_the_soft_cross_entropy_is_the_exception",
    ),
    "11 SDPO sampled is Skill-SD": (f"{POLICY}::test_skill_sd_gradient_is_rho_ell",),
    "11 OPSD is SDPO": (f"{ALGOS}::test_opsd_equals_sdpo_where_both_are_told_the_same",),
    "11 SDFT is OPSD": (f"{ARMS}::test_with_nothing_skipped_a_frozen_teacher_and_one_divergence_sdft_is_opsd",),
    "11 SD-Zero's phase 2 is OPSD": (f"{SD_ZERO}::test_phase_two_is_opsd_with_the_attempt_and_its_phrase_as_privileged_context",),
    "11 GSPO is GRPO for one token": (f"{CORE}::test_gspo_equals_ppo_for_answers_of_one_token",),
    "11 RLOO": (f"{CORE}::test_rloo_is_a_rescaled_dr_grpo",),
    # ---- §12 interfaces ----
    "12 external teacher": (f"{TEACHER}::test_an_external_teacher_is_loaded_by_name_and_must_share_the_tokenizer",),
    "12 every kind of teacher survives": (f"{TEACHER}::test_state_survives", "unit/test_adapters.py::test_state_survives"),
    "12 chunks": (
        f"{LEARNER}::test_chunks_of_the_head_change_nothing",
        "unit/test_loss_memory.py::test_blocks_of_logits_do_not_add_up_with_tokens",
    ),
}
PRINTED = (  # every number of §11's tables as it is printed, and §1g's, §4g's, §5g's, §6g's, §7g's
    "191475 203687 048248 017203 182470 167788 042710 272874 257403 064713 265138 077199 049455 634204 41953 301522 083504 343901 254262 070144 "
    "407918 286048 080197 563120 466467 121443 170208 167819 041641 001096 001083 000272 001089 1.597034 8660 1.068939 0.896 40236 40792 41933 "
    "401263 32.5679 1.255460 021737 046568 024844 021979 51468"
)


@pytest.mark.parametrize("statement", PROMISES)
def test_each_promise_has_its_test(statement: str) -> None:
    assert not [said for place in PROMISES[statement] if (said := missing(place, ROOT / "tests"))]


def test_each_printed_number_is_in_a_test_that_a_promise_names() -> None:
    files = {place.partition("::")[0] for places in PROMISES.values() for place in places}
    text = "\n".join((ROOT / "tests" / file).read_text(encoding="utf-8") for file in sorted(files))
    assert not [value for value in PRINTED.split() if value not in text]


METHODS = ("grpo", "rft", "opsd", "sdpo", "sd_zero", "skill_sd", "vpd", "sdft", "sft_reference", "star")


@pytest.mark.parametrize("name", METHODS)
def test_show_tells_paper_objective_axes_sources_deviations_status_and_needs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from sdgym.algos.presets import build_algorithm, load_preset
    from sdgym.commands.algos import show

    show(name)
    said, settings = capsys.readouterr().out.split("\nsettings (", 1)
    preset = load_preset(name)
    assert f"paper: {preset.paper}" in said and f"status: {preset.status}" in said
    assert "L = " in said or "Σ_t D(" in said or "L_M = " in said, "the objective"
    assert re.search(r"(Deviations|Choices): 1\. ", said)
    for axis in ("privileged text", "teacher weights", "mean", "phases", "needs"):
        assert re.search(rf"^{axis}: \S", said, re.MULTILINE), axis
    values = [line for line in settings.split("\n\n")[0].splitlines()[1:] if ": " in line]
    assert len(values) >= len(type(build_algorithm(name).config).model_fields) - 1
    assert all(re.search(r"# \S", line) for line in values), "each value says where it comes from"


@pytest.mark.parametrize("name", METHODS)
def test_pages_are_whole(name: str) -> None:
    text = (ROOT / "docs" / "algorithms" / f"{name}.md").read_text(encoding="utf-8")
    above, _, results = text.partition("<!-- results")
    parts = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", above, re.MULTILINE | re.DOTALL))
    idea = parts["The idea"].strip().splitlines()
    assert len(idea) <= 5 and all(re.match(rf"{i}\. ", line) for i, line in enumerate(idea, 1))
    assert re.search(r"^\| equation \| code \|$", parts["Equation and code"], re.MULTILINE)
    assert parts["Metrics"].count("`") >= 4
    numbered = re.findall(r"^(\d+)\. ", parts.get("Deviations") or parts["Choices"], re.MULTILINE)
    assert [int(n) for n in numbered] == list(range(1, len(numbered) + 1)) and len(numbered) >= 3
    assert "| 95 % interval | n |" in results and "Again: `sdgym compare " in results
