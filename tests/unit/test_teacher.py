from __future__ import annotations

import pytest
import torch
from torch import nn

from sdgym.errors import CheckpointError, ConfigError, UnknownNameError
from sdgym.teacher import Teacher


def linear(value: float, dtype: torch.dtype = torch.float32) -> nn.Module:
    module = nn.Linear(2, 2).to(dtype)
    return set_to(module, value)


def set_to(module: nn.Module, value: float) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)
    return module


def weight_of(teacher: Teacher) -> float:
    (model, factor), *rest = teacher.mixture()
    assert factor == 1.0 and not rest
    values = torch.cat([p.detach().float().flatten() for p in model.parameters()])
    assert float(values.max() - values.min()) == 0.0
    return float(values[0])


def test_live_is_the_student_itself() -> None:
    student = linear(0.0)
    teacher = Teacher(student)
    assert teacher.mixture() == [(student, 1.0)]
    set_to(student, 3.0)
    assert weight_of(teacher) == 3.0


def test_frozen_never_moves() -> None:
    student = linear(1.0)
    teacher = Teacher(student, "frozen")
    set_to(student, 2.0)
    teacher.after_update(), teacher.after_step(), teacher.on_phase_enter()
    assert weight_of(teacher) == 1.0
    assert not any(p.requires_grad for p in teacher.mixture()[0][0].parameters())


def test_phase_start_moves_with_phases_only() -> None:
    student = linear(1.0)
    teacher = Teacher(student, "phase_start")
    set_to(student, 2.0)
    teacher.after_update(), teacher.after_step()
    assert weight_of(teacher) == 1.0
    teacher.on_phase_enter()
    assert weight_of(teacher) == 2.0


def test_ema_ten_steps_at_a_twentieth() -> None:
    """Algorithms-core §4g: from 0 towards a constant 1, 1 − 0.95^10 = .401263."""
    student = linear(0.0)
    teacher = Teacher(student, "ema", rate=0.05)
    set_to(student, 1.0)
    for _ in range(10):
        teacher.after_update()  # another unit: counts nothing
        teacher.after_step()
    assert weight_of(teacher) == pytest.approx(0.401263, abs=5e-7)


def test_ema_period_and_unit() -> None:
    student = linear(0.0)
    teacher = Teacher(student, "ema", rate=0.5, every=3, unit="update")
    set_to(student, 1.0)
    seen = []
    for _ in range(6):
        teacher.after_step()
        teacher.after_update()
        seen.append(weight_of(teacher))
    assert seen == [0, 0, 0.5, 0.5, 0.5, 0.75]


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 1.0), (1.0, 2.0)])
def test_ema_ends_are_frozen_and_live_after_the_step(rate: float, expected: float) -> None:
    student = linear(1.0)
    teacher = Teacher(student, "ema", rate=rate)
    set_to(student, 2.0)
    teacher.after_step()
    assert weight_of(teacher) == expected


def test_ema_of_a_bfloat16_model_accumulates_in_float32() -> None:
    """A step of 1e-4 towards 1 is below bfloat16's resolution near 0.5; kept in float32 it adds up."""
    student = linear(0.5, torch.bfloat16)
    teacher = Teacher(student, "ema", rate=1e-3)
    set_to(student, 1.0)
    for _ in range(200):
        teacher.after_step()
    expected = 1.0 - 0.5 * (1 - 1e-3) ** 200  # .5907
    assert weight_of(teacher) == pytest.approx(expected, abs=2**-9)  # one bfloat16 rounding of the result
    naive = torch.tensor(0.5, dtype=torch.bfloat16)
    for _ in range(200):
        naive = (1 - 1e-3) * naive + torch.tensor(1e-3, dtype=torch.bfloat16)
    assert abs(float(naive) - expected) > 2**-8


def test_periodic_copies_every_other_step() -> None:
    student = linear(0.0)
    teacher = Teacher(student, "periodic", every=2)
    seen = []
    for value in (1.0, 2.0, 3.0, 4.0):
        set_to(student, value)
        teacher.after_step()
        seen.append(weight_of(teacher))
    assert seen == [0.0, 2.0, 2.0, 4.0]


