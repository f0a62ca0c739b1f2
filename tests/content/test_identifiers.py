import time
import uuid

import pytest

from neuronexus_kernel.content import Visibility, check_id, new_id
from neuronexus_kernel.errors import InvalidInputError


def test_ids_are_uuids_of_version_7_and_all_differ():
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {uuid.UUID(one).version for one in ids} == {7}
    assert {uuid.UUID(one).variant for one in ids} == {uuid.RFC_4122}
    assert all(check_id(one) == one for one in ids)


def test_later_ids_sort_behind_earlier_ones():
    earlier = new_id()
    time.sleep(0.002)
    assert earlier < new_id()


def test_an_id_holds_its_time_in_milliseconds():
    before = time.time_ns() // 1_000_000
    told = uuid.UUID(new_id()).int >> 80
    assert before <= told <= time.time_ns() // 1_000_000


ID = "01a21548-9de0-7a94-be44-a8129c11b133"


@pytest.mark.parametrize(
    "value",
    [None, 7, "", "id", str(uuid.UUID(int=7, version=4)), ID.upper(), ID + "\n", ID[:-1]],
)
def test_what_is_no_id_is_refused_and_the_field_named(value):
    with pytest.raises(InvalidInputError, match="project_id"):
        check_id(value, "project_id")


def test_visibilities_are_their_names():
    assert [str(one) for one in Visibility] == ["public", "project", "sealed"]
    assert Visibility("sealed") is Visibility.SEALED
