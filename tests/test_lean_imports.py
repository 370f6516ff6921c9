"""Keras starts without what it does not need, and nobody else misses it."""

import subprocess
import sys

import pytest

_PROGRAM = """
import sys
import lean_imports
lean_imports.keep_keras_lean()
import tensorflow, keras
print(sorted({"matplotlib", "sklearn"} & set(sys.modules)))
import matplotlib.figure, sklearn.metrics
print(sklearn.metrics.f1_score([1, 0], [1, 0]))
"""


@pytest.mark.slow
def test_keras_is_imported_without_plots_and_scikit_learn_which_others_import_later():
    for name in ("matplotlib", "sklearn"):
        pytest.importorskip(name)
    outcome = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True)
    assert outcome.stdout.split("\n")[:2] == ["[]", "1.0"], outcome.stderr
