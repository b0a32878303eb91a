// What all pages do: they ask for the state twice a second, draw what has changed, and say what went wrong.
"use strict";

const $ = id => document.getElementById(id);

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const pill = (text, kind) => element("span", text, { class: `pill ${kind}` });

/** A row of a table; numbers are put to the right. */
function row(cells, kind) {
  const tr = element("tr");
  if (kind) tr.className = kind;
  for (const cell of cells) {
    const td = element("td", cell instanceof Node ? undefined : cell);
    if (cell instanceof Node) td.append(cell);
    if (typeof cell === "number") td.className = "number";
    tr.append(td);
  }
  return tr;
}

/** The rows of a table's body. Each cell knows its column's name, for windows that are too narrow for columns. */
function fill(id, rows) {
  const heads = [...$(id).closest("table").querySelectorAll("th")].map(head => head.textContent);
  for (const tr of rows) [...tr.cells].forEach((cell, column) => { cell.dataset.head = heads[column] || ""; });
  $(id).replaceChildren(...rows);
}

/** Options of a select; what is chosen stays. Each is [value, text]. */
function choices(select, options) {
  const was = select.value;
  select.replaceChildren(...options.map(([value, text]) => element("option", text, { value })));
  if (options.some(([value]) => value === was)) select.value = was;
}

const AWAY = "The demo itself does not answer any more.";
const BLIND = "What is shown is not new: the demo can't look into its servers just now.";

function problem(text) { $("problem").textContent = text || ""; }

/** What a button does. Gives the answer, or nothing when it was refused; then the page says why. */
async function post(path, body) {
  try {
    const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body || {}) };
    const answer = await fetch(path, request);
    const text = await answer.text();
    const unreadable = answer.status === 400 || answer.status === 422;
    problem(answer.ok ? "" : unreadable ? "Something is missing here, or too large." : text.trim());
    refresh();
    if (answer.ok) return text ? JSON.parse(text) : {};
  } catch {
    problem(AWAY);
  }
}

function button(text, action, off, label) {
  const made = element("button", text, { type: "button", "aria-label": label || text });
  made.disabled = !!off;
  made.onclick = async () => {
    made.disabled = true;
    await action();
    made.disabled = !!off;
  };
  return made;
}

/** A button that is in the HTML already. */
function pressed(id, action) {
  $(id).onclick = async () => {
    $(id).disabled = true;
    await action();
    $(id).disabled = false;
  };
}

/** A form in the HTML. `send` gets its fields by name, once all of them are as they should be. */
function form(id, send) {
  $(id).noValidate = true;
  $(id).onsubmit = event => {
    event.preventDefault();
    const fields = [...event.target.elements].filter(field => field.name);
    for (const field of fields) {
      field.removeAttribute("aria-invalid");
      if (field.type === "text") field.value = field.value.trim();
    }
    const wrong = fields.find(field => !field.checkValidity());
    if (!wrong) return send(Object.fromEntries(new FormData(event.target)));
    wrong.setAttribute("aria-invalid", "true");
    wrong.focus();
    problem(`${wrong.labels[0].firstChild.textContent.trim()}: ${wrong.validationMessage}`);
  };
}

const shown = {};

/** Draws a part only when it has changed, so that open mails stay. `build` gets what was shown before. */
function part(id, state, build) {
  const text = JSON.stringify(state);
  if (shown[id] === text) return;
  const before = shown[id];
  shown[id] = text;
  const focused = document.activeElement, label = focused.ariaLabel;
  build(before && JSON.parse(before));
  // whoever uses a keyboard stays at the button that was drawn anew
  if (label && !focused.isConnected) document.querySelector(`[aria-label="${CSS.escape(label)}"]`)?.focus();
}

function processes(state) {
  part("processes", state.processes, () => $("processes").replaceChildren(...state.processes.map(process => {
    const { name, what, pid } = process;
    const card = element("div", undefined, { class: "card" });
    const title = element("h2", `${name} `);
    title.append(pid ? pill("running", "up") : pill("stopped", "down"));
    const go = action => () => post(`/processes/${name}/${action}`);
    const buttons = element("div", undefined, { class: "buttons" });
    buttons.append(
      button("Start", go("start"), pid, `start ${name}`),
      button("Stop", go("stop"), !pid, `stop ${name}`),
      button("kill -9", go("kill"), !pid, `kill ${name}`),
    );
    card.append(title, element("p", what, { class: "soft" }), buttons);
    return card;
  })));
}

function mails(state, none) {
  if (!state.mails) return;
  part("mails", state.mails, () => {
    const drawn = state.mails.map((mail, number) => {
      const details = element("details");
      details.open = number === 0;
      details.append(element("summary", `${mail.subject} · to ${mail.to.join(", ")}`), element("pre", mail.body.trim()));
      return details;
    });
    $("mails").replaceChildren(...(drawn.length ? drawn : [element("p", none, { class: "soft" })]));
  });
}

let query = () => "";
let draw = () => {};
let refreshing = false;

async function refresh() {
  if (refreshing) return;
  refreshing = true;
  let state, trouble;
  try {
    const answer = await fetch(`/state${query()}`);
    if (answer.ok) state = await answer.json();
    else trouble = BLIND;
  } catch {
    trouble = AWAY;
  }
  refreshing = false;
  if (trouble || [AWAY, BLIND].includes($("problem").textContent)) problem(trouble);
  if (!state) return;
  draw(state);
  processes(state);
  part("said", state.said, () => { $("said").textContent = state.said.join("\n"); });
}

/** Begins. `drawing` draws the state; `asking` gives what is added to the address of it. */
function live(drawing, asking) {
  draw = drawing;
  if (asking) query = asking;
  refresh();
  setInterval(refresh, 500);
}
