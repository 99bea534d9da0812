"use strict";
// The gallery: a list that draws only the rows in view, the filters above it, and the chosen sample beside it.

const ROW = 64; // a row's height in CSS pixels, as in the style sheet
const SPARE = 8; // rows drawn beyond either edge of the view

const $ = (id) => document.getElementById(id);
const { runs, tasks, items } = JSON.parse($("data").textContent);
const pictures = JSON.parse($("pictures").textContent);
const list = $("list");
const tall = $("tall");
const stacked = matchMedia("(max-width: 760px)"); // the detail lies below the list, as in the style sheet
const selects = Object.fromEntries(
  ["task", "category", "run", "verdict", "rule", "change"].map((name) => [name, $(name)]),
);

const MARKS = { right: "✓", partly: "◐", wrong: "✗", none: "–" };
const WORDS = { right: "right", partly: "partly right", wrong: "wrong", none: "no answer" };
const CHANGES = {
  scores: "score differs",
  gained: "gained: score rose",
  lost: "lost: score fell",
  reworded: "answer differs, score the same",
  alone: "not in every run",
};

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function entry([task, id, category, prompt, gold, picture, answers]) {
  const said = answers.flatMap((a) => (a ? [a[0] ?? "", a[1]] : []));
  const text = [id, category, prompt, gold, ...said].join("\n").toLowerCase();
  return { task, id, category, prompt, gold, picture, answers, text };
}

function verdictOf(answer) {
  if (!answer || answer[0] === null) return "none";
  return answer[2] >= 1 ? "right" : answer[2] > 0 ? "partly" : "wrong";
}

function changeOf({ answers }, kind) {
  if (kind === "alone") return answers.includes(null);
  const given = answers.filter(Boolean);
  if (given.length < 2) return false;
  const [first, last] = [given[0], given[given.length - 1]];
  const differ = given.some((answer) => answer[2] !== first[2]);
  if (kind === "scores") return differ;
  if (kind === "gained") return last[2] > first[2];
  if (kind === "lost") return last[2] < first[2];
  return !differ && given.some((answer) => answer[0] !== first[0]);
}

const entries = items.map(entry);
let found = entries;
let chosen = 0;
const drawn = new Map();

function fill(select, options, all) {
  const kept = select.value;
  select.replaceChildren(
    ...(all ? [new Option(all, "")] : []),
    ...options.map(([value, text]) => new Option(text, value)),
  );
  if (options.some(([value]) => String(value) === kept)) select.value = kept;
}

function distinct(values) {
  return [...new Set(values)].filter(Boolean).sort().map((value) => [value, value]);
}

function fillDependent() {
  const task = selects.task.value;
  const within = task === "" ? entries : entries.filter((one) => one.task === Number(task));
  fill(selects.category, distinct(within.map((one) => one.category)), "all");
  fill(selects.rule, distinct(within.flatMap((one) => one.answers.map((a) => a && a[3]))), "all");
}

function filter() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const { task, category, run, verdict, rule, change } = Object.fromEntries(
    Object.entries(selects).map(([name, select]) => [name, select.value]),
  );
  const suits = (answer) =>
    (!verdict || verdictOf(answer) === verdict) && (!rule || (answer && answer[3] === rule));
  found = entries.filter(
    (one) =>
      (task === "" || one.task === Number(task)) &&
      (!category || one.category === category) &&
      (run === "" ? one.answers.some(suits) : suits(one.answers[Number(run)])) &&
      (!change || changeOf(one, change)) &&
      words.every((word) => one.text.includes(word)),
  );
  $("count").textContent = `${found.length.toLocaleString("en")} of ${entries.length.toLocaleString("en")}`;
  tall.style.height = `${found.length * ROW}px`;
  for (const row of drawn.values()) row.remove();
  drawn.clear();
  list.scrollTop = 0;
  choose(0);
}

function draw() {
  const from = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE);
  const to = Math.min(found.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + SPARE);
  for (const [number, row] of drawn) {
    if ((number < from || number >= to) && drawn.delete(number)) row.remove();
  }
  for (let number = from; number < to; number += 1) {
    if (!drawn.has(number)) {
      drawn.set(number, rowOf(found[number], number));
      tall.append(drawn.get(number));
    }
    drawn.get(number).setAttribute("aria-selected", String(number === chosen));
  }
  if (drawn.has(chosen)) list.setAttribute("aria-activedescendant", `row-${chosen}`);
  else list.removeAttribute("aria-activedescendant");
}

