"""The waits of newcomers for all lanes and classes at once are those of each prediction."""

from random import Random

import pytest

from rustygate.core.fair_order import CLASSES
from rustygate.core.predicted_wait import Newcomer, predict, predict_by_class
from tests.core.test_upcoming import random_run


@pytest.mark.parametrize("seed", range(40))
def test_waits_by_class_are_those_of_single_predictions(seed: int) -> None:
    run = random_run(Random(seed))
    lanes = [(lane, 7 + place) for place, lane in enumerate(run.lanes.values())]
    expected = [
        [
            predict(run.scheduler, Newcomer(lane, None, index, None, 1.0, tokens), run.now).wait
            for index in CLASSES
        ]
        for lane, tokens in lanes
    ]
    assert predict_by_class(run.scheduler, lanes, run.now) == expected
    assert any(any(waits) for waits in expected) or not run.scheduler.waiting
