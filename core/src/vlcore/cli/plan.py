"""`vlcore plan`: what a training will take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from vlcore.cli.options import ConfigCommand, config_options
from vlcore.config import SftConfig
from vlcore.table import align

if TYPE_CHECKING:
    from vlcore.plan import Plan


@click.command(cls=ConfigCommand)
@config_options(SftConfig)
@click.option("--json", "as_json", type=bool, default=False, help="Print one JSON document.")
@click.pass_context
def command(ctx: click.Context, config: SftConfig, as_json: bool) -> None:
    """Say what `vlcore sft` with the same options will take: parameters, steps, memory of a GPU.

    No weights are read and no GPU is needed; --device_max_memory 24GB stands for one. The exit code is 1 when a
    GPU is too small.
    """
    import json
    from dataclasses import asdict

    from vlcore.plan import make_plan

    plan = make_plan(config)
    if as_json:
        click.echo(json.dumps(asdict(plan) | {"total": plan.memory.total, "fits": plan.fits}, indent=2))
    else:
        for line in describe_plan(plan):
            click.echo(line)
    if not plan.fits:
        ctx.exit(1)


def describe_plan(plan: Plan) -> Iterator[str]:
    """The plan for people, line by line."""
    from vlcore.placement import write_size

    share = [f"{100 * part.trained / part.parameters if part.parameters else 0:.2f} %" for part in plan.parts]
    yield from align([("part", "parameters", "trained", ""), *(
        (part.name, f"{part.parameters:,}", f"{part.trained:,}", each)
        for part, each in zip(plan.parts, share, strict=True))], 1)
    median, long, most = plan.lengths
    yield ""
    yield f"rows: {plan.rows:,}, of {median:,} tokens (median), {long:,} (99 of 100 are no longer), {most:,} (longest)"
    yield f"steps: {plan.steps:,} on {plan.processes} process{'es' if plan.processes > 1 else ''}, in {plan.dtype}"
    yield ""
    memory = plan.memory
    yield from align([
        ("memory of a GPU", ""),
        ("weights", write_size(memory.weights)),
        ("gradients", write_size(memory.gradients)),
        ("optimizer", write_size(memory.optimizer)),
        ("activations, median row", write_size(memory.median)),
        ("activations, long row", write_size(memory.long)),
        ("all, with long rows and CUDA itself", write_size(memory.total)),
    ], 1)
    if plan.placement:
        yield ""
        yield from plan.placement.describe()
    yield ""
    if not plan.limit:
        yield "no GPU is here to compare with; --device_max_memory 24GB stands for one"
    elif plan.fits:
        yield f"fits: a GPU has {write_size(plan.limit)}"
    else:
        yield f"does not fit: a GPU has {write_size(plan.limit)}"
    if not plan.fits or not plan.limit:
        yield from (f"  {text}: {write_size(size)}" for text, size in plan.advice)
