"""Where the results of an evaluation go besides the terminal; looked at before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from entrenar_core.data.samples import check_samples_name, write_samples
from entrenar_core.errors import ConfigError
from entrenar_core.evaluation.answers import AnswerResult
from entrenar_core.events import Reporter, Saved
from entrenar_core.gguf.atomic import check_writable
from entrenar_core.stages.evaluated_model import EvaluatedModel
from entrenar_core.stages.evaluation_report import EvaluationReport
from entrenar_core.stages.evaluation_settings import EvaluationTask
from entrenar_core.stages.output_file import check_output, plain_files, save_report


@dataclass(frozen=True)
class EvaluationOutput:
    """Files to write.

    report: all results as JSON. samples: what was asked and answered, as .jsonl or .parquet. overwrite: whether they
    may be there already.
    """

    report: Path | None = None
    samples: Path | None = None
    overwrite: bool = False

    def check(
        self, task: EvaluationTask, models: Sequence[EvaluatedModel], data: str, reference: Path | None = None
    ) -> None:
        """See that everything may be written.

        Raises:
            OutputError: a file is read, there already, or cannot be written.
            ConfigError: the task has no samples.
        """
        read_too = plain_files(data, None if reference is None else str(reference))
        inputs = [*read_too, *(file for model in models for file in model.files)]
        if self.samples is not None:
            if task is not EvaluationTask.EXACT_MATCH:
                raise ConfigError(f"{task} has no samples", where="--samples", hint="they are of --task exact-match")
            check_samples_name(self.samples)
        for path in (self.report, self.samples):
            if path is not None:
                check_output(path, inputs, overwrite=self.overwrite)
        for model in models:
            if model.folder is not None:
                check_writable(own_report(model.folder, task))

    def save(self, report: EvaluationReport, reporter: Reporter) -> None:
        """Write what is asked for."""
        if self.report is not None:
            reporter.emit(save_report(self.report, report.document()))
        if self.samples is not None:
            rows = [
                {"model": one.model.path, **asdict(sample)}
                for one in report.models
                if isinstance(one.result, AnswerResult)
                for sample in one.result.samples
            ]
            reporter.emit(Saved("samples", self.samples, write_samples(self.samples, rows)))


def own_report(folder: Path, task: EvaluationTask) -> Path:
    """The report in the folder of a run; that of an earlier evaluation is replaced."""
    return folder / f"eval-{task}.json"
