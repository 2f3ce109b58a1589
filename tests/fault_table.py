"""Prints, after the fault tests, a table: each row of the matrix, whether it passed, what it cost to recover.

A pytest plugin of `make faults`; tests/faults/conftest.py measures what it prints.
"""

import re

ROW = re.compile(r"test_row_(\d+)_(\w+)\.py")

SECONDS, STEPS = "seconds to recover", "steps done again"


def lines_of(reports) -> list[str]:
    """A Markdown table of the reports of fault tests, a line a row; of several tests in one row, the worst."""
    rows: dict[tuple[int, str], list] = {}
    for report in reports:
        found = ROW.search(report.nodeid)
        if found:
            rows.setdefault((int(found[1]), found[2].replace("_", " ")), []).append(report)
    table = [f"| row | fault | tests | result | {SECONDS} | {STEPS} |", "| --- | --- | --- | --- | --- | --- |"]
    for (number, what), row in sorted(rows.items()):
        calls = [report for report in row if report.when == "call" or report.outcome != "passed"]
        outcomes = {report.outcome for report in calls}
        result = "fail" if "failed" in outcomes else "skip" if outcomes == {"skipped"} else "pass"
        seconds, steps = _worst(row, SECONDS), _worst(row, STEPS)  # known when a test has been torn down
        table.append(
            f"| {number} | {what} | {len(calls)} | {result} | {'' if seconds is None else f'{seconds:.1f}'} | "
            f"{'' if steps is None else steps} |"
        )
    return table


def _worst(reports, name: str):
    values = [value for report in reports for key, value in report.user_properties if key == name]
    return max(values, default=None)


def pytest_terminal_summary(terminalreporter) -> None:
    kinds = ("passed", "failed", "skipped", "error", "")  # the last is of what was set up and torn down well
    reports = [report for kind in kinds for report in terminalreporter.stats.get(kind, [])]
    terminalreporter.section("fault matrix")
    for line in lines_of(reports):
        terminalreporter.write_line(line)
