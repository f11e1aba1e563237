# SPDX-License-Identifier: MIT
"""What reads the benchmark's figures, without a machine."""

from testbed import kernel_bench

OUTPUT = """\
map-udmabuf 300 1 3000000 6000000
map-udmabuf 300 2 9000000 9000000
map-udmabuf 300 3 6000000 3000000
export 300 1 6000000 3000000
mmap 300 1 12000000 6000000
"""


def test_medians_are_per_page():
    row = next(row for row in kernel_bench.parse("empty", OUTPUT) if row.way == "map-udmabuf")
    assert (row.pages, row.map, row.release, row.rounds) == (300, 20, 20, 3)


def test_table_has_ratios():
    rows = kernel_bench.parse("empty", OUTPUT)
    lines = kernel_bench.table(rows).splitlines()
    assert "| empty | MAP_REFS_TO_BUF, udmabuf | EXP_FROM_REFS | – | 1.33 | – | – |" in lines
    assert "| empty | MAP_REFS_TO_BUF, udmabuf | MAP_GRANT_REF | – | 0.67 | – | – |" in lines
    assert "| empty | MAP_REFS_TO_BUF, udmabuf | – | 20.0 + 20.0 | – | – |" in kernel_bench.times(rows).splitlines()


def test_the_gaps_of_another_cpu_are_medians_and_the_worst():
    lines = kernel_bench.gaps("export 300 1 2000 7000\nexport 300 2 4000 9000\nidle 300 1 0 1500\n").splitlines()
    assert lines[2:] == [
        "| nobody does anything | 300 | 0, 0 | 2, 2 |",
        "| EXP_FROM_REFS | 300 | 3, 4 | 8, 9 |",
    ]
