"""``entrenar generate MODEL --prompt TEXT``: let a model write, to see what training did."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer

from entrenar_cli.options import DebugOption, DeviceOption, JsonOption, ThreadsOption


def generate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A GGUF model.", show_default=False)],
    prompt: Annotated[str, typer.Option("--prompt", "-p", metavar="TEXT", help="The text to go on from.")],
    adapter: Annotated[Path | None, typer.Option(metavar="PATH", help="A GGUF LoRA adapter to apply.")] = None,
    max_tokens: Annotated[int, typer.Option(metavar="N", help="Most tokens to generate.")] = 128,
    temperature: Annotated[
        float, typer.Option(metavar="X", help="Randomness; 0 always takes the likeliest token.")
    ] = 0.8,
    top_p: Annotated[
        float, typer.Option(metavar="X", help="Draw from the likeliest tokens with this share of probability.")
    ] = 0.95,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Repeat a draw; default: a new one each time.")
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json_lines: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Let a model go on from a prompt."""
    from entrenar_cli.console import open_reporter
    from entrenar_core.stages.generate import SamplingSettings, run_generate

    settings = SamplingSettings(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=secrets.randbits(31) if seed is None else seed,
    )
    with open_reporter(json_lines=json_lines) as reporter:
        run_generate(
            model, prompt, adapter_path=adapter, settings=settings, threads=threads, reporter=reporter, device=device
        )
