"""Break one key line at a time and see that a named test turns red.

Each mutant changes one line in a copy of the checkout (a sign, a mask, a shift, a stop-gradient, a normaliser …) and
names the test that must catch it. A mutant that survives, a test that is red without it, or a text that is no longer
in its file is a failure. Run all with ``python tests/mutants.py``, some with ``python tests/mutants.py WORD …``.

The heavy libraries are imported once; every run is a fork of that process which imports the project from the copy.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ("sdgym", "algos", "envs", "verifiers", "benchmarks", "tests")
SECONDS = 120  # of one run; the shortest tests that catch each mutant take a few
PASSED, FAILED = 0, 1  # pytest's exit codes; 2–5 mean that the test did not run


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One broken line: ``old`` occurs once in ``file`` and becomes ``new``; ``test`` is the node id that must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


DIVERGENCE, DISTILL = "algos/losses/divergence.py", "algos/losses/distill.py"
POLICY, BASE, SEQUENCE = "algos/losses/policy_gradient.py", "algos/losses/base.py", "algos/losses/sequence.py"
T_DIVERGENCE, T_POLICY = "tests/unit/test_losses_divergence.py::", "tests/unit/test_losses_policy.py::"
T_ADVANTAGES, T_ALGORITHMS = "tests/unit/test_advantages.py::", "tests/unit/test_algorithms.py::"
T_LEARNER, T_TEACHER = "tests/unit/test_learner.py::", "tests/unit/test_teacher.py::"
T_EXPRESSIBLE, T_ROLLOUT = "tests/architecture/test_expressible.py::", "tests/unit/test_rollout.py::"
T_SKILL, T_SUMMARY, T_VPD = "tests/unit/test_skill_sd.py::", "tests/unit/test_summarisers.py::", "tests/unit/test_vpd.py::"
CREDIT, VIEWS, ASSEMBLY = "algos/composition/credit.py", "algos/composition/views.py", "algos/composition/assembly.py"
TOKENS, ROWS = "algos/composition/token_weights.py", "algos/composition/sample_weights.py"
T_AXES, T_COMPOSED = "tests/unit/test_composition_axes.py::", "tests/unit/test_composed.py::"

MUTANTS = (
    # policy gradients
    Mutant("ppo: sign", POLICY, "loss = -torch.minimum(w * advantage,", "loss = torch.minimum(w * advantage,", T_POLICY + "test_ppo_and_dual_clip"),
    Mutant("ppo: optimistic clip", POLICY, "loss = -torch.minimum(w * advantage,", "loss = -torch.maximum(w * advantage,", T_POLICY + "test_ppo_and_dual_clip"),
    Mutant("dual clip: wrong side", POLICY, "torch.where(advantage < 0, torch.minimum", "torch.where(advantage > 0, torch.minimum", T_POLICY + "test_ppo_and_dual_clip"),
    Mutant("cispo: gradient through the weight", POLICY, "return -w.detach().clamp(min=low", "return -w.clamp(min=low", T_POLICY + "test_on_policy_every_objective_is_the_policy_gradient"),
    Mutant("gspo: gradient lost", POLICY, "torch.exp(inputs.logprobs - inputs.logprobs.detach())", "torch.exp(inputs.logprobs - inputs.logprobs).detach()", T_POLICY + "test_gradient_against_finite_differences"),
    Mutant("k3: direction", POLICY, "torch.exp(-bounded) - 1 + bounded", "torch.exp(bounded) - 1 - bounded", T_POLICY + "test_reference_kl_values_and_gradients"),
    Mutant("masked mean: counts masked tokens", BASE, "counts = sequence_sum((inputs.weight != 0).to(values.dtype)", "counts = sequence_sum(torch.ones_like(values)", T_POLICY + "test_gspo_ratio_is_the_geometric_mean_over_unmasked_tokens"),
    Mutant("mismatch: ratio upside down", BASE, "(inputs.old_logprobs - inputs.rollout_logprobs).detach()", "(inputs.rollout_logprobs - inputs.old_logprobs).detach()", T_POLICY + "test_rollout_correction"),
    # methods with a hook
    Mutant("rank loss: reversed order", "algos/losses/ranking.py", "scores.flip(-1).logcumsumexp(-1).flip(-1)", "scores.logcumsumexp(-1)", "tests/unit/test_hooks.py::test_plackett_luce_rewards_agreement"),
    Mutant("curio: no anchor", "algos/losses/tempered.py", "-inputs.logprobs + 0.5 * self.weight * gap.square()", "-inputs.logprobs + 0.0 * gap.square()", "tests/unit/test_hooks.py::test_curious_gradient_and_where_it_stops"),
    Mutant("rltf: baseline of the second turn", "algos/second_turn.py", 'reference = r0 if baseline == "first_turn" else r1', "reference = r1", "tests/unit/test_rltf.py::test_where_every_revision_succeeds_only_the_first_turn_baseline_leaves_a_signal"),
    Mutant("trace: schedule without hold", "algos/ramps.py", "(step - hold) / fall", "step / fall", "tests/unit/test_trace.py::test_schedule"),
    Mutant("trace: turns down the rest", "algos/spans/align.py", "np.where(mask[item.view.index_map], kept, 1.0)", "np.where(mask[item.view.index_map], 1.0, kept)", "tests/unit/test_trace.py::test_other_tokens_have_no_distillation_gradient"),
    Mutant("π-distill: player's log-probs forgotten", "algos/pi_distill.py", "dataclasses.replace(item, old_logprobs=s.logprobs)", "dataclasses.replace(item, old_logprobs=None)", "tests/unit/test_hooks.py::test_pi_distill_is_the_papers_objective"),
    Mutant("atesd: losses pay too", "algos/exposure/controller.py", "(max(0.0, gain) if gains_only else gain)", "gain", "tests/unit/test_hooks.py::test_progress"),
    Mutant("score: progress upside down", "algos/score.py", "(rewards[:, 1:2] - rewards[:, 0:1])", "(rewards[:, 0:1] - rewards[:, 1:2])", "tests/unit/test_two_turn.py::test_progress_is_paid_to_the_second_turn"),
    Mutant("preference: weight upside down", "algos/pairs.py", "np.exp(np.clip(margins, -50, 50))", "np.exp(np.clip(-margins, -50, 50))", "tests/unit/test_data_policies.py::test_preference_weights_are_dpos_gradient"),
    Mutant("b-star: no precision", "algos/balance.py", "* unique_right / selected if selected", "if selected", "tests/unit/test_data_policies.py::test_balance"),
    Mutant("rltf: the ratio upside down", "algos/rltf.py", "np.clip(sums[:, 0] - sums[:, 1],", "np.clip(sums[:, 1] - sums[:, 0],", "tests/unit/test_rltf.py::test_the_ratio_makes_the_second_turn_an_unbiased_gradient_of_the_first"),
    Mutant("pu_pairs: the worst is preferred", "algos/pu_pairs.py", "student_views(batch, best), student_views(batch, worst)", "student_views(batch, worst), student_views(batch, best)", "tests/unit/test_two_turn.py::test_pu_pairs_is_dpo_on_the_extremes_of_the_ranking_and_never_reads_the_reward"),
    Mutant("vote: heads are counted", "sdgym/evaluation.py", "key, [float(weights[i]) for i in mine])", "key)", "tests/unit/test_data_policies.py::test_votes_by_hand"),
    Mutant("curriculum: without end", "sdgym/session.py", "step < self.config.curriculum.steps", "step >= 0", "tests/unit/test_curriculum.py::test_the_first_steps_play_the_other_world_and_evaluations_never_do"),
    Mutant("branches: an episode ends with its turn", "sdgym/diagnose/branches.py", "success if terminated or truncated or masked else None", "success", "tests/unit/test_diagnose.py::test_the_tokens_of_a_resumed_episode_are_those_of_the_played_one"),
    Mutant("alignment: mass that leaves counts", "sdgym/diagnose/alignment.py", "(gradient - probs / mass * gradient.sum()) / mass", "gradient / mass", "tests/unit/test_diagnose.py::test_projection_is_the_gradient_under_the_candidates_own_softmax"),
    Mutant("sampler: outruns the pages", "sdgym/generation/torch_sampler.py", "if not free or page < 0:", "if not free:", "tests/unit/test_sampler.py::test_prompts_that_take_turns_share_too_few_pages"),
    # the composition
    Mutant("modulation: sign of the advantage ignored", CREDIT, "np.exp(np.clip(np.sign(advantage) * delta,", "np.exp(np.clip(delta,", T_AXES + "test_modulation_by_hand"),
    Mutant("modulation: strength on the wrong side", CREDIT, "((1 - strength) + strength * _odds", "(strength + (1 - strength) * _odds", T_AXES + "test_modulation_by_hand"),
    Mutant("margin: failures lifted", CREDIT, "out[bad] -= down * missing", "out[bad] += down * missing", T_AXES + "test_margin_shift"),
    Mutant("views: contrast against the student", VIEWS, "np.asarray(logq[0] - logq[1])", "np.asarray(logq[0] - logp)", T_COMPOSED + "test_cepo_and_groups_without_a_wrong_answer"),
    Mutant("views: arithmetic mean without its divisor", VIEWS, "np.logaddexp.reduce(logq, axis=0) - np.log(len(logq))", "np.logaddexp.reduce(logq, axis=0)", T_AXES + "test_gate_by_hand"),
    Mutant("position: one token late", TOKENS, "(np.asarray(places, np.float64) + 0.5) / length", "(np.asarray(places, np.float64) + 1.5) / length", T_COMPOSED + "test_pw_opsd"),
    Mutant("entropy weights: unsure tokens preferred", TOKENS, "np.exp(-beta * entropy)", "np.exp(beta * entropy)", T_COMPOSED + "test_srpo"),
    Mutant("pass kernel: failures count as passes", ROWS, "np.power(1 - rates, beta)", "np.power(rates, beta)", T_AXES + "test_pass_kernels"),
    Mutant("weights: not multiplied in", DISTILL, "            values = values * inputs.advantage", "            values = values * 1.0", T_COMPOSED + "test_paced_keeps_the_denominator_of_groups_that_weigh_nothing"),
    Mutant("routing: distilled rows keep their reward term", ASSEMBLY, "if item.view.row not in taken]", "if item.view.row >= 0]", T_COMPOSED + "test_srpo"),
    Mutant("routing: a denominator each", ASSEMBLY, 'normaliser_key="all rows"', "normaliser_key=term.name", T_COMPOSED + "test_srpo"),
    Mutant("views: a sum is not shared out", ASSEMBLY, "np.float32(w / max(count * w, 1.0))", "np.float32(w)", T_COMPOSED + "test_selfci"),
    Mutant("learner: known references are scored again", "sdgym/learner.py", "if entry.item.reference_logprobs is None]", "if True]", T_LEARNER + "test_reference_logprobs_that_are_known_are_used_and_not_scored_again"),
    # divergences
    Mutant("forward KL: weighted by the student", DIVERGENCE, "_clipped_sum(teacher.exp() * (teacher - student)", "_clipped_sum(student.exp() * (teacher - student)", T_DIVERGENCE + "test_printed_fixture"),
    Mutant("reverse KL: arguments swapped", DIVERGENCE, "_clipped_sum(student.exp() * (student - teacher), ", "_clipped_sum(teacher.exp() * (teacher - student), ", T_DIVERGENCE + "test_printed_fixture"),
    Mutant("truncated KL: stop-gradient dropped", DIVERGENCE, "(student - teacher).detach(), pointwise_clip)", "(student - teacher), pointwise_clip)", T_DIVERGENCE + "test_fixed_coefficient_drops_exactly_the_gradient_of_the_captured_mass"),
    Mutant("Jensen–Shannon: mixture weights swapped", DIVERGENCE, "teacher + math.log(alpha), student + math.log1p(-alpha)", "student + math.log(alpha), teacher + math.log1p(-alpha)", T_DIVERGENCE + "test_oracle_and_finite_differences"),
    Mutant("tail: clamp dropped", DIVERGENCE, ".clamp(max=_LOG_OF_ALMOST_ONE)", "", T_DIVERGENCE + "test_tail_of_a_full_support_is_finite_and_still"),
    Mutant("support: the teacher's instead of the student's", DISTILL, 'student_logits.detach() if self.support == "student_topk"', 'student_logits.detach() if self.support == "teacher_topk"', T_DIVERGENCE + "test_printed_fixture"),
    Mutant("distillation: gradient into the teacher", DIVERGENCE, "frozen = logits.detach()", "frozen = logits", T_DIVERGENCE + "test_no_gradient_reaches_the_teacher"),
    Mutant("sampled surrogate: stop-gradient dropped", DISTILL, "return log_ratio.detach() * logprobs", "return log_ratio * logprobs", T_POLICY + "test_sampled_fixture"),
    Mutant("importance: cap turned into a floor", DISTILL, ".clamp(max=self.importance_cap)", ".clamp(min=self.importance_cap)", T_POLICY + "test_importance_cap_is_one_sided_and_without_gradient"),
    Mutant("bco: label ignored", SEQUENCE, "margin = inputs.label.to(rewards.dtype) * (rewards", "margin = 1.0 * (rewards", T_POLICY + "test_bco_fixture"),
    Mutant("bco: prior with gradient", SEQUENCE, "reference_logprobs.detach(), inputs)", "reference_logprobs, inputs)", T_POLICY + "test_bco_prior_and_shift_carry_no_gradient"),
    # aggregation
    Mutant("aggregate: divisor counts weights", "sdgym/objective.py", "mask = (weight != 0).to(values.dtype)", "mask = weight.to(values.dtype)", "tests/properties/test_losses_laws.py::test_weights_scale_the_value_but_not_the_denominator"),
    Mutant("aggregate: masked values leak", "sdgym/objective.py", "values.masked_fill(weight == 0, 0.0) * weight", "values * weight", T_POLICY + "test_a_masked_infinity_poisons_neither_value_nor_gradient"),
    Mutant("denominators: masked tokens counted", "sdgym/denominators.py", "sum(np.count_nonzero(item.weight) for", "sum(len(item.weight) for", T_LEARNER + "test_gradient_equals_the_plain_objective"),
    # advantages
    Mutant("advantages: population deviation", "algos/advantages.py", "np.sqrt(squares / np.maximum(count - ddof, 1))", "np.sqrt(squares / np.maximum(count, 1))", T_ADVANTAGES + "test_fixture"),
    Mutant("advantages: ungradable rows in the mean", "algos/advantages.py", "mean = np.nansum(members, 0) / np.maximum(count, 1)", "mean = np.nansum(members, 0) / len(members)", T_ADVANTAGES + "test_a_row_that_could_not_be_graded_leaves_the_statistics"),
    Mutant("advantages: equal rewards leave rounding", "algos/advantages.py", "np.asarray(low >= high)", "np.asarray(low > high)", T_ADVANTAGES + "test_equal_rewards_give_exactly_zero"),
    Mutant("returns: discount on the present", "algos/advantages.py", "later = filled[:, h] + discount * later", "later = discount * filled[:, h] + later", T_ADVANTAGES + "test_turn_credit_is_the_discounted_return_to_go"),
    # algorithms
    Mutant("rows: ungradable ones trained", "algos/terms.py", "if row.usable and row.action_length", "if row.action_length", T_ALGORITHMS + "test_ungradable_rows_are_absent_and_truncated_ones_can_be_masked"),
    Mutant("tokens: every turn gets the first turn's advantage", "algos/terms.py", "per_turn[row.turn_of_token()]", "per_turn[0 * row.turn_of_token()]", T_EXPRESSIBLE + "test_token_advantages_are_those_of_the_turn"),
    Mutant("items: alignment unchecked", "algos/terms.py", "if not np.array_equal(reference.scored_ids(), view.scored_ids()) or", "if False and", T_ALGORITHMS + "test_a_reference_that_scores_other_tokens_is_refused"),
    Mutant("grpo: reference KL to itself", "algos/grpo.py", 'dataclasses.replace, weights="teacher"', 'dataclasses.replace, weights="policy"', T_ALGORITHMS + "test_reference_kl_is_to_the_frozen_policy_in_the_students_own_context"),
    Mutant("rft: failures imitated", "algos/rft.py", " if batch.rows[index].success else None", "", T_ALGORITHMS + "test_rft_imitates_distinct_untruncated_successes_up_to_the_cap"),
    Mutant("sdpo: hybrid weight swapped", "algos/sdpo.py", "self.config, 1 - self.config.policy_weight)", "self.config, self.config.policy_weight)", T_ALGORITHMS + "test_hybrid_mixes_by_coefficients_and_its_ends_are_its_parents"),
    Mutant("peers: a success demonstrates itself", "algos/conditioning/base.py", "and not (exclude_self and j == index)", "", T_ALGORITHMS + "test_demonstrations_exclude_self"),
    Mutant("sharpen: target with gradient", DISTILL, "target = (student_logits.detach() / self.temperature)", "target = (student_logits / self.temperature)", T_DIVERGENCE + "test_sharpening_pulls_towards_the_square_of_the_distribution"),
    # scoring, learner, teacher, rollout
    Mutant("views: insertion shifts by one", "sdgym/core.py", "offset_of[done:offset] = cursor + np.arange(offset - done)", "offset_of[done:offset] = cursor + 1 + np.arange(offset - done)", T_LEARNER + "test_insertions_are_attended_to_and_not_scored"),
    Mutant("packing: a token predicts itself", "sdgym/packing.py", "columns.append(path[places - 1])", "columns.append(path[np.minimum(places, len(path) - 1)])", T_LEARNER + "test_scores_equal_a_fresh_forward"),
    Mutant("packing: strangers attend to each other", "sdgym/packing.py", "seen[start:stop, ancestors] = True", "seen[start:stop, :start] = True", T_LEARNER + "test_scores_equal_a_fresh_forward"),
    Mutant("learner: on-policy ratio with gradient", "sdgym/learner.py", "own = logprobs.detach()", "own = logprobs", T_EXPRESSIBLE + "test_the_learner_takes_the_gradient_of_the_interpreter[cepo]"),
    Mutant("scoring: temperature forgotten", "sdgym/scoring.py", ".float(), weight / self.temperature)", ".float(), weight)", T_LEARNER + "test_scores_equal_a_fresh_forward"),
    Mutant("learner: coefficient forgotten", "sdgym/learner.py", "shares.append(term.coefficient * value)", "shares.append(value)", T_EXPRESSIBLE + "test_the_learner_takes_the_gradient_of_the_interpreter[skill_sd]"),
    Mutant("teacher: average the wrong way round", "sdgym/teacher.py", "total.mul_(1.0 - self.rate).add_(theirs[name].float(), alpha=self.rate)", "total.mul_(self.rate).add_(theirs[name].float(), alpha=1.0 - self.rate)", T_TEACHER + "test_ema_ten_steps_at_a_twentieth"),
    Mutant("teacher: frozen copy shares the student's weights", "sdgym/teacher.py", "twin = copy.deepcopy(model)", "twin = copy.copy(model)", T_TEACHER + "test_frozen_never_moves"),
    Mutant("rollout: observations trained", "sdgym/episode.py", "self.masks.append(np.full(len(ids), sampled))", "self.masks.append(np.full(len(ids), True))", T_ROLLOUT + "test_segments_hold_exactly_what_passed_through_the_sampler"),
    Mutant("buffer: groups torn", "sdgym/buffer.py", "yield [index for g in part for index in groups[int(g)]]", "yield [index for g in part for index in groups[int(g)][1:]]", "tests/unit/test_buffer.py::test_batches_hold_whole_groups_once"),
    # Skill-SD and VPD
    Mutant("skill: ratio without gradient's ell", "algos/losses/importance.py", "straight_through(rho * k3, rho * ell,", "straight_through(rho * k3, rho * k3,", T_SKILL + "test_gradient_is_that_of_the_plain_product_with_a_differentiable_ratio"),
    Mutant("skill: ratio upside down", "algos/losses/importance.py", "log_rho = (inputs.logprobs - inputs.old_logprobs).detach()", "log_rho = (inputs.old_logprobs - inputs.logprobs).detach()", T_SKILL + "test_printed_fixture"),
    Mutant("skill: own skill returned", "algos/skills/bank.py", "if skill.origin not in exclude]", "if True]", T_SKILL + "test_own_skills_are_not_returned_to_their_rollouts"),
    Mutant("skill: seen before unseen", "algos/skills/bank.py", "return math.inf", "return -math.inf", T_SKILL + "test_unseen_skills_come_first_in_order_of_arrival"),
    Mutant("skill: no exploration", "algos/skills/bank.py", "return skill.mean + self.exploration *", "return skill.mean - self.exploration *", T_SKILL + "test_upper_confidence_bound"),
    Mutant("skill: the best is evicted", "algos/skills/bank.py", "skills.remove(min(skills", "skills.remove(max(skills", T_SKILL + "test_a_full_shelf_loses_its_worst_then_its_oldest"),
    Mutant("skill: bank forgets its records", "algos/skills/bank.py", "self.shelves = {k: [Skill(**s) for s in v]", "self.shelves = {k: [Skill(**s | {'uses': 0}) for s in v]", T_SKILL + "test_bank_survives_a_checkpoint"),
    Mutant("skill: lambda forgotten", "algos/skill_sd.py", "batch, self.config, self.config.skill_weight)", "batch, self.config, 1.0)", T_SKILL + "test_multi_turn_terms_are_the_formula"),
    Mutant("skill: reference in the request", "algos/skills/summary.py", "{row.task.messages[-1]['content']}", "{row.task.messages[-1]['content']} {row.task.privileged}", T_SUMMARY + "test_the_request_holds_the_attempt_and_nothing_privileged"),
    Mutant("skill: redirects followed", "sdgym/endpoint.py", "urllib.request.build_opener(_NoRedirect)", "urllib.request.build_opener()", T_SUMMARY + "test_the_key_is_not_carried_to_another_host"),
    Mutant("vpd: labels swapped", "algos/vpd.py", "is success] for success in (True, False))", "is success] for success in (False, True))", T_VPD + "test_terms_are_the_formula_and_the_prior_carries_no_gradient"),
    Mutant("vpd: prior told too", "algos/vpd.py", "for v in student_views(batch, i)] for i", "for v in (told[i] or student_views(batch, i))] for i", T_VPD + "test_views_of_the_e_step"),
    Mutant("vpd: shift of one side", "algos/preference.py", "for items in (accepted, rejected)))", "for items in (accepted, accepted)))", T_VPD + "test_printed_fixture"),
    Mutant("vpd: sum for mean", "algos/losses/sequence.py", 'masked_sequence_sum if length == "sum" else masked_sequence_mean', "masked_sequence_sum", T_VPD + "test_mean_instead_of_sum"),
    Mutant("vpd: verdict given to the critic", "algos/conditioning/verdict.py", 'lines.append(f"Attempt: {action}")', 'lines.append(f"Attempt: {action} {row.feedback}")', T_VPD + "test_a_critique_request_gives_no_verdict_away"),
    Mutant("vpd: any sibling will do", "algos/conditioning/verdict.py", "found = peers(index, batch, group, exclude_self=True)", "found = [j for j in group if j != index]", T_VPD + "test_a_sibling_that_ended_the_other_way"),
)  # fmt: skip


def problems(root: pathlib.Path, mutants: Sequence[Mutant] = MUTANTS) -> list[str]:
    """Return what is stale: a line that is not there once, or a test that no longer exists."""
    found = []
    for m in mutants:
        count = (root / m.file).read_text().count(m.old)
        if count != 1:
            found.append(f"{m.name}: its text occurs {count} times in {m.file}")
        file, _, name = m.test.partition("::")
        if f"def {name.partition('[')[0]}(" not in (root / file).read_text():
            found.append(f"{m.name}: there is no test {m.test}")
    return found


def survivors(mutants: Sequence[Mutant] = MUTANTS) -> Iterator[tuple[Mutant | None, str]]:
    """Yield ``(mutant, complaint)`` for every mutant, complaint "" where its test turned red; None stands for no mutant."""
    preload()
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "checkout"
        copy_checkout(copy)
        tests = list(dict.fromkeys(m.test for m in mutants))
        code = run_tests(copy, tests, SECONDS * 3)
        yield None, "" if code == PASSED else f"the tests are not green without any mutant (exit code {code})"
        if code != PASSED:
            return
        for m in mutants:
            path = copy / m.file
            text = path.read_text()
            path.write_text(text.replace(m.old, m.new))
            code = run_tests(copy, [m.test], SECONDS)
            path.write_text(text)
            yield m, "" if code == FAILED else f"{m.test} {'stayed green' if code == PASSED else f'did not run (exit code {code})'}"


def copy_checkout(target: pathlib.Path) -> None:
    """Copy what tests need; links stay relative, so they lead into the copy."""
    target.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.safetensors", "results", ".hypothesis")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", target)


def preload() -> None:
    """Import the heavy libraries once, before forking; nothing of the project."""
    import hypothesis
    import pytest
    import torch
    import transformers

    assert not any(name.partition(".")[0] == "sdgym" for name in sys.modules), "the project itself must come from the copy"
    torch.set_num_threads(1)  # a forked child must not inherit a thread pool
    assert all((hypothesis, pytest, transformers.LlamaForCausalLM, transformers.PreTrainedTokenizerFast))


def run_tests(root: pathlib.Path, tests: Sequence[str], seconds: float) -> int:
    """Run node ids against the copy in a forked child; return pytest's exit code, or -1 after ``seconds``."""
    child = multiprocessing.get_context("fork").Process(target=_child, args=(root, list(tests)))
    child.start()
    child.join(seconds)
    if child.is_alive():
        child.kill()
        child.join()
        return -1
    return child.exitcode if child.exitcode is not None else -1


