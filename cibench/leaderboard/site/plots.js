/** Okabe and Ito's colours without black and yellow, which one of the themes would hide. */
const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C8C8C"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "x", "cross"];

let library = null;

/** plotly.js, unpacked when the first chart asks for it. */
function plotly() {
  library ??= unpack();
  return library;
}

async function unpack() {
  if (document.readyState === "loading") {
    await new Promise((go) => document.addEventListener("DOMContentLoaded", go, { once: true }));
  }
  const packed = atob(document.getElementById("plotly").textContent.trim());
  const bytes = Uint8Array.from(packed, (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  return window.Plotly;
}

/** Text for plotly, which reads a kind of HTML in every label. */
const safe = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const label = (text, most = 30) => safe(clipped(text, most));
const hover = (...lines) => lines.filter(Boolean).join("<br>");

function hoverShare(share) {
  return share ? `${percent(share[VALUE])} % [${interval(share)}], n ${share[COUNT]}` : "no number";
}

function colour(name) {
  const probe = el("span", { style: `color: var(--${name})` });
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** A chart with its title, what it says in words, and its numbers as a table. */
function chart({ id, title, caption, height, width = 0, draw, table, hovered = null }) {
  const plot = el("div", {
    class: "plot", id: `plot-${id}`, role: "img", "aria-label": `${title}. ${caption}`,
    style: `height: ${height}px; min-width: ${width}px`,
  });
  const numbers = el("details", { class: "numbers" }, el("summary", {}, "Numbers of this chart"));
  numbers.addEventListener("toggle", () => {
    if (numbers.open && numbers.children.length === 1) numbers.append(table());
  });
  const node = el("figure", { class: "chart" },
    el("h3", {}, foreign(title)),
    el("div", { class: "wide", tabindex: width ? "0" : null, role: width ? "region" : null, "aria-label": width ? title : null }, plot),
    el("figcaption", {}, foreign(caption)), numbers);
  async function show() {
    const Plotly = await plotly();
    if (!plot.isConnected) return;
    const { traces, layout } = draw();
    await Plotly.newPlot(plot, traces, { ...base(height), ...layout }, {
      responsive: true, displaylogo: false, scrollZoom: false,
      modeBarButtons: [["toImage", "zoom2d", "resetScale2d"]],
    });
    // The chart as a whole has a name and a table: its parts are no pictures of their own.
    for (const part of document.querySelectorAll(".plot svg, #js-plotly-tester")) {
      part.setAttribute("aria-hidden", "true");
    }
    plot.classList.add("ready");
    if (hovered) plot.on("plotly_hover", (event) => hovered(Plotly, plot, event));
  }
  return { node, show, purge: () => window.Plotly?.purge(plot) };
}

function base(height) {
  return {
    height, autosize: true, dragmode: false, hovermode: "closest",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 13, color: colour("text") },
    hoverlabel: { align: "left", font: { family: "system-ui, sans-serif" } },
    margin: { l: 50, r: 12, t: 12, b: 44 },
  };
}

/** An axis in this page's colours. */
function axis(title, more = {}) {
  return {
    title: { text: safe(title), standoff: 8 }, gridcolor: colour("line"), linecolor: colour("quiet"),
    zerolinecolor: colour("line"), automargin: true, ...more,
  };
}

const shares = (title, more = {}) => axis(title, { range: [-2, 102], dtick: 20, ...more });

function style(i) {
  return {
    line: { color: COLOURS[i % COLOURS.length], dash: DASHES[Math.floor(i / COLOURS.length) % 4], width: 2 },
    marker: { color: COLOURS[i % COLOURS.length], symbol: SYMBOLS[i % SYMBOLS.length], size: 8 },
  };
}

/** Where a legend below a chart goes, and the height it needs. */
const legendHeight = (count) => 24 * Math.ceil(count / Math.max(1, Math.floor(innerWidth / 260)));
const legendBelow = (plotHeight) => ({ orientation: "h", x: 0, y: -70 / plotHeight, yanchor: "top", entrywidth: 210 });
