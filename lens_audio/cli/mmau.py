"""`lens-audio mmau`: the paper's evaluation on a benchmark."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lens_audio.cli.checks import check_seconds
from lens_audio.cli.errors import clear_errors
from lens_audio.cli.options import Adaptive, BatchSize, Debug, Device, Model


class Benchmark(StrEnum):
    """Which questions."""

    mmau = "mmau"
    testbed = "testbed"


class AnswerBy(StrEnum):
    """How a choice is made."""

    generation = "generation"
    log_probability = "log-probability"


def mmau(
    data: Annotated[
        Path | None,
        typer.Argument(
            help="MMAU's JSON file (or JSON lines), or a parquet file or a folder of them."
        ),
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option(help="The folder of recordings. Default: the folder of the JSON file."),
    ] = None,
    dataset: Annotated[
        Benchmark, typer.Option(help="testbed: the synthesised sounds, no data needed.")
    ] = Benchmark.mmau,
    benchmark_version: Annotated[
        str | None,
        typer.Option(help="first or v05.15.25. Default: first for JSON, v05.15.25 for parquet."),
    ] = None,
    items: Annotated[
        int, typer.Option("-n", "--items", min=2, help="Of the testbed, for each kind of caption.")
    ] = 200,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first items.")] = None,
    task: Annotated[str | None, typer.Option(help="Only sound, music or speech.")] = None,
    difficulty: Annotated[str | None, typer.Option(help="Only easy, medium or hard.")] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out items without their recording.")
    ] = False,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="r1-aqa, plain, brief, or a text file with {question} and {choices}. Default: "
            "r1-aqa; plain for the testbed."
        ),
    ] = None,
    answer_by: Annotated[
        AnswerBy, typer.Option(help="Generate and extract, or take the likeliest option.")
    ] = AnswerBy.generation,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of a generated answer.")] = 32,
    runs: Annotated[
        str, typer.Option(help="Which runs, with commas between them; base is always one.")
    ] = "base,steered,random,fixed,silenced",
    calibration_share: Annotated[
        float, typer.Option(help="Share of the items that heads and beta are chosen on.")
    ] = 0.3,
    seed: Annotated[int, typer.Option(min=0, help="Of the split and the random heads.")] = 0,
    ks: Annotated[str, typer.Option(help="Numbers of specialist heads to try.")] = "2,4,8,12",
    betas: Annotated[str, typer.Option(help="Strengths to try; 0 always is.")] = "0.5,1,2,4,8",
    adaptive: Annotated[Adaptive, typer.Option(help="What scales beta.")] = Adaptive.constant,
    draws: Annotated[int, typer.Option(min=1, help="Sets of random heads, each a run.")] = 3,
    steering: Annotated[
        Path | None,
        typer.Option(help="Steering calibrated before (.safetensors): no items are set apart."),
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(help="Keep only the first seconds of a recording. Default: all it can hear."),
    ] = None,
    model: Model = None,
    device: Device = None,
    device_map: Annotated[
        str | None, typer.Option(help="auto: spread the model over all GPUs of this process.")
    ] = None,
    batch_size: BatchSize = 8,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that decode recordings ahead of the model.")
    ] = 2,
    out: Annotated[
        Path, typer.Option(help="The folder of results. A run that is in it is gone on with.")
    ] = Path("lens-audio-mmau"),
    debug: Debug = False,
) -> None:
    """Answer a benchmark as the model is, steered, and under every control; resumable."""
    check_seconds(max_seconds, "--max-seconds")
    with clear_errors(debug):
        from lens_audio.cli.mmau_task import Request, read

        request = Request(
            data=data,
            audio=audio,
            dataset=dataset.value,
            benchmark_version=benchmark_version,
            items=items,
            limit=limit,
            task=task,
            difficulty=difficulty,
            skip_missing=skip_missing,
            prompt=prompt,
            answer_by=answer_by.value,
            max_new_tokens=max_new_tokens,
            runs=runs,
            calibration_share=calibration_share,
            seed=seed,
            ks=ks,
            betas=betas,
            adaptive=adaptive.value,
            draws=draws,
            steering=steering,
            max_seconds=max_seconds,
            model=model,
            device=device,
            device_map=device_map,
            batch_size=batch_size,
            workers=workers,
            out=out,
        )
        questions = read(request)
        from lens_audio.cli.run_mmau import run

        run(request, questions)
