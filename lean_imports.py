"""Keras without the packages that it imports for its plots and its wrappers of scikit-learn, where they are
installed: of a start with TensorFlow they would take 1.5 seconds and 90 MB.
"""

import importlib.abc
import sys

_UNUSED_BY_KERAS = ("matplotlib", "sklearn")


class _AbsentToKeras(importlib.abc.MetaPathFinder):
    """Finds nothing; while Keras is being imported it says that those packages are not installed."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname in _UNUSED_BY_KERAS and _keras_is_being_imported():
            raise ModuleNotFoundError(f"{fullname} is not imported for Keras", name=fullname)


def keep_keras_lean() -> None:
    """Have Keras, when it is imported, go without them; for all others they stay what they are."""
    if not any(isinstance(finder, _AbsentToKeras) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AbsentToKeras())


def _keras_is_being_imported() -> bool:
    # The version is among the last names that Keras's package gets.
    return "keras" in sys.modules and not hasattr(sys.modules["keras"], "__version__")
