"""No bit that changes anything changes it unseen. ``make bench-integrity`` tries 10,000."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support.logs.flips import homes, trial

pytestmark = pytest.mark.usefixtures("one_thread")
PARTS, EACH = 10, 50


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return homes(tmp_path_factory.mktemp("pristine"))


@pytest.mark.parametrize("part", range(PARTS))
def test_no_bit_is_flipped_unseen(part: int, pristine: tuple[Path, Path], tmp_path: Path) -> None:
    outcomes = [trial(*pristine, seed, tmp_path) for seed in range(part * EACH, (part + 1) * EACH)]
    bad = [each for each in outcomes if each.what in ("silent", "raised")]
    assert bad == []
    assert Counter(each.what for each in outcomes)["seen"] > EACH // 2
