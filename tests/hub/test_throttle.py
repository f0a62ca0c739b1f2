"""How guessing is slowed down, counted in the database."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.errors import AuthenticationError, QuotaError
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.throttle import ADDRESS_FAILURES, FREE_FAILURES, LONGEST, Throttle
from neuronexus_kernel.hub.times import stamp

PASSWORD = "correct horse battery"
HOME, ELSEWHERE = "192.0.2.1", "198.51.100.9"


@pytest.fixture
def throttle(bench):
    return Throttle(bench.services.database, b"key")


def guess(throttle, name, source, times):
    """Return how many of some attempts in a row were let through."""
    passed = 0
    for _ in range(times):
        try:
            throttle.admit(name, source)
            passed += 1
        except QuotaError:
            break
    return passed


def succeed(bench, throttle, name, source):
    attempt = throttle.admit(name, source)
    bench.services.database.write(lambda tx: throttle.succeeded(tx, attempt))


def move_clock(bench, by):
    """Have every counter be as old as if the clock had moved on by so much."""
    table = schema.throttles

    def change(tx):
        for row in tx.all(sa.select(table)):
            moved = {
                name: stamp(datetime.fromisoformat(getattr(row, name)) - by)
                for name in ("since", "until")
            }
            tx.execute(table.update().where(table.c.key == row.key).values(**moved))

    bench.services.database.write(change)


def test_the_first_failures_are_free_then_each_waits_twice_as_long(bench, throttle):
    assert guess(throttle, "ada", ELSEWHERE, 20) == FREE_FAILURES
    waited = []
    for _ in range(12):
        with pytest.raises(QuotaError) as refused:
            throttle.admit("ada", ELSEWHERE)
        waited.append(re.search(r"again in (.*?)\.", str(refused.value))[1])
        move_clock(bench, LONGEST)
        throttle.admit("ada", ELSEWHERE)
    assert waited[:4] == ["a second", "2 seconds", "4 seconds", "8 seconds"]
    assert waited[-1] == waited[-2] == "5 minutes", "nobody is locked out for longer than that"


def test_a_restart_forgives_nothing(open_bench):
    first = open_bench()
    assert guess(Throttle(first.services.database, b"key"), "ada", HOME, 20) == FREE_FAILURES
    first.close()
    again = open_bench()
    with pytest.raises(QuotaError):
        Throttle(again.services.database, b"key").admit("ada", HOME)


def test_many_guesses_at_once_are_counted_like_many_in_a_row(bench):
    bench.person("ada")

    def one(number):
        try:
            bench.hub.visitor(source=ELSEWHERE).login("ada", f"guess number {number}")
        except QuotaError:
            return "refused"
        except AuthenticationError:
            return "checked"

    with ThreadPoolExecutor(16) as threads:
        outcomes = list(threads.map(one, range(32)))
    # A guess that comes a second later has waited as it should.
    assert outcomes.count("checked") <= FREE_FAILURES + 3


def test_a_stranger_does_not_keep_the_person_out_of_their_own_machine(bench, throttle):
    succeed(bench, throttle, "ada", HOME)
    assert guess(throttle, "ada", ELSEWHERE, 20) == FREE_FAILURES
    succeed(bench, throttle, "ada", HOME)
    with pytest.raises(QuotaError):
        throttle.admit("ada", ELSEWHERE)
    assert guess(throttle, "ada", HOME, 20) == FREE_FAILURES, "but that machine cannot guess either"


def test_one_address_fails_only_so_often_whatever_the_names(bench, throttle):
    succeed(bench, throttle, "ada", HOME)
    for number in range(ADDRESS_FAILURES):
        throttle.admit(f"name-{number}", HOME)
    with pytest.raises(QuotaError, match="minutes"):
        throttle.admit("one-more", HOME)
    throttle.admit("one-more", ELSEWHERE)
    throttle.admit("ada", HOME)
    move_clock(bench, timedelta(minutes=11))
    throttle.admit("one-more-again", HOME)


def test_those_who_succeed_are_not_counted(bench, throttle):
    for _ in range(ADDRESS_FAILURES + 20):
        succeed(bench, throttle, "ada", HOME)
    throttle.admit("grace", HOME)


def test_a_day_without_failures_is_a_new_beginning(bench, throttle):
    assert guess(throttle, "ada", ELSEWHERE, 20) == FREE_FAILURES
    move_clock(bench, timedelta(days=1, minutes=1))
    assert guess(throttle, "ada", ELSEWHERE, 20) == FREE_FAILURES


def test_a_clock_that_was_set_back_locks_nobody_out(bench, throttle):
    assert guess(throttle, "ada", ELSEWHERE, 20) == FREE_FAILURES
    move_clock(bench, -timedelta(days=400))
    throttle.admit("ada", ELSEWHERE)


@settings(deadline=None, max_examples=30)
@given(names=st.lists(st.text(), max_size=8), source=st.sampled_from(["", HOME, "::1"]))
def test_what_was_typed_as_a_name_is_kept_nowhere(open_throttle, names, source):
    throttle, database = open_throttle
    for name in names:
        try:
            throttle.admit(name, source)
        except QuotaError:
            continue
    keys = [row.key for row in database.read(lambda tx: tx.all(sa.select(schema.throttles)))]
    for key in keys:
        prefix, _, rest = key.partition(":")
        assert prefix in ("account", "pair", "address")
        assert len(bytes.fromhex(rest)) == 32


@pytest.fixture(scope="module")
def open_throttle(new_bench, new_home):
    bench = new_bench(new_home())
    yield Throttle(bench.services.database, b"key"), bench.services.database
    bench.close()


def test_an_unknown_name_costs_as_much_work_as_a_wrong_password(bench):
    """Measured in processor time, which others on the machine do not change."""
    bench.person("ada")

    def work(stem):
        began = time.process_time()
        for number in range(4):
            name = "ada" if stem == "ada" else f"{stem}-{number}"
            hub = bench.hub.visitor(source=f"{stem}-{number}")
            with pytest.raises(AuthenticationError):
                hub.login(name, "not the password")
        return time.process_time() - began

    work("warm")
    known, unknown = work("ada"), work("nobody")
    assert 0.4 < unknown / known < 2.5


def test_counters_are_not_kept_for_ever(bench, throttle):
    for number in range(10):
        throttle.admit(f"name-{number}", ELSEWHERE)
    move_clock(bench, timedelta(days=2))
    throttle.admit("somebody", HOME)
    rows = bench.services.database.read(lambda tx: tx.all(sa.select(schema.throttles)))
    assert len(rows) == 2
    assert datetime.now(UTC) - datetime.fromisoformat(rows[0].since) < timedelta(minutes=1)