@pytest.mark.parametrize(("mix", "expected"), [(0.0, [(1.0, 1.0)]), (1.0, [(2.0, 1.0)]), (0.25, [(1.0, 0.75), (2.0, 0.25)])])
def test_trust_region_mixes_the_frozen_copy_and_the_student(mix: float, expected: list[tuple[float, float]]) -> None:
    student = linear(1.0)
    teacher = Teacher(student, "trust_region", rate=mix)
    set_to(student, 2.0)
    teacher.after_step()
    assert [(float(next(iter(m.parameters())).flatten()[0]), w) for m, w in teacher.mixture()] == expected


@pytest.mark.parametrize("kind", ["live", "frozen", "phase_start", "ema", "periodic", "trust_region"])
def test_state_survives(kind: str) -> None:
    student = linear(0.0)
    teacher = Teacher(student, kind, rate=0.3, every=2)
    set_to(student, 1.0)
    for _ in range(3):
        teacher.after_step()
    other_student = set_to(linear(9.0), 1.0)
    other = Teacher(other_student, kind, rate=0.3, every=2)
    other.load_state_dict({name: tensor.clone() for name, tensor in teacher.state_dict().items()})
    for _ in range(3):
        teacher.after_step(), other.after_step()
    pairs = zip(teacher.mixture(), other.mixture(), strict=True)
    assert all(torch.equal(a.weight, b.weight) and v == w for (a, v), (b, w) in pairs)


def test_anothers_state_is_refused() -> None:
    with pytest.raises(CheckpointError, match="frozen"):
        Teacher(linear(0.0), "frozen").load_state_dict(Teacher(linear(0.0), "live").state_dict())


def test_settings_that_mean_nothing() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'frozen'"):
        Teacher(linear(0.0), "frosen")
    with pytest.raises(UnknownNameError, match="unit"):
        Teacher(linear(0.0), "ema", unit="epoch")
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        Teacher(linear(0.0), "ema", rate=1.5)
    with pytest.raises(ConfigError, match="at least 1"):
        Teacher(linear(0.0), "periodic", every=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_average_that_is_reset_becomes_the_student_and_goes_on_from_there(dtype: torch.dtype) -> None:
    """Every second step an average with a = ½, every third the student itself: TT-OPD's rule with small numbers."""
    student = linear(0.0, dtype)
    teacher = Teacher(student, "ema", rate=0.5, every=2, reset_every=3)
    seen = []
    for value in (1.0, 1.0, 3.0, 5.0, 5.0):
        set_to(student, value)
        teacher.after_step()
        seen.append(weight_of(teacher))
    assert seen == [0.0, 0.5, 3.0, 4.0, 4.0]


def test_an_external_teacher_is_a_copy_of_its_model_and_never_moves() -> None:
    student, other = linear(1.0), linear(7.0)
    teacher = Teacher(student, "external", model=other)
    set_to(student, 2.0), set_to(other, 8.0)
    teacher.after_update(), teacher.after_step(), teacher.on_phase_enter()
    assert weight_of(teacher) == 7.0
    for kind, model in (("external", None), ("frozen", other)):
        with pytest.raises(ConfigError, match="'external' need a model"):
            Teacher(student, kind, model=model)


def test_an_external_teacher_is_loaded_by_name_and_must_share_the_tokenizer() -> None:
    from sdgym.algos.base import TeacherWeightsSpec
    from sdgym.policy import Policy
    from sdgym.session import make_teacher

    policy = Policy.load("tiny")
    spec = TeacherWeightsSpec("external", model="tiny")
    ((model, weight),) = make_teacher(policy, spec, "cpu").mixture()
    assert weight == 1.0 and model is not policy.model
    with pytest.raises(ConfigError, match=r"set algo\.teacher_model"):
        make_teacher(policy, TeacherWeightsSpec("external"), "cpu")
    with pytest.raises(ConfigError, match="'tiny-b' has another tokenizer than 'tiny'"):
        make_teacher(policy, TeacherWeightsSpec("external", model="tiny-b"), "cpu")
