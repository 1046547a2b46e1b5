"use strict";
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const byId = (id) => document.getElementById(id);

// Figures: drawn again whenever the reader's colour scheme changes; on paper always dark on white.
const dark = matchMedia("(prefers-color-scheme: dark)");
const draw = (onDark) => {
  const ink = onDark ? "#e6e9ed" : "#1b1f24", line = onDark ? "#3a424c" : "#e3e6ea";
  const text = { labelColor: ink, titleColor: ink, labelFontSize: 12, titleFontSize: 12 };
  const config = {
    background: "transparent", view: { stroke: null }, legend: text,
    axis: { ...text, gridColor: line, domainColor: ink, tickColor: ink },
  };
  for (const [name, spec] of Object.entries(read("specs"))) {
    vegaEmbed(byId(name), { ...spec, config }, { actions: false, renderer: "svg" });
  }
};
draw(dark.matches);
dark.addEventListener("change", () => draw(dark.matches));
addEventListener("beforeprint", () => {
  draw(false);
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
});
addEventListener("afterprint", () => draw(dark.matches));

// Transcripts. Everything an agent wrote is set as text.
const files = read("transcripts");
let round = 0;
const episodes = () => files[byId("file").value].episodes;
const turns = () => episodes()[byId("episode").value];

const element = (name, className, text) => {
  const made = document.createElement(name);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};
const message = (who, text, className = "") => {
  const box = element("div", `message ${className}`);
  box.append(element("b", "", who), document.createTextNode(text));
  return box;
};
const marks = { true: "✗", false: "✓", null: "?" };

function show() {
  const all = turns(), turn = all[round];
  const checked = turn.audited === null ? "" : turn.audited ? ", checked" : ", not checked";
  const reason = turn.invalid_reason ? ` (${turn.invalid_reason})` : "";
  const outcome = `${marks[turn.violation]} ${turn.decision}${reason}${checked}, earned ${turn.reward}`;
  const kind = { true: "violate", false: "comply", null: "invalid" }[turn.violation];
  byId("turn").replaceChildren(
    ...turn.messages.map(([who, text]) => message(who, text)),
    message("reply", turn.reply, "reply"),
    element("p", `outcome ${kind}`, outcome),
  );
  byId("place").textContent = `${turn.round} of ${all.length}`;
  byId("back").disabled = round === 0;
  byId("next").disabled = round === all.length - 1;
}
function step(by) {
  const to = round + by;
  if (to >= 0 && to < turns().length) { round = to; show(); }
}
function openFile() {
  const file = files[byId("file").value], names = Object.keys(file.episodes);
  byId("episode").replaceChildren(...names.map((name) => {
    const option = element("option", "", name);
    option.value = name;
    return option;
  }));
  byId("shown").textContent = `${names.length} of ${file.of} episodes of this file are in the page; the file has them all.`;
  openEpisode();
}
function openEpisode() { round = 0; show(); }

byId("file").replaceChildren(...files.map((file, number) => {
  const option = element("option", "", file.label);
  option.value = number;
  return option;
}));
byId("file").addEventListener("change", openFile);
byId("episode").addEventListener("change", openEpisode);
byId("back").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
addEventListener("keydown", (event) => {
  if (event.target.closest && event.target.closest("select, input, summary")) return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
if (files.length) openFile();
