"use strict";
const { header, tokens } = JSON.parse(document.getElementById("data").textContent);
const answer = document.querySelector(".answer");
const options = [...answer.querySelectorAll("[role=option]")];
const panel = document.querySelector(".panel");
const curve = document.querySelector(".curve svg");
const here = curve.querySelector(".here");
let current = 0; // where the arrow keys go on
let pinned = null; // the token that stays shown while the pointer is elsewhere

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function row(candidate) {
  const made = element("tr");
  made.className = candidate.tags.includes("drawn") ? "drawn" : "";
  const name = element("td");
  name.append(element("code", candidate.text, candidate.is_removed ? "out" : ""));
  if (candidate.tags.length) name.append(element("span", candidate.tags.join("; "), "tag"));
  made.append(name, ...candidate.cells.map((cell) => element("td", cell)));
  return made;
}

function show(index) {
  const token = tokens[index];
  const table = element("table");
  const head = element("tr");
  head.append(...header.map((name) => element("th", name)));
  table.append(head, ...token.candidates.map(row));
  const scroll = element("div", undefined, "scroll");
  scroll.append(table);
  panel.replaceChildren(element("p", `Token ${index + 1} of ${tokens.length}: ${token.facts}`), scroll);
  panel.hidden = false;
  options.forEach((option, place) => {
    option.classList.toggle("shown", place === index);
    option.setAttribute("aria-selected", String(place === index));
  });
  here.setAttribute("x1", index + 0.5);
  here.setAttribute("x2", index + 0.5);
  here.style.visibility = "visible";
}

function hide() {
  pinned = null;
  panel.hidden = true;
  here.style.visibility = "hidden";
  options.forEach((option) => {
    option.classList.remove("shown");
    option.setAttribute("aria-selected", "false");
  });
}

function restore() {
  if (pinned === null) hide();
  else show(pinned);
}

function moveTo(index) {
  options[current].tabIndex = -1;
  current = Math.min(Math.max(index, 0), options.length - 1);
  options[current].tabIndex = 0;
  options[current].focus();
}

function placeOf(event) {
  const option = event.target.closest("[role=option]");
  return option ? options.indexOf(option) : -1;
}

const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, PageDown: 10, PageUp: -10 };
answer.addEventListener("keydown", (event) => {
  if (event.key in steps) moveTo(current + steps[event.key]);
  else if (event.key === "Home") moveTo(0);
  else if (event.key === "End") moveTo(options.length - 1);
  else return;
  event.preventDefault();
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
answer.addEventListener("focusin", (event) => {
  const index = placeOf(event);
  if (index < 0) return;
  current = index;
  pinned = index;
  show(index);
});
answer.addEventListener("click", (event) => { const index = placeOf(event); if (index >= 0) moveTo(index); });
answer.addEventListener("pointerover", (event) => { const index = placeOf(event); if (index >= 0) show(index); });
answer.addEventListener("pointerleave", restore);

function placeOnCurve(event) {
  const box = curve.getBoundingClientRect();
  const share = (event.clientX - box.left) / box.width;
  return Math.min(options.length - 1, Math.max(0, Math.floor(share * options.length)));
}
curve.addEventListener("pointermove", (event) => show(placeOnCurve(event)));
curve.addEventListener("pointerleave", restore);
curve.addEventListener("click", (event) => moveTo(placeOnCurve(event)));