function thumbnailOf(one) {
  if (!pictures.length) return [];
  const source = one.picture >= 0 && pictures[one.picture];
  return [source ? element("img", { decoding: "async", src: source, alt: "" }) : element("span", { className: "blank" })];
}

function badge(answer) {
  const verdict = verdictOf(answer);
  const mark = element("span", { className: `mark ${verdict}`, textContent: MARKS[verdict] });
  mark.setAttribute("role", "img");
  mark.setAttribute("aria-label", WORDS[verdict]);
  return mark;
}

function rowOf(one, number) {
  const said = one.answers.map((answer) =>
    element("span", { className: "said" }, badge(answer), answer ? answer[1] || "(empty)" : "not asked"),
  );
  const row = element(
    "div",
    { className: "row", id: `row-${number}` },
    ...thumbnailOf(one),
    element(
      "div",
      { className: "lines" },
      element("div", { className: "question", textContent: one.prompt.split("\n")[0] }),
      element("div", { className: "answers" }, ...said),
    ),
    element("div", { className: "place" }, tasks[one.task], element("br"), one.category),
  );
  row.style.top = `${number * ROW}px`;
  row.setAttribute("role", "option");
  row.setAttribute("aria-setsize", String(found.length));
  row.setAttribute("aria-posinset", String(number + 1));
  row.addEventListener("click", () => {
    choose(number);
    if (stacked.matches) $("detail").scrollIntoView({ block: "start" });
  });
  return row;
}

function field(name, text, className = "") {
  const shown = text === "" ? "(empty)" : text;
  return [element("dt", { textContent: name }), element("dd", { textContent: shown, className })];
}

function answerOf(answer, number) {
  const verdict = verdictOf(answer);
  const head = element("h4", {}, badge(answer), ` ${runs[number]}: ${answer ? WORDS[verdict] : "not asked"}`);
  if (!answer) return element("section", { className: "answer" }, head);
  const [raw, parsed, score, rule] = answer;
  const facts = [
    ...field("Raw answer", raw ?? "(none)", "raw"),
    ...field("Parsed as", parsed),
    ...field("By the rule", rule),
    ...field("Score", String(score)),
  ];
  return element("section", { className: `answer ${verdict}` }, head, element("dl", {}, ...facts));
}

function choose(number) {
  chosen = Math.min(Math.max(number, 0), Math.max(found.length - 1, 0));
  const top = chosen * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  draw();
  show();
}

function show() {
  const one = found[chosen];
  if (!one) {
    $("detail").replaceChildren(element("p", { className: "empty", textContent: "No sample suits these filters." }));
    return;
  }
  const picture = one.picture >= 0 && pictures[one.picture];
  $("detail").replaceChildren(
    element("h3", { textContent: `${tasks[one.task]} ${one.id}` }),
    ...(one.category ? [element("p", { className: "category", textContent: one.category })] : []),
    ...(picture ? [element("img", { src: picture, alt: `The picture of ${one.id}` })] : []),
    element("p", { className: "prompt", textContent: one.prompt }),
    element("dl", {}, ...field("Correct answer", one.gold)),
    ...one.answers.map(answerOf),
  );
  $("detail").scrollTop = 0;
}

function move(event) {
  const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
  if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  choose(chosen + steps[event.key]);
}

fill(selects.task, tasks.map((name, number) => [number, name]), "all");
fill(selects.run, runs.map((name, number) => [number, name]), "any");
fill(selects.verdict, Object.entries(WORDS), "all");
fill(selects.change, Object.entries(CHANGES), "all");
for (const name of ["run", "change"]) selects[name].parentElement.hidden = runs.length < 2;
fillDependent();
$("search").addEventListener("input", filter);
selects.task.addEventListener("change", fillDependent);
for (const select of Object.values(selects)) select.addEventListener("change", filter);
$("filters").addEventListener("reset", () => setTimeout(() => (fillDependent(), filter())));
list.addEventListener("scroll", draw, { passive: true });
list.addEventListener("keydown", move);
new ResizeObserver(draw).observe(list);
filter();
