"""``entrenar eval MODEL --data DATA``: what a model is worth on data, and how several compare."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from entrenar_cli.options import DebugOption, DeviceOption, JsonOption, ThreadsOption

Kind = TypeVar("Kind", bound=StrEnum)

if TYPE_CHECKING:
    from entrenar_core.stages.evaluation_settings import EvaluationTask


def eval_(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL...", help="A GGUF model, or the folder of a run.", show_default=False),
    ],
    data: Annotated[
        str, typer.Option("--data", "-d", metavar="DATA", help="A file, folder or pattern such as test/*.parquet.")
    ],
    task: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="perplexity, multiple-choice, exact-match, classification or regression; default: inferred.",
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show all MODELs side by side, with sizes and speed.")
    ] = False,
    adapter: Annotated[Path | None, typer.Option(metavar="PATH", help="A GGUF LoRA adapter to apply.")] = None,
    base: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The base model of a run, if it is no longer where it was.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=COLUMN",
            help="A column, such as text=body or answer=gold. May be repeated; default: inferred.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Use the first N rows only.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, metavar="N", help="Rows of one forward pass.")] = None,
    seq_len: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="perplexity: longest example in tokens.")
    ] = None,
    chat_template: Annotated[
        str | None, typer.Option(metavar="NAME", help="How chats are written; default: as in training.")
    ] = None,
    separator: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Text between prompt and completion; default: as in training.")
    ] = None,
    windows: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="perplexity: read one long text in windows, llama.cpp (as llama-perplexity) or sliding;"
            " default: llama.cpp for a plain text, else row by row.",
        ),
    ] = None,
    ctx: Annotated[
        int | None, typer.Option(min=4, metavar="N", help="perplexity: tokens of a window.  [default: 512]")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="perplexity: tokens between sliding windows; default: half a window."),
    ] = None,
    chunks: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="perplexity: score the first N windows only.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="perplexity: also KL divergence from this model, and agreement with it."),
    ] = None,
    arithmetic: Annotated[
        str, typer.Option(metavar="KIND", help="perplexity: exact, or llama.cpp to round activations as it does.")
    ] = "exact",
    template: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help=r"multiple-choice: the question.  [default: {question}\nAnswer:]"),
    ] = None,
    shots: Annotated[int, typer.Option(min=0, metavar="N", help="multiple-choice: solved questions in front.")] = 0,
    shots_data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Where these are from; default: the data themselves.")
    ] = None,
    regex: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="exact-match: its one group finds the answer; the last match counts."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="exact-match: most tokens of an answer.")] = 256,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="exact-match: a text that ends an answer. May be repeated.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(metavar="X", help="exact-match: randomness; 0 always takes the likeliest token.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(metavar="X", help="exact-match: draw from the likeliest tokens with this probability.")
    ] = 1.0,
    samples: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="exact-match: write questions and answers as .jsonl or .parquet."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of all draws.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the results as JSON too.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json_lines: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure what models are worth on data."""
    from entrenar_cli.console import open_reporter
    from entrenar_core.config.key_names import keys_named
    from entrenar_core.events import SilentReporter
    from entrenar_core.stages.evaluate import run_evaluation
    from entrenar_core.stages.evaluation_output import EvaluationOutput
    from entrenar_core.stages.evaluation_settings import (
        AnswerSettings,
        Arithmetic,
        ChoiceSettings,
        EvaluationSettings,
        LikelihoodSettings,
        WindowKind,
    )

    _check_models(models, compare=compare)
    settings = EvaluationSettings(
        task=_task(task),
        columns=_column_by_role(columns),
        chat_template=chat_template,
        separator=None if separator is None else unescaped(separator),
        seq_len=seq_len,
        batch_size=batch_size,
        limit=limit,
        adapter=adapter,
        base=base,
        threads=threads,
        device=device,
        measures_speed=compare,
        likelihood=LikelihoodSettings(
            None if windows is None else _kind("--windows", windows, WindowKind),
            ctx,
            stride,
            chunks,
            reference,
            _kind("--arithmetic", arithmetic, Arithmetic),
        ),
        choices=ChoiceSettings(None if template is None else unescaped(template), shots, shots_data, seed),
        answers=AnswerSettings(
            regex, max_tokens, tuple(map(unescaped, stop or ())), temperature=temperature, top_p=top_p, seed=seed
        ),
    )
    files = EvaluationOutput(output, samples, overwrite)
    with keys_named(_option_names()):
        if json_lines:
            from entrenar_cli.documents import write_document

            report = run_evaluation(models, data, settings=settings, output=files, reporter=SilentReporter())
            write_document(sys.stdout, report.document())
            return
        with open_reporter() as reporter:
            report = run_evaluation(models, data, settings=settings, output=files, reporter=reporter)
    from entrenar_cli.eval_view import report_sections
    from entrenar_cli.sections import print_sections

    print_sections(report_sections(report))


def unescaped(text: str) -> str:
    r"""``\n``, ``\t`` and ``\\`` as a shell passes them, in the characters that they mean."""
    return text.replace("\\\\", "\0").replace("\\n", "\n").replace("\\t", "\t").replace("\0", "\\")


def _check_models(models: Sequence[Path], *, compare: bool) -> None:
    from entrenar_core.errors import ConfigError

    if len(models) > 1 and not compare:
        raise ConfigError(
            f"{len(models)} models are named", hint="add --compare to see them side by side, or name one alone"
        )
    if len(set(models)) < len(models):
        twice = next(model for model in models if models.count(model) > 1)
        raise ConfigError("this model is named twice", where=str(twice), hint="name each model once")


def _task(name: str | None) -> EvaluationTask | None:
    from difflib import get_close_matches

    from entrenar_core.errors import ConfigError
    from entrenar_core.stages.evaluation_settings import EvaluationTask

    if name is None:
        return None
    wanted = name.strip().lower().replace("_", "-")
    if wanted not in set(EvaluationTask):
        near = get_close_matches(wanted, list(EvaluationTask), n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"there is no task {name!r}", where="--task", hint=f"{meant}known are {', '.join(EvaluationTask)}"
        )
    return EvaluationTask(wanted)


def _kind(option: str, name: str, kinds: type[Kind]) -> Kind:
    """The member of an enumeration that an option names."""
    from entrenar_core.errors import ConfigError

    wanted = name.strip().lower()
    if wanted not in set(kinds):
        raise ConfigError(f"there is no {name!r}", where=option, hint=f"known are {', '.join(kinds)}")
    return kinds(wanted)


def _column_by_role(given: Sequence[str] | None) -> Mapping[str, str]:
    from entrenar_core.errors import ConfigError

    found: dict[str, str] = {}
    for one in given or ():
        role, has_column, column = one.partition("=")
        if not (has_column and role.strip() and column):
            raise ConfigError(f"{one!r} is no ROLE=COLUMN", where="--columns", hint="such as text=body")
        found[role.strip()] = column
    return found


def _option_names() -> dict[str, str]:
    """Dotted key -> option, for messages that speak of the `data` section."""
    from entrenar_core.config.roles import ROLE_NAMES, SHORT_ROLES

    roles = {f"data.columns.{role}": f"--columns {role}" for role in ROLE_NAMES}
    short = {f"data.{role}": f"--columns {role}" for role in SHORT_ROLES}
    other = {"data.chat_template": "--chat-template", "data.seq_len": "--seq-len", "under data": "with --columns"}
    return {**roles, **short, **other}
