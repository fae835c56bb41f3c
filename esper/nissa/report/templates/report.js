"use strict";
// Draws the curves. Everything else on the page is there without this.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const pixels = (name) => parseFloat(colour(name));
  const WHOLE = [...Array(10).keys()].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power)); // steps
  const LINES = ["run-0", "run-1", "run-2", "run-3", "run-4"];
  const number = (value) =>
    value == null ? "–" : Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(3));
  const tick = (value) => (value == null ? "" : value !== 0 && Math.abs(value) < 1e-5 ? value.toExponential(0) : number(value));

  // All of every line; on a scale of powers where otherwise most of it would lie flat.
  const whole = (columns) => {
    const values = columns.flat().filter((value) => value != null);
    const [lower, upper] = [Math.min(...values), Math.max(...values)];
    if (lower > 0 && upper > 20 * lower) return { distr: 3, range: (_, least, most) => [least / 1.1, most * 1.1] };
    return {
      range: (_, least, most) => {
        if (least == null) return [0, 1];
        const margin = (most - least || Math.abs(most) || 1) * 0.08;
        return [least - margin, most + margin];
      },
    };
  };

  // As high as the means of what is shown, so that spikes of single steps do not flatten the rest.
  const calm = (low, mean) => (plot, least, most) => {
    const [from, to] = plot.series[0].idxs ?? [0, mean.length - 1];
    const shown = (values) => values.slice(from, to + 1).filter((value) => value != null);
    const bottom = Math.min(...shown(low), ...shown(mean));
    const top = Math.max(...shown(mean));
    const [lower, upper] = bottom < top ? [bottom, top] : [least, most];
    if (lower == null || upper == null) return [0, 1];
    const margin = (upper - lower || Math.abs(upper) || 1) * 0.08;
    return [lower - margin, upper + margin];
  };

  const line = (label, name, more = {}) => ({
    label,
    stroke: () => colour(name),
    width: 2,
    points: { show: false },
    value: (_, value) => number(value),
    spanGaps: true,
    ...more,
  });

  function charts(kind, run, index) {
    if (kind === "together") {
      const { x, runs, columns } = data.together[index];
      const series = runs.map((name, i) => line(name, `run-${i % 6}`, i > 5 ? { dash: [8, 5] } : {}));
      return { values: [x, ...columns], series, scale: whole(columns) };
    }
    const chart = run[kind];
    if (kind === "metrics") {
      const { name, x, y } = chart[index];
      const points = { show: x.length < 60, size: 6 };
      return { values: [x, y], series: [line(name, "run-2", { points })], scale: whole([y]) };
    }
    if (kind === "loss") {
      const series = [line("loss", "run-0", { width: 2.5 })];
      const values = [chart.x, chart.mean];
      if (!chart.low) return { values, series };
      if (chart.low.every((value, i) => value === chart.high[i])) {
        // Each point is one step, so there is no range to show.
        series.unshift(line("each step", "step", { width: 1 }));
        return { values: [chart.x, chart.low, chart.mean], series, y: calm(chart.low, chart.mean) };
      }
      const edge = { width: 0 };
      series.push(line("single steps", "run-0", edge), line("up to", "run-0", edge));
      return {
        values: [...values, chart.low, chart.high],
        series,
        y: calm(chart.low, chart.mean),
        bands: [{ series: [3, 2], fill: () => colour("run-0") + "33" }],
      };
    }
    if (kind === "rate") return { values: [chart.x, chart.rate], series: [line("learning rate", "run-3")], zero: true };
    const names = chart.sites.map((name, i) => line(name, LINES[i % LINES.length]));
    if (chart.columns.length > names.length)
      names.push(line("seeds", "germinated", { dash: [5, 4], spanGaps: false }));
    return { values: [chart.x, ...chart.columns], series: names };
  }

  // Charts of one run and its seeds' lives show the same step.
  function pointing(run) {
    const lives = document.querySelector(`#run-${run} .lifelines`);
    return (plot) => {
      if (!lives) return;
      const left = plot.cursor.left;
      const there = left != null && left >= 0;
      lives.classList.toggle("pointed", there);
      if (there) lives.style.setProperty("--at", plot.posToVal(left, "x") / (data.runs[run].end || 1));
    };
  }

  // Lines where seeds joined or left, with the seed's name where there is room for it.
  function marks(run) {
    return (plot) => {
      const { ctx, bbox } = plot;
      ctx.save();
      ctx.lineWidth = devicePixelRatio * 1.5;
      ctx.font = `600 ${11 * devicePixelRatio}px ${colour("sans")}`;
      ctx.textAlign = "left";
      ctx.textBaseline = "top";
      const gap = 4 * devicePixelRatio;
      let free = bbox.left;
      for (const [step, stage, seed] of run.marks) {
        const x = Math.round(plot.valToPos(step, "x", true));
        if (x < bbox.left || x > bbox.left + bbox.width) continue;
        ctx.strokeStyle = colour(stage === "CULLED" ? "culled" : "fossilised");
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
        const name = seed.length > 14 ? "…" + seed.slice(-13) : seed;  // its number is at the end
        const width = ctx.measureText(name).width;
        const fits = x + gap + width < bbox.left + bbox.width;
        const left = fits ? x + gap : x - gap - width;
        if (left < free) continue;
        ctx.fillStyle = ctx.strokeStyle;
        ctx.fillText(name, left, bbox.top + gap);
        free = left + width + gap;
      }
      ctx.restore();
    };
  }

  const pointed = (plot) => plot.root.classList.toggle("pointed", plot.cursor.idx != null);

  function draw(place) {
    const kind = place.dataset.chart;
    const which = place.dataset.run;
    const run = which === undefined ? null : data.runs[which];
    const { values, series, bands, zero, y, scale } = charts(kind, run, place.dataset.index);
    if (!values[0].length) {
      const none = document.createElement("p");
      none.className = "none";
      none.textContent = "Nothing was measured.";
      place.append(none);
      return null;
    }
    const end = run ? run.end : data.end;
    const axis = {
      stroke: () => colour("quiet"),
      grid: { stroke: () => colour("grid"), width: 1 },
      ticks: { stroke: () => colour("line"), width: 1, size: 5 },
      font: `12px ${colour("sans")}`,
    };
    const plot = new uPlot(
      {
        width: place.clientWidth,
        height: place.classList.contains("small") ? 200 : 260,
        padding: [8, pixels("pad"), 0, 0],
        cursor: { y: false, sync: run ? { key: `run-${which}` } : undefined, points: { size: 7 } },
        scales: { x: { time: false, range: (_, low, high) => (low === high ? [0, Math.max(end, 1)] : [low, high]) }, y: scale ?? (zero ? { range: (_, low, high) => [0, high * 1.08 || 1] } : y ? { range: y } : {}) },
        axes: [
          { ...axis, values: (_, all) => all.map((value) => value.toLocaleString("en")), size: 34, incrs: WHOLE },
          { ...axis, values: (_, all) => all.map(tick), size: (_, all) => Math.max(pixels("gutter"), ...(all ?? []).map((text) => 7 * text.length + 12)) },
        ],
        series: [{ label: "step", value: (_, value) => (value == null ? "–" : value.toLocaleString("en")) }, ...series],
        bands,
        legend: { show: true, markers: { dash: (plot, i) => (plot.series[i].dash ? "dashed" : "solid") } },
        hooks: { setCursor: [pointed, ...(run ? [pointing(which)] : [])], draw: kind === "loss" ? [marks(run)] : [] },
      },
      values,
      place,
    );
    plot.setScale("x", { min: 0, max: Math.max(end, 1) });
    if (kind === "loss") {
      if (bands) place.classList.add("banded");
      // The seeds' lives lie under this curve.
      const gutter = plot.bbox.left / devicePixelRatio;
      place.closest("article").style.setProperty("--gutter", `${gutter}px`);
    }
    return plot;
  }

  const plots = new Map();
  for (const place of document.querySelectorAll(".chart")) {
    const plot = draw(place);
    if (plot) plots.set(place, plot);
  }
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const plot = plots.get(target);
      if (plot && target.clientWidth && target.clientWidth !== plot.width)
        plot.setSize({ width: target.clientWidth, height: plot.height });
    }
  });
  for (const place of plots.keys()) resized.observe(place);
  dark.addEventListener("change", () => plots.forEach((plot) => plot.redraw(false, true)));
  document.documentElement.dataset.ready = plots.size;
})();
