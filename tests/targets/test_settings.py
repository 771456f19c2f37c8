"""Settings of targets: defaults, near matches, folder names."""

from __future__ import annotations

import pytest

from passes.errors import UsageError
from targets.settings import Setting, check_precision, label_from_settings, settings_from_table

TABLE = {"optimization": Setting("all", ("all", "basic")), "device": Setting("CPU")}


def test_fills_in_defaults():
    assert settings_from_table("t", {"device": "GPU.1"}, TABLE) == {"optimization": "all", "device": "GPU.1"}


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"optimisation": "all"}, "no setting 'optimisation'", "Did you mean optimization?"),
        ({"zzz": "1"}, "no setting 'zzz'", "Settings: device, optimization."),
        ({"optimization": "basi"}, "optimization of 't' is not 'basi'", "Did you mean basic?"),
        ({"optimization": "9"}, "is not '9'", "It is: all, basic."),
    ],
)
def test_refuses_with_what_is_known(given: dict[str, str], message: str, hint: str):
    with pytest.raises(UsageError) as refused:
        settings_from_table("t", given, TABLE)
    assert message in refused.value.message
    assert refused.value.hint == hint


def test_label_names_what_is_not_default():
    assert label_from_settings("fp32", {"optimization": "all", "device": "CPU"}, TABLE) == "fp32"
    assert label_from_settings("int8", {"optimization": "basic", "device": "GPU.1"}, TABLE) == (
        "int8-optimization-basic-device-gpu.1"
    )


def test_refuses_an_unknown_precision():
    check_precision("t", "bf16")
    with pytest.raises(UsageError, match="no precision 'fp7'"):
        check_precision("t", "fp7")
