"""The report of `entrenar quantize` on a screen and in a pipe."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from entrenar_cli.quantize_view import report_sections
from entrenar_cli.sections import print_sections
from entrenar_core.events import Quantized
from entrenar_core.quant.error_sums import ErrorSums
from entrenar_core.quant.report import TensorReport
from entrenar_core.stages.quantize import QuantizeResult
from tests.cli.terminal import terminal

NAME = "blk.31.attn_output.weight"
SUMS = ErrorSums(count=8, squared=1.23456e-8, power=4.0, largest=1.23456e-5)
WEIGHED = ErrorSums(count=8, squared=1.23456e-8, power=4.0, largest=1.23456e-5, weighted=1.23456e-8, weight=8.0)


def report(errors: ErrorSums) -> QuantizeResult:
    tensors = [
        TensorReport(NAME, (14336, 14336), "BF16", "IQ4_XS", 1 << 28, 1 << 26, errors),
        TensorReport("output_norm.weight", (14336,), "F32", "F32", 57344, 57344, None),
    ]
    return QuantizeResult(Quantized(Path("o.gguf"), 1 << 28, 1 << 26, 4.5, {"IQ4_XS": 1}, 1.0, 1 << 26), tensors)


@pytest.mark.parametrize("errors", [SUMS, WEIGHED], ids=["plain", "weighed"])
def test_a_tensor_is_one_line_of_eighty_columns(errors: ErrorSums, monkeypatch: pytest.MonkeyPatch) -> None:
    screen, pipe = terminal(monkeypatch, 80), io.StringIO()
    for out in (screen, pipe):
        print_sections(report_sections(report(errors)), out)
    for lines in (screen.lines(), pipe.getvalue().splitlines()):
        (line,) = [line for line in lines if NAME in line]
        words = line.split()
        assert words[:4] == [NAME, "IQ4_XS", "3.93e-05", "1.23e-05"]
        assert words[4:6] == ["85.1", "dB"]
        assert words[6:] == ([] if errors is SUMS else ["3.93e-05"])
        assert all(len(line) <= 80 for line in lines)
