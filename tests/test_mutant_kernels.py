"""Whether the faults of `ci/mutants` can be seeded into the sources; whether they are noticed takes 40 minutes."""

import runpy
from pathlib import Path

import pytest

from kmeans_xp import cuda as _cuda


@pytest.fixture
def mutants():
    return runpy.run_path(str(Path(__file__).parent.parent / "ci" / "mutants"))["mutants"]


def test_every_fault_has_one_place_in_its_source(mutants):
    found = list(mutants())
    for mutant in found:
        assert mutant.text() != mutant.source.read_text(encoding="utf-8"), mutant.name
    assert len({mutant.name for mutant in found}) == len(found)


def test_every_kernel_for_dense_rows_has_faults(mutants):
    assert {mutant.source.name for mutant in mutants()} >= {f"{name}.cu" for name in _cuda.DENSE}


@pytest.mark.parametrize(("source", "count"), [("x = 1;", 0), ("x = 0;  y = x = 0;", 2)])
def test_a_fault_without_a_place_of_its_own_is_named(mutants, tmp_path, source, count):
    (tmp_path / "one.cu").write_text(source)
    (tmp_path / "one.cu.mutants").write_text("# Faults\n\nx starts at one\n- x\n- = 0;\n+ x = 1;\n")
    [mutant] = mutants(tmp_path)
    with pytest.raises(ValueError, match=rf"one.cu.mutants: x starts at one: {count} places are like 'x\\n= 0;'"):
        mutant.text()
