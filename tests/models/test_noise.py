import numpy as np
import pytest
import torch

from neuronexus_kernel.models import noise

GAMMA = 0x9E3779B97F4A7C15


def test_the_hash_gives_the_published_numbers_of_splitmix64():
    drawn = [noise.mix(n * GAMMA) for n in (1, 2, 3)]
    assert drawn == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    drawn = [noise.mix(1234567 + n * GAMMA) for n in (1, 2)]
    assert drawn == [6457827717110365317, 3203168211198807973]


@pytest.mark.parametrize("key", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_numpy_torch_and_python_give_the_same_bits(key):
    start = noise.mix(key + 3 * GAMMA)
    expected = [noise.mix(start + n * GAMMA) >> 11 for n in range(1, 1001)]
    assert noise.bits_array(start, 1000).tolist() == expected
    assert noise.bits_tensor(torch.tensor(key), 2, 1000).tolist() == expected


def test_a_number_depends_on_its_place_and_not_on_how_many_are_drawn():
    assert np.array_equal(noise.bits_array(7, 100)[:10], noise.bits_array(7, 10))
    key = torch.tensor(7)
    assert torch.equal(noise.bits_tensor(key, 0, 100)[:10], noise.bits_tensor(key, 0, 10))


def test_numbers_are_uniform():
    values = noise.uniform_array(noise.key_of(1, "x"), 100_000)
    assert values.min() >= -1
    assert values.max() < 1
    counts, _ = np.histogram(values, bins=20, range=(-1, 1))
    assert ((counts - 5000) ** 2 / 5000).sum() < 50


def test_keys_tell_apart_order_kind_and_number_of_parts():
    parts = [(), (0,), (0, 0), (1, 2), (2, 1), ("1", 2), (1, "2"), ("12",), (12,), (-1,), (2**70,)]
    keys = [noise.key_of(*each) for each in parts]
    assert len(set(keys)) == len(keys)
    assert all(-(2**63) <= key < 2**63 for key in keys)
