"""Three runs with faults; `python -m tests.training.faults` has as many as one likes."""

import pytest

from tests.training.fault_plans import Disturbance, Plan, make_plan
from tests.training.faults import KINDS, Harness

EPOCHS = 4
UNUSUAL = "-a [b] {c} *? #%&'\" é e\u0301 🎬"  # the undisturbed run has a plain name


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    return Harness(tmp_path_factory.mktemp("faults"), epochs=EPOCHS)


@pytest.mark.slow
def test_a_run_killed_while_it_saves_ends_as_an_undisturbed_one_whatever_its_folder_is_called(
    harness,
):
    number = harness.events()["checkpoints"] // 2
    kill = Disturbance(
        "event",
        action="kill",
        place="checkpoints",
        number=number,
        leaves=("half_line", "partial_file", "unfinished_checkpoint"),
    )
    outcome = harness.run(Plan(UNUSUAL, "event", (kill,)))
    assert outcome.problems == []
    assert [start.status for start in outcome.starts] == [-9, 0]
    assert set(outcome.differences.values()) == {0.0}


@pytest.mark.slow
def test_a_checkpoint_cut_short_is_skipped_for_the_one_before(harness):
    kill = Disturbance("kill", checkpoints=2, leaves=("cut",), damages="rest/manifest.ocdbt")
    outcome = harness.run(Plan("damaged", "damage", (kill,), keep=2))
    assert outcome.problems == []
    assert outcome.starts[0].left_behind[0].startswith("cut: checkpoints/")
    assert outcome.starts[1].continued_at in (3, 6, 9)


@pytest.mark.slow
def test_a_run_stopped_by_sigterm_ends_as_an_undisturbed_one(harness):
    outcome = harness.run(Plan("stopped", "sigterm", (Disturbance("sigterm", step=4),)))
    assert outcome.problems == []
    assert [start.status for start in outcome.starts] == [143, 0]
    assert outcome.starts[1].continued_at >= 4
    assert set(outcome.differences.values()) == {0.0}


def test_plans_follow_from_the_seed_and_have_all_kinds_of_faults():
    events = {"checkpoints": 468, "best": 87, "metrics.json": 2}
    plans = [make_plan(0, index, 24, events) for index in range(100)]
    assert plans == [make_plan(0, index, 24, events) for index in range(100)]
    assert plans != [make_plan(1, index, 24, events) for index in range(100)]
    assert {plan.kind for plan in plans} == set(KINDS)
    disturbances = [each for plan in plans for each in plan.disturbances]
    stops = {"kill", "event", "sigterm", "full_disk", "quota"}
    assert {each.stop for each in disturbances} == stops
    assert {each.devices for each in disturbances} == {None, 1, 2, 4, 8}
