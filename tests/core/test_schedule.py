import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentei.core.errors import SenteiError
from sentei.core.schedule import ConstantSparsity, PolynomialDecay, Schedule

pytestmark = pytest.mark.core

steps = st.integers(0, 500)
shares = st.floats(0.0, 0.99)


@given(shares, shares, steps, st.integers(0, 500), st.integers(1, 5), st.integers(1, 700))
def test_polynomial_decay_is_equation_1_of_zhu_and_gupta(s_i, s_f, begin, length, power, every):
    schedule = PolynomialDecay(s_i, s_f, begin, begin + length, power=power, frequency=every)
    for t in {begin, begin + length // 3, begin + length}:
        p = 1.0 if t == begin + length else (t - begin) / length
        assert schedule.sparsity(t) == pytest.approx(s_f + (s_i - s_f) * (1 - p) ** power)


@given(shares, shares, steps, st.integers(0, 300), st.integers(1, 400))
def test_the_staircase_updates_on_time_and_ends_exactly_at_the_final_sparsity(
    s_i, s_f, begin, length, every
):
    end = begin + length
    schedule = PolynomialDecay(s_i, s_f, begin, end, frequency=every)
    in_force = 0.0  # replayed step by step, as a reader of the docstring would
    for step in range(end + 3):
        if begin <= step <= end and ((step - begin) % every == 0 or step == end):
            in_force = schedule.sparsity(step)
        assert schedule(step) == in_force
    assert schedule(end) == schedule(end + 10_000) == schedule.final == s_f


@given(steps, st.one_of(st.none(), st.integers(0, 300)), st.integers(1, 150), st.integers(0, 1000))
def test_updates_counted_in_a_compiled_step_are_those_of_the_staircase(begin, length, every, step):
    end = None if length is None else begin + length
    schedule = ConstantSparsity(0.5, begin, end, every)
    horizon = step if end is None else min(step, end)
    expected = [t for t in range(begin, horizon + 1) if (t - begin) % every == 0 or t == end]
    done = int(schedule.updates_done(keras.ops.convert_to_tensor(step, "int32")))
    assert done == len(expected)
    if done:
        following = int(schedule.update_after(keras.ops.convert_to_tensor(done, "int32")))
        regular = expected[-1] + every
        never = 2**31 - 1
        if end is None:
            assert following == regular
        else:
            assert following == (never if expected[-1] == end else min(regular, end))


class Cosine(Schedule):
    """A schedule as a user would write one."""

    def sparsity(self, step):
        p = (step - self.begin_step) / (self.end_step - self.begin_step)
        return 0.4 * (1 - np.cos(np.pi * p))


def test_a_schedule_of_ones_own_needs_one_plain_function():
    schedule = Cosine(10, 30, frequency=7)
    np.testing.assert_array_equal(schedule.updates(), [10, 17, 24, 30])
    assert schedule(9) == 0.0
    assert schedule(18) == pytest.approx(0.4 * (1 - np.cos(np.pi * 7 / 20)))
    assert schedule.final == pytest.approx(0.8)


@pytest.mark.parametrize(
    "schedule",
    [ConstantSparsity(0.5, 3), PolynomialDecay(0.1, 0.9, 5, 50, power=2, frequency=7)],
    ids=repr,
)
def test_schedules_print_plot_and_survive_saving(schedule):
    assert eval(repr(schedule)) == schedule
    saved = keras.saving.serialize_keras_object(schedule)
    assert keras.saving.deserialize_keras_object(saved) == schedule
    drawn = schedule.plot().lines[0]
    np.testing.assert_array_equal(drawn.get_xdata()[:-1], schedule.updates())
    np.testing.assert_array_equal(drawn.get_ydata()[:-1], schedule.table())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConstantSparsity(1.0), r"less than 1.*Received: target=1\.0"),
        (lambda: ConstantSparsity(80), r"Did you mean 0\.8\?"),
        (lambda: ConstantSparsity(-0.1), r"target=-0\.1"),
        (lambda: ConstantSparsity(float("nan")), "target=nan"),
        (lambda: ConstantSparsity(True), "target=True"),
        (lambda: ConstantSparsity("0.5"), "target='0.5'"),
        (lambda: PolynomialDecay(0, 0.5, 10, 5), "Make `end_step` at least 10"),
        (lambda: PolynomialDecay(0, 0.5, 10, None), "needs an `end_step`"),
        (lambda: PolynomialDecay(0, 0.5, 0, 10, power=0), "`power` must be a number above 0"),
        (lambda: PolynomialDecay(0, 0.5, 0, 10, frequency=0), "`frequency`.*at least 1"),
        (lambda: PolynomialDecay(0, 0.5, 0.5, 10), "`begin_step` must be a whole number"),
        (lambda: ConstantSparsity(0.5, -1), "begin_step=-1"),
        (lambda: Schedule(0, 10).table(), "must override `sparsity"),
    ],
)
def test_a_wrong_argument_is_named(make, message):
    with pytest.raises((SenteiError, NotImplementedError), match=message):
        make()


def test_a_curve_that_leaves_the_range_is_named_with_its_step():
    class Wild(Schedule):
        def sparsity(self, step):
            return step / 10

    with pytest.raises(SenteiError, match=r"gives 1\.0 at step 10"):
        Wild(0, 10, frequency=5).table()


def test_a_number_of_steps_is_not_taken_for_a_power():
    # As it was in two benchmarks: all was pruned at once, and hardly trained after that.
    with pytest.raises(TypeError, match="positional"):
        PolynomialDecay(0.0, 0.7, 0, 150, 6)  # type: ignore[misc]
