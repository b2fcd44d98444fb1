"""Outages of stores are logged each time, limited in rate."""

import logging

import pytest

from langchain_amulet.personalization.outage_log import OutageLog


@pytest.fixture
def clock() -> list[float]:
    return [1000.0]


@pytest.fixture
def log(clock) -> OutageLog:
    return OutageLog(logging.getLogger("outages"), lambda: clock[0])


def test_first_outage_of_each_kind_is_logged(log, caplog):
    log.report("ConnectionError")
    log.report("StoreTimeoutError")
    assert [record.args[0] for record in caplog.records] == ["ConnectionError", "StoreTimeoutError"]


def test_at_most_one_message_per_kind_and_minute_which_counts_the_others(log, caplog, clock):
    for _ in range(100):
        log.report("ConnectionError")
        clock[0] += 1
    first, second = (record.message for record in caplog.records)
    assert first.endswith("user's preferences.")
    assert second.endswith("So did 59 more answers since the last message.")


def test_outages_are_logged_again_after_they_were_over(log, caplog, clock):
    log.report("ConnectionError")
    clock[0] += 3600
    log.report("ConnectionError")
    first, second = (record.message for record in caplog.records)
    assert first == second
