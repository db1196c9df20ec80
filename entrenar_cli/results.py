"""What the commands that write one file say at their end."""

from __future__ import annotations

from entrenar_cli.merge_summary import merged_facts
from entrenar_cli.quantize_summary import quantized_facts
from entrenar_cli.summary import Fact, prediction_facts
from entrenar_core.events import Merged, Predicted, Quantized

Result = Predicted | Quantized | Merged


def result_facts(event: Result) -> list[Fact]:
    """Names and what there is to say, one pair a line."""
    match event:
        case Predicted():
            return prediction_facts(event)
        case Quantized():
            return quantized_facts(event)
        case Merged():
            return merged_facts(event)
