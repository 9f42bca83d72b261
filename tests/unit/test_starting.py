"""Starting faster: the garbage collector."""

from __future__ import annotations

import gc

import pytest
from seesr_pack.commands.starting import uncollected


def test_the_collector_rests_inside_and_leaves_out_what_was_made() -> None:
    try:
        with pytest.raises(RuntimeError), uncollected():
            assert not gc.isenabled()
            made = [[]]
            raise RuntimeError
        assert gc.isenabled() and gc.get_freeze_count()
        assert all(each is not made for each in gc.get_objects())
    finally:
        gc.unfreeze()
