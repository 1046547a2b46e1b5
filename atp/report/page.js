"use strict";
const byId = (id) => document.getElementById(id);
const read = (id) => JSON.parse(byId(id).textContent);

// Figures are drawn again when the colour scheme changes. On paper still pictures replace them.
// `ast` makes Vega interpret its expressions, so that the page's security policy need not allow eval.
const specs = read("specs");
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 34rem)");
// Panels share the width of the page; on a narrow page they are below each other.
function sized(place, spec) {
  if (!spec.facet) return spec;
  const columns = narrow.matches ? 1 : spec.columns, width = Math.floor(place.parentElement.clientWidth / columns) - 64;
  return { ...spec, columns, spec: { ...spec.spec, width } };
}
function draw(places) {
  const ink = dark.matches ? "#e6e9ed" : "#1b1f24", line = dark.matches ? "#2a3038" : "#e3e6ea";
  const text = { labelColor: ink, titleColor: ink, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 600 };
  const config = {
    background: "transparent", view: { stroke: null },
    legend: { ...text, orient: "bottom", columns: narrow.matches ? 1 : 2, labelLimit: 300, symbolStrokeWidth: 2 },
    header: { labelColor: ink },
    axis: { ...text, gridColor: line, domainColor: line, tickColor: line },
  };
  const options = {
    actions: false, ast: true, renderer: "svg", tooltip: { theme: dark.matches ? "dark" : "light" },
  };
  for (const place of places) {
    const description = place.closest("section").querySelector("h2").textContent;
    vegaEmbed(place, { ...sized(place, specs[place.dataset.figure]), description, config }, options);
  }
}
// A figure is drawn when the reader comes near it; until then its still picture has its place.
const near = new Set();
const watcher = new IntersectionObserver((entries) => {
  const places = entries.filter((entry) => entry.isIntersecting).map((entry) => entry.target.querySelector(".live"));
  draw(places.filter((place) => !near.has(place)));
  places.forEach((place) => near.add(place));
}, { rootMargin: "50%" });
document.querySelectorAll("figure").forEach((figure) => watcher.observe(figure));
for (const media of [dark, narrow]) media.addEventListener("change", () => draw(near));

// The list of sections is open where it has a column of its own.
const sections = document.querySelector("nav details"), column = matchMedia("(min-width: 62rem)");
const foldSections = () => { sections.open = column.matches; };
foldSections();
column.addEventListener("change", foldSections);
sections.addEventListener("click", (event) => { if (event.target.closest("a")) foldSections(); });

// A link to a folded table unfolds it.
function reveal() {
  const target = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
  const around = target && target.closest("details:not([open])");
  if (around) { around.open = true; target.scrollIntoView(); }
}
reveal();
addEventListener("hashchange", reveal);

// Tables are sorted by a click on a heading: upwards, downwards, then as they were. Groups of rows stay together, a row
// without a heading stays below the one before it, and cells without a value come last.
const UNITS = { min: 60, h: 3600, kB: 1e3, MB: 1e6, M: 1e6, GB: 1e9, G: 1e9 };
const NUMBER = /^(<?)\s*([−-]?)([\d,]+(?:\.\d+)?)\s*(\p{L}*)/u;
const TURNS = { ascending: "descending", descending: "none" };
function numberIn(text) {
  const [, less, minus, digits, unit] = NUMBER.exec(text) ?? [];
  if (digits === undefined) return undefined;
  return (minus ? -1 : 1) * (Number(digits.replaceAll(",", "")) - (less ? 1e-9 : 0)) * (UNITS[unit] ?? 1);
}
function sortBy(place, direction, bodies) {
  const textOf = ([row]) => (row.cells[place]?.firstChild?.textContent ?? "").trim().replace(/^–$/, "");
  const values = bodies.flatMap(({ blocks }) => blocks.map(textOf)).filter(Boolean);
  const numeric = values.every((text) => numberIn(text) !== undefined), sign = direction === "descending" ? -1 : 1;
  const compare = (one, other) => {
    if (!one || !other) return !one - !other;
    return sign * (numeric ? numberIn(one) - numberIn(other) : one.localeCompare(other, "en", { numeric: true }));
  };
  for (const { body, blocks } of bodies) {
    const sorted = direction === "none" ? blocks : blocks.toSorted((one, other) => compare(textOf(one), textOf(other)));
    body.append(...sorted.flat());
  }
}
for (const table of document.querySelectorAll("table.sortable")) {
  const bodies = [...table.tBodies].map((body) => ({ body, blocks: [] }));
  for (const { body, blocks } of bodies) {
    for (const row of body.rows) {
      const scope = row.cells[0].scope;
      if (scope === "row") blocks.push([row]);
      else if (scope !== "rowgroup") blocks.at(-1).push(row);
    }
  }
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, place) => {
    if (heading.scope !== "col") return;
    const button = element("button", "", heading.textContent);
    button.type = "button";
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const direction = TURNS[heading.getAttribute("aria-sort")] ?? "ascending";
      headings.forEach((each) => each.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", direction);
      sortBy(place, direction, bodies);
    });
  });
}

