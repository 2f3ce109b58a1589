"""The table that `make faults` ends with."""

from types import SimpleNamespace

import fault_table


def report(name, outcome="passed", when="call", **properties):
    return SimpleNamespace(
        nodeid=f"tests/faults/{name}.py::test_it",
        outcome=outcome,
        when=when,
        user_properties=[(key.replace("_", " "), value) for key, value in properties.items()],
    )


def test_a_row_shows_the_worst_of_its_tests():
    reports = [
        report("test_row_07_silent_rank", seconds_to_recover=9.0, steps_done_again=1),
        report("test_row_07_silent_rank", seconds_to_recover=12.34, steps_done_again=0),
        report("test_row_02_lost_node"),
        report("test_row_02_lost_node", outcome="failed", when="setup"),
        report("test_row_12_disk_full", outcome="skipped", when="setup"),
        report("test_row_25_killed_three_times", when="setup"),
        report("test_row_25_killed_three_times"),
        report("test_row_25_killed_three_times", when="teardown", seconds_to_recover=1.5, steps_done_again=2),
        report("test_fault_table"),
    ]
    assert fault_table.lines_of(reports)[2:] == [
        "| 2 | lost node | 2 | fail |  |  |",
        "| 7 | silent rank | 2 | pass | 12.3 | 1 |",
        "| 12 | disk full | 1 | skip |  |  |",
        "| 25 | killed three times | 1 | pass | 1.5 | 2 |",
    ]
