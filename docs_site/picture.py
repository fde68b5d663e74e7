"""Draws docs/images/inside.svg: what a row of data becomes, and the hooks on its way.

    python docs_site/picture.py

All texts stand on filled shapes, so that the picture reads on a light page and on a dark one.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

TARGET = Path(__file__).parents[1] / "docs" / "images" / "inside.svg"
#: What there is at each stage: its name, and what it holds.
STAGES = (
    ("row", "a line of a file, a record of a data set, a request"),
    ("messages", "who says what, with pictures and videos"),
    ("segments", "text, named tokens, media slots; each trained or not"),
    ("layout", "ids, labels and media positions, from sizes alone"),
    ("example", "the same with pixels: one conversation"),
    ("batch", "several examples, padded or packed"),
    ("model", "a native module: logits"),
    ("result", "an answer, or a loss and a checkpoint"),
)
#: What makes the next stage, and the hooks that it asks.
STEPS = (
    ("dataset.read_row", ("register_datasets",)),
    ("Template.write_segments", ("build_template",)),
    ("batch.plan_layout", ("load_tokenizer", "preprocess_media")),
    ("batch.load_pixels", ("preprocess_media",)),
    ("batch.collate", ()),
    ("model.forward", ("load_model", "lora_targets")),
    ("generate, train, export", ("register_metrics", "merge")),
)
#: Measures in pixels: the stages' boxes, the gap below each, the steps' and hooks' pills.
LEFT, WIDTH, HEIGHT, GAP = 16, 380, 46, 42
PILL, STEP_WIDTH, HOOK_LEFT, HOOK_WIDTH = 24, 210, 440, 148
#: Fill, border and text of a stage, a step and a hook.
STAGE = ("#3949ab", "#283593", "#ffffff")
STEP = ("#e8eaf6", "#7986cb", "#1a237e")
HOOK = ("#ffe0b2", "#fb8c00", "#4e2a00")
LINE = "#8089b0"
CODE = "ui-monospace, Menlo, Consolas, monospace"


def draw() -> str:
    """The picture as SVG."""
    height = len(STAGES) * (HEIGHT + GAP) - GAP + 16
    width = HOOK_LEFT + 2 * HOOK_WIDTH + 24
    shapes = [*draw_steps(), *draw_stages()]
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'font-family="system-ui, sans-serif" font-size="13" role="img">')
    title = "<title>What a row of data becomes, and the hooks on its way</title>"
    marker = (f'<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
              f'<path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker>')
    return "\n".join([head, title, f"<defs>{marker}</defs>", *shapes, "</svg>", ""])


def draw_stages() -> Iterator[str]:
    """A box a stage, with its name and what it holds."""
    for number, (name, holds) in enumerate(STAGES):
        top = 8 + number * (HEIGHT + GAP)
        yield draw_box(LEFT, top, WIDTH, HEIGHT, STAGE)
        yield write(LEFT + WIDTH / 2, top + 19, name, STAGE[2], 'font-size="15" font-weight="600"')
        yield write(LEFT + WIDTH / 2, top + 37, holds, STAGE[2])


def draw_steps() -> Iterator[str]:
    """An arrow a step, what it is called, and a line to each of its hooks."""
    middle = LEFT + WIDTH / 2
    for number, (name, hooks) in enumerate(STEPS):
        top = 8 + number * (HEIGHT + GAP) + HEIGHT
        centre = top + GAP / 2
        yield f'<path d="M{middle} {top}V{top + GAP - 1}" stroke="{LINE}" stroke-width="2" marker-end="url(#tip)"/>'
        if hooks:
            end = HOOK_LEFT + (len(hooks) - 1) * (HOOK_WIDTH + 8)
            yield f'<path d="M{middle} {centre}H{end}" stroke="{LINE}" stroke-width="2" stroke-dasharray="5 4"/>'
        yield from draw_pill(middle - STEP_WIDTH / 2, centre, STEP_WIDTH, name, STEP)
        for place, hook in enumerate(hooks):
            yield from draw_pill(HOOK_LEFT + place * (HOOK_WIDTH + 8), centre, HOOK_WIDTH, hook, HOOK)


def draw_pill(left: float, centre: float, width: float, text: str, colours: tuple[str, str, str]) -> Iterator[str]:
    """A small box around a name of the code."""
    yield draw_box(left, centre - PILL / 2, width, PILL, colours)
    yield write(left + width / 2, centre + 4.5, text, colours[2], f'font-family="{CODE}"')


def draw_box(left: float, top: float, width: float, height: float, colours: tuple[str, str, str]) -> str:
    """A rectangle with round corners."""
    return (f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="8" fill="{colours[0]}" '
            f'stroke="{colours[1]}"/>')


def write(x: float, y: float, text: str, colour: str, style: str = "") -> str:
    """A text around a point of its base line."""
    return f'<text x="{x}" y="{y}" text-anchor="middle" fill="{colour}" {style}>{escape(text)}</text>'


if __name__ == "__main__":
    TARGET.write_text(draw(), "utf8")
    print(TARGET)