def _child(root: pathlib.Path, tests: list[str]) -> None:
    import pytest

    os.chdir(root)
    sys.dont_write_bytecode = True  # a mutant may have the size and second of its original
    sys.path.insert(0, str(root))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    code = pytest.main(["-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", *tests])
    import sdgym

    if not str(pathlib.Path(str(sdgym.__file__))).startswith(str(root)):
        code = pytest.ExitCode.INTERNAL_ERROR  # the tests saw another copy of the project
    os._exit(int(code))


def main(words: Sequence[str]) -> int:
    """Run the mutants whose name holds one of ``words`` (all without words) and print what happened."""
    chosen = [m for m in MUTANTS if not words or any(w in m.name for w in words)]
    stale = problems(ROOT, chosen)
    for line in stale:
        print(line)
    if stale or not chosen:
        return 1
    started, bad = time.monotonic(), 0
    for mutant, complaint in survivors(chosen):
        bad += bool(complaint)
        print(f"{'SURVIVED' if complaint else 'ok':8s} {mutant.name if mutant else '(no mutant)'} {complaint}", flush=True)
    print(f"{len(chosen)} mutants, {bad} problems, {time.monotonic() - started:.0f} s")
    return int(bad > 0)


if __name__ == "__main__":
    for _name, _value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}.items():
        os.environ.setdefault(_name, _value)
    sys.exit(main(sys.argv[1:]))
