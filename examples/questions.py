"""Asks ClickHouse about a run, and draws its loss, with what became of its seeds, as an SVG and as text.

    python examples/own_loop.py HOME && python examples/questions.py HOME [RUN] [OUT.svg]

ClickHouse runs inside this process; the rows come as Arrow tables. Nothing else is needed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import esper

LOSS = """
    SELECT intDiv(step, 16) * 16 AS step, avg(value) AS loss
    FROM measurements WHERE run_id = {run:String} AND metric = 'loss' GROUP BY step ORDER BY step
"""
MOVES = """
    SELECT step, seed, stage FROM seed_transitions
    WHERE run_id = {run:String} AND stage IN ('TRAINING', 'BLENDING', 'FOSSILISED', 'CULLED') ORDER BY step
"""
BARS = " ▁▂▃▄▅▆▇█"
WIDTH, HEIGHT, EDGE = 720, 240, 30
Row = dict[str, float]


def text(points: list[Row]) -> str:
    """The loss as a line of bars."""
    low, high = min(each["loss"] for each in points), max(each["loss"] for each in points)
    span = high - low or 1
    line = "".join(BARS[1 + round((each["loss"] - low) / span * (len(BARS) - 2))] for each in points)
    return f"loss {high:.3f} to {low:.3f}, steps {points[0]['step']} to {points[-1]['step']}\n{line}"


def svg(points: list[Row], moves: list[dict[str, object]]) -> str:
    """The loss as a curve, and a mark for each move of a seed."""
    last, high = max(each["step"] for each in points) or 1, max(each["loss"] for each in points) or 1

    def place(step: float, loss: float) -> str:
        x, y = step / last * (WIDTH - 2 * EDGE) + EDGE, HEIGHT - EDGE - loss / high * (HEIGHT - 2 * EDGE)
        return f"{x:.1f},{y:.1f}"

    curve = " ".join(place(each["step"], each["loss"]) for each in points)
    parts = [f'<polyline points="{curve}" fill="none" stroke="black"/>']
    for number, move in enumerate(moves):
        x, bottom = place(float(str(move["step"])), 0).split(",")
        top = EDGE + 11 * (number % 8)
        parts.append(f'<line x1="{x}" x2="{x}" y1="{EDGE}" y2="{bottom}" stroke="silver"/>')
        parts.append(f'<text x="{x}" y="{top}" font-size="9">{move["seed"]} {move["stage"]}</text>')
    size = f'width="{WIDTH}" height="{HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n' + "\n".join(parts) + "\n</svg>\n"


def main(home: str, run_id: str | None = None, out: str = "loss.svg") -> None:
    with esper.connect(home) as log:
        run = log.run(run_id or log.search_runs()[-1].run_id)
        points, moves = run.sql(LOSS).to_pylist(), run.sql(MOVES).to_pylist()
    print(text(points))
    for move in moves:
        print(f"step {move['step']:>5}  {move['seed']} {move['stage']}")
    Path(out).write_text(svg(points, moves), "utf-8")
    print(f"wrote {out}")


if __name__ == "__main__":
    main(*sys.argv[1:] or [".esper"])
