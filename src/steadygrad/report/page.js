"use strict";
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const narrow = window.matchMedia("(max-width: 600px)");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // The heat map's hover text is made here, so that each name is in the page once.
  function withText(figure) {
    const names = figure.data[0].names;
    for (const trace of figure.data) {
      trace.text = trace.z.map((row, i) => row.map((value, j) => {
        if (value === null) return "";
        const what = trace.states ? trace.states[value - 1] : "norm " + Math.pow(10, value).toPrecision(3);
        return names[i] + "<br>step " + trace.x[j] + "<br>" + what;
      }));
    }
  }

  function themed(figure) {
    const layout = JSON.parse(JSON.stringify(figure.layout));
    const text = colour("--text"), line = colour("--line");
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
    layout.font = { color: text, size: 12, family: "system-ui, sans-serif" };
    layout.hoverlabel = { bgcolor: colour("--card"), bordercolor: line, font: { color: text }, align: "left" };
    layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--accent") };
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(key)) Object.assign(layout[key], { gridcolor: line, linecolor: line, zerolinecolor: line });
    }
    for (const note of layout.annotations || []) note.bgcolor = colour("--card");
    if (narrow.matches) small(figure, layout);
    return layout;
  }

  function small(figure, layout) {
    if (figure.kind === "heat") {
      layout.yaxis.ticktext = figure.short_labels;
      layout.yaxis.tickfont = { size: 9 };
      layout.height += 60; // the colour bar lies above the map here
    } else {
      Object.assign(layout.margin, { l: 52, r: 6 });
    }
  }

  function traces(figure) {
    if (figure.kind !== "heat") return figure.data;
    const bar = { ...figure.data[0].colorbar };
    if (narrow.matches) Object.assign(bar, { orientation: "h", y: 1.0, yanchor: "bottom", thickness: 8, title: { text: "log10 norm", side: "top" } });
    return figure.data.map((trace, i) => (i ? trace : { ...trace, colorbar: bar }));
  }

  const options = { responsive: true, displaylogo: false, displayModeBar: narrow.matches ? false : "hover",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]] };
  function draw() {
    for (const [id, figure] of Object.entries(figures)) {
      const place = document.getElementById(id);
      if (place) Plotly.react(place, traces(figure), themed(figure), options);
    }
  }
  for (const figure of Object.values(figures)) if (figure.kind === "heat") withText(figure);
  draw();
  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);

  // Sorting: a click sorts downwards first, for the largest numbers are looked for; empty values stay last.
  function sort(table, column, ascending) {
    const rows = [...table.tBodies[0].rows];
    const key = (row) => {
      const cell = row.cells[column];
      if (cell.dataset.v === undefined) return cell.textContent;
      return cell.dataset.v === "" ? null : Number(cell.dataset.v);
    };
    rows.sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === null || y === null) return (x === null) - (y === null);
      const order = typeof x === "number" ? x - y : x.localeCompare(y, undefined, { numeric: true });
      return ascending ? order : -order;
    });
    table.tBodies[0].append(...rows);
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") === "descending" || (column === 0 && head.getAttribute("aria-sort") !== "ascending");
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sort(table, column, ascending);
    }));
  }
})();
