"use strict";
// Draws the charts in the page's own colours, sorts tables, and browses the sample. Texts from the
// run reach the page as text nodes only.
(() => {
  const root = document.documentElement;
  const errors = [];
  const complain = (what) => {
    errors.push(String(what));
    root.dataset.errors = JSON.stringify(errors);
  };
  addEventListener("error", (event) => complain(event.message));
  addEventListener("unhandledrejection", (event) => complain(event.reason));
  addEventListener("securitypolicyviolation", (event) => complain(`refused: ${event.violatedDirective} ${event.blockedURI}`));

  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 42rem)");
  const PAGE = 20;

  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const measure = () => {
    root.dataset.overflow = String(document.scrollingElement.scrollWidth - root.clientWidth);
  };

  // Charts -----------------------------------------------------------------------------------------

  const configuration = (palette) => {
    const styles = getComputedStyle(root);
    const colour = (name) => styles.getPropertyValue(`--${name}`).trim();
    const font = getComputedStyle(document.body).fontFamily;
    const quiet = { labelColor: colour("muted"), titleColor: colour("muted") };
    return {
      background: "transparent",
      font,
      view: { stroke: null },
      axis: {
        ...quiet,
        labelFontSize: 12,
        titleFontSize: 12,
        titleFontWeight: "normal",
        titlePadding: 10,
        labelPadding: 6,
        gridColor: colour("line"),
        domainColor: colour("line"),
        tickColor: colour("line"),
      },
      axisY: { labelLimit: narrow.matches ? 112 : 190 },
      legend: { ...quiet, labelFontSize: 12, symbolSize: 90, offset: 8, columnPadding: 18, labelLimit: 220 },
      range: {
        category: palette.map(colour),
        ordinal: palette.map(colour),
        heatmap: [0, 1, 2, 3, 4].map((step) => colour(`heat-${step}`)),
      },
      style: {
        tile: { stroke: colour("surface"), strokeWidth: 2, cornerRadius: 4 },
        border: { color: colour("line"), strokeWidth: 1 },
        threshold: { color: colour("ink"), strokeWidth: 1.5, strokeDash: [5, 4] },
        "threshold-label": { color: colour("ink"), fontSize: 13, fontWeight: 600 },
      },
    };
  };

  const places = [...document.querySelectorAll("[data-chart]")];
  let views = [];
  let turn = 0;

  const draw = async () => {
    const mine = ++turn;
    views.forEach((view) => view.finalize());
    views = [];
    for (const place of places) {
      const spec = data.charts[place.dataset.chart];
      const view = await vegaEmbed(place, spec, {
        mode: "vega-lite",
        renderer: "svg",
        actions: false,
        ast: true, // expressions are interpreted: the page's policy allows no code made from text
        defaultStyle: false,
        config: configuration(spec.usermeta.palette),
      });
      if (mine !== turn) {
        view.finalize();
        return;
      }
      views.push(view);
    }
    root.dataset.ready = String(views.length);
    measure();
  };

  // Tables -----------------------------------------------------------------------------------------

  const sortable = (table) => {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    heads.forEach((head, column) => {
      const button = element("button", "", head.textContent);
      button.type = "button";
      button.addEventListener("click", () => {
        const figures = head.classList.contains("figure");
        const before = head.getAttribute("aria-sort");
        const up = before ? before === "descending" : !figures; // figures: the largest first
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const compare = figures
          ? (a, b) => Number(a.cells[column].dataset.value) - Number(b.cells[column].dataset.value)
          : (a, b) => a.cells[column].textContent.localeCompare(b.cells[column].textContent);
        const rows = [...body.rows].sort((a, b) => (up ? compare(a, b) : compare(b, a)));
        body.append(...rows);
      });
      head.replaceChildren(button);
    });
  };

  // Instructions -----------------------------------------------------------------------------------

  const part = (title, text) => {
    const made = element("div");
    const content = element("p", "", text);
    content.dir = "auto";
    made.append(element("h4", "", title), content);
    return made;
  };

  const details = (item) => {
    const body = element("div", "body");
    const score = (value) => (value === null ? "" : `, score ${value.toFixed(1)}`);
    if (item.teacher !== null) body.append(part(`Teacher's answer${score(item.teacher_score)}`, item.teacher));
    if (item.student !== null) body.append(part(`S₀'s answer${score(item.student_score)}`, item.student));
    const fate = item.refused ? `; the original was kept: ${item.refused}` : "";
    if (item.refined !== null) body.append(part(`Refined by the teacher${fate}`, item.refined));
    const facts = [item.origin];
    if (item.rounds.length) facts.push(`trained in round ${item.rounds.join(", ")}`);
    if (item.reason) facts.push(item.reason);
    const about = element("p", "about", `${facts.join(" · ")} · `);
    about.append(element("code", "", `tapir show ${item.id}`));
    body.append(about);
    return body;
  };

  const entry = (item) => {
    const made = element("li");
    const fold = element("details");
    const head = element("summary");
    const state = element("span", "state", item.fate);
    state.append(element("small", "", item.task ?? "no task"));
    const text = element("span", "text", item.text || "(empty)");
    text.dir = "auto";
    head.append(state, text, element("span", "gap", item.difficulty));
    fold.append(head);
    fold.addEventListener("toggle", () => {
      if (fold.open && fold.childElementCount === 1) fold.append(details(item));
    });
    made.append(fold);
    return made;
  };

  const browse = () => {
    const [form, query, task, fate, found, list, more] = ["tools", "query", "task", "fate", "found", "items", "more"].map(
      (id) => document.getElementById(id),
    );
    const tasks = [...new Set(data.sample.map((item) => item.task).filter((name) => name !== null))].sort();
    task.append(...tasks.map((name) => new Option(name, name)));
    const haystack = new Map(
      data.sample.map((item) => [
        item,
        [item.id, item.text, item.teacher, item.student, item.refined].filter(Boolean).join("\n").toLowerCase(),
      ]),
    );
    let matches = [];
    let shown = 0;
    const extend = () => {
      list.append(...matches.slice(shown, shown + PAGE).map(entry));
      shown = Math.min(matches.length, shown + PAGE);
      more.hidden = shown === matches.length;
      found.textContent = matches.length
        ? `${matches.length} of the ${data.sample.length} in the sample; ${shown} shown`
        : "No instruction of the sample matches.";
      measure();
    };
    const search = () => {
      const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
      matches = data.sample.filter(
        (item) =>
          (!task.value || item.task === task.value) &&
          (!fate.value || item.fate === fate.value) &&
          words.every((word) => haystack.get(item).includes(word)),
      );
      shown = 0;
      list.replaceChildren();
      extend();
    };
    form.addEventListener("input", search);
    form.addEventListener("submit", (event) => event.preventDefault());
    more.addEventListener("click", extend);
    search();
  };

  document.querySelectorAll(".sortable").forEach(sortable);
  if (document.getElementById("items")) browse();
  draw();
  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
  addEventListener("beforeprint", () => {
    root.dataset.paper = ""; // paper is light
    if (dark.matches) draw();
  });
  addEventListener("afterprint", () => {
    delete root.dataset.paper;
    if (dark.matches) draw();
  });
  addEventListener("resize", () => requestAnimationFrame(measure));
})();
