"""The axes of the one compositional loss, each a few pure functions (algorithms-wider §0).

    L = (1/N) Σ_i Σ_t m_it·[ b_it·ℓ_RL(i, t; A_i·g_it) + d_it·ω_i·u_it·ℓ_D(i, t) ]

``views.py`` several teacher contexts become one opinion (G) · ``credit.py`` that opinion becomes a per-token advantage or scales
one (S) · ``token_weights.py`` u · ``sample_weights.py`` z and ω · ``rewards.py`` length in the reward (B) ·
``rewriting.py`` rollouts changed before they are scored ·
``settings.py`` all axes as settings, and what excludes what · ``table.py`` the table of presets. Contexts (C) are in
``algos/conditioning``, divergences and supports (D) in ``algos/losses``, base objectives (B) in ``algos/grpo.py``, weights of the
teacher (W) in ``sdgym/teacher.py``. :class:`sdgym.algos.compose.Composed` puts them together.
"""