const folded = [...document.querySelectorAll("main details")];
let closed = [];
addEventListener("beforeprint", () => {
  closed = folded.filter((one) => !one.open);
  closed.forEach((one) => { one.open = true; });
});
addEventListener("afterprint", () => closed.forEach((one) => { one.open = false; }));

// Transcripts. Everything that an agent wrote is inserted as text, never as markup.
const files = read("transcripts");
const KINDS = { true: ["violate", "✗", "violated"], false: ["comply", "✓", "complied"], null: ["invalid", "?", "invalid"] };
const PICKS = ["variant", "scenario", "sample"];
let episode = null, at = 0;

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}
function message(who, text, className = "") {
  const box = element("div", `message ${className}`, "");
  box.append(element("b", "", who), element("span", "", text));
  return box;
}
function fill(select, values, texts, wanted) {
  select.replaceChildren(...values.map((value, number) => {
    const option = element("option", "", texts[number]);
    option.value = value;
    return option;
  }));
  select.value = values.map(String).includes(String(wanted)) ? wanted : values[0];
}
function outcome(turn) {
  const [kind, mark, word] = KINDS[turn.violation];
  const which = turn.invalid_reason ? ` (${turn.invalid_reason})` : turn.decision === kind ? "" : `: ${turn.decision}`;
  const checked = turn.audited === null ? "" : turn.audited ? ", checked" : ", not checked";
  return `${mark} ${word}${which}${checked}, earned ${turn.reward}`;
}
function show() {
  const turns = episode.turns, turn = turns[at], [kind] = KINDS[turn.violation];
  const several = new Set(turns.map((one) => one.agent)).size > 1;
  byId("turn").replaceChildren(
    ...turn.messages.map(([who, text]) => message(who, text)),
    message("reply", turn.reply, `reply ${kind}`),
    ...turn.further.map(([who, text]) => message(who === "tool" ? "tool" : "later reply in this round", text)),
    element("p", `outcome ${kind}`, outcome(turn)),
    ...(turn.feedback ? [message("feedback, shown in the agent's next prompt", turn.feedback)] : []),
  );
  byId("strip").replaceChildren(...turns.map((one, number) => {
    const [className, mark, word] = KINDS[one.violation];
    const place = several ? `${one.round}.${one.agent + 1}` : one.round;
    const button = element("button", className, `${place} ${mark}`);
    button.type = "button";
    button.setAttribute("aria-label", `round ${one.round}, ${several ? `player ${one.agent + 1}, ` : ""}${word}`);
    if (number === at) button.setAttribute("aria-current", "step");
    button.addEventListener("click", () => { at = number; show(); });
    return button;
  }));
  const who = several ? `, player ${turn.agent + 1} (${turn.role})` : "";
  byId("place").textContent = `round ${turn.round} of ${turns[turns.length - 1].round}${who}; ${episode.template}, ${episode.variant}`;
  byId("back").disabled = at === 0;
  byId("next").disabled = at === turns.length - 1;
}
function step(by) {
  const to = at + by;
  if (episode && to >= 0 && to < episode.turns.length) { at = to; show(); }
}

// Each choice narrows the next one; earlier choices stay selected where they are still available.
const inFile = () => files[byId("file").value].episodes;
function pick(wanted) {
  let left = inFile();
  for (const key of PICKS) {
    const values = [...new Set(left.map((one) => one[key]))];
    const texts = key === "scenario" ? values.map((id) => `${left.find((one) => one.scenario === id).template}, ${id}`) : values;
    fill(byId(key), values, texts, wanted[key]);
    left = left.filter((one) => String(one[key]) === byId(key).value);
  }
  episode = left[0];
  at = 0;
  const number = inFile().indexOf(episode);
  byId("before").disabled = number === 0;
  byId("after").disabled = number === inFile().length - 1;
  show();
}
const chosen = () => Object.fromEntries(PICKS.map((key) => [key, byId(key).value]));
function openFile() {
  const file = files[byId("file").value];
  byId("shown").textContent = `${file.episodes.length} of ${file.of} episodes of this file are in the page.`;
  pick(chosen());
}
if (files.length) {
  fill(byId("file"), files.map((_, number) => number), files.map((file) => file.label), 0);
  byId("file").addEventListener("change", openFile);
  PICKS.forEach((key) => byId(key).addEventListener("change", () => pick(chosen())));
  byId("before").addEventListener("click", () => pick(inFile()[inFile().indexOf(episode) - 1]));
  byId("after").addEventListener("click", () => pick(inFile()[inFile().indexOf(episode) + 1]));
  byId("back").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest?.("select, input, .scroll, pre")) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  openFile();
} else {
  byId("reader").hidden = true;
}
