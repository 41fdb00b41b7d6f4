// The page "A face to play with": its controls, and the network's answer to every face that they make.

import { canRun, load } from "../demo/classify.js";
import { IMAGE_SIZE } from "../demo/crop.js";
import { loadChoices, loadPerson, photograph } from "./faces.js";

const TRIES = 60; // faces that "Find a face that fools it" looks at
const ADDRESS_AFTER = 400; // ms without a change; Safari allows 100 changes of the address in 30 s

const part = (name) => document.getElementById(`play-${name}`);
const say = (words) => (part("status").textContent = words);
const percent = (p) => `${Math.round(100 * p)}\u00a0%`;
const side = (angle, straight) => (angle ? `${Math.abs(angle)}° ${angle < 0 ? "left" : "right"}` : straight);

const SLIDERS = {
  strength: { label: "Strength", write: percent },
  yaw: { label: "Head turned", write: (angle) => side(angle, "straight") },
  light: { label: "Light from", write: (angle) => side(angle, "the front") },
  blur: { label: "Blur", write: (pixels) => `${pixels} px` },
  noise: { label: "Noise", write: (levels) => `${levels} of 255` },
};

let models; // what load() gives
let choices; // the values that each part of the state can have
let state = {}; // for each, the position of its value
let trail = "strength"; // the slider that moved last
let turn = 0; // grows with each change; work for an older one is dropped
let queue = Promise.resolve(); // the network looks at one face at a time
let addressTimer;

function make(name, attributes = {}, ...children) {
  const [kind, svg] = name.startsWith("svg:") ? [name.slice(4), true] : [name, false];
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", kind) : document.createElement(kind);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// --- Starting -------------------------------------------------------------------------------

if (canRun()) {
  Object.assign(part("start"), { hidden: false, disabled: false }); // Firefox keeps a disabled button when reloading
  say("This loads about 8 MB from this site, and nothing from anywhere else.");
} else {
  say("This browser cannot run the network: it lacks WebAssembly with SIMD. A browser of 2023 or later has it.");
}

part("start").addEventListener("click", async () => {
  part("start").disabled = true;
  say("Loading about 8 MB …");
  try {
    [models, choices] = await Promise.all([load(), loadChoices()]);
    readAddress();
    await loadPerson(choices.person[state.person]);
  } catch (error) {
    part("start").disabled = false;
    say(`The page could not be loaded (${error.message}). Check the connection, and press the button again.`);
    return;
  }
  say("");
  makeControls();
  writeControls();
  part("start").hidden = true;
  part("still").hidden = true;
  part("main").hidden = false;
  part("people").querySelector("input:checked").focus({ preventScroll: true });
  show();
});

// --- The address: a link shows the same face -----------------------------------------------------

function readAddress() {
  const words = new URLSearchParams(location.hash.slice(1));
  state = {
    strength: choices.strength.length - 1, yaw: choices.yaw.indexOf(0), light: choices.light.indexOf(30),
    expression: choices.expression.indexOf("happy"),
  };
  for (const [name, values] of Object.entries(choices)) {
    const place = values.findIndex((value) => String(value) === words.get(name));
    state[name] = place < 0 ? state[name] ?? 0 : place;
  }
}

function writeAddress() {
  const words = Object.entries(choices).map(([name, values]) => [name, values[state[name]]]);
  const address = `#${new URLSearchParams(words)}`;
  part("link").href = address;
  part("link").textContent = "Copy a link to this face";
  clearTimeout(addressTimer);
  addressTimer = setTimeout(() => history.replaceState(null, "", address), ADDRESS_AFTER);
}

part("link").addEventListener("click", async (event) => {
  if (!navigator.clipboard) return; // the link leads to itself, so the address has it
  event.preventDefault();
  await navigator.clipboard.writeText(part("link").href);
  part("link").textContent = "Copied";
});

window.addEventListener("hashchange", () => {
  const words = new URLSearchParams(location.hash.slice(1));
  if (part("main").hidden || !Object.keys(choices).some((name) => words.has(name))) return; // a heading of this page
  readAddress();
  show();
});

// --- Controls -----------------------------------------------------------------------------------

function choose(changes) {
  Object.assign(state, changes);
  const moved = Object.keys(changes);
  if (moved.length === 1 && moved[0] in SLIDERS) trail = moved[0];
  show();
}

function radios(name, picture) {
  return choices[name].map((value, place) => {
    const input = make("input", { type: "radio", name: `play-${name}`, value: place });
    input.addEventListener("click", () => choose({ [name]: place })); // again, too, after a load that failed
    return make("label", { class: "play-choice" }, input, picture ? picture(value) : String(value));
  });
}

function makeControls() {
  const portrait = (number) => make("img", {
    src: new URL(`person-${number}.webp`, import.meta.url), width: 60, height: 60, alt: `person ${number}`,
  });
  part("people").append(...radios("person", portrait));
  part("expressions").append(...radios("expression"));
  part("covers").append(...radios("cover"));
  for (const [name, { label }] of Object.entries(SLIDERS)) {
    const input = make("input", { type: "range", min: 0, max: choices[name].length - 1, step: 1, name: `play-${name}` });
    input.addEventListener("input", () => choose({ [name]: Number(input.value) }));
    const shown = make("span", { class: "interactive-value" });
    part("sliders").append(make("label", { class: "interactive-slider" }, label, input, shown));
  }
  part("bars").append(...models.about.classes.map((name) => make("tr", {},
    make("th", { scope: "row" }, name), make("td", { "aria-hidden": "true" }, make("span")), make("td"))));
  part("fool").addEventListener("click", fool);
}

function writeControls() {
  for (const name of ["person", "expression", "cover"]) {
    document.querySelector(`[name="play-${name}"][value="${state[name]}"]`).checked = true;
  }
  for (const [name, { write }] of Object.entries(SLIDERS)) {
    const input = document.querySelector(`[name="play-${name}"]`);
    input.value = state[name];
    input.ariaValueText = write(choices[name][state[name]]);
    input.nextElementSibling.textContent = input.ariaValueText;
  }
}

// --- Looking and showing -------------------------------------------------------------------------

// The network's probabilities for a state, or null if another change came first.
function look(mine, wanted) {
  queue = queue.then(async () => {
    const sheets = await loadPerson(choices.person[wanted.person]);
    if (mine !== turn) return null;
    const levels = photograph(sheets, choices, wanted);
    return { levels, probabilities: Array.from((await models.network(levels)).probabilities) };
  });
  queue = queue.catch((error) => {
    if (mine === turn) say(`This face could not be shown (${error.message}).`);
    return null;
  });
  return queue;
}

async function show() {
  const mine = ++turn;
  const shown = { ...state };
  part("trail").setAttribute("aria-busy", "true"); // until it is drawn for this state
  writeControls();
  writeAddress();
  const seen = await look(mine, shown);
  if (!seen || mine !== turn) return;
  say("");
  draw(seen, shown);
  const along = [];
  for (let place = 0; place < choices[trail].length; place++) {
    const there = await look(mine, { ...shown, [trail]: place });
    if (!there || mine !== turn) return;
    along.push(there.probabilities);
  }
  drawTrail(along, shown);
}

// "happy, 63 %", or "neutral" where nothing moves.
const rendered = (of) => (of.strength ? `${choices.expression[of.expression]}, ${percent(choices.strength[of.strength])}` : "neutral");
const meant = (of) => (of.strength ? choices.expression[of.expression] : "neutral");

function answer(probabilities) {
  const best = probabilities.indexOf(Math.max(...probabilities));
  return { best, name: models.about.classes[best], unsure: probabilities[best] < models.about.threshold };
}

function draw({ levels, probabilities }, shown) {
  const image = new ImageData(IMAGE_SIZE, IMAGE_SIZE);
  levels.forEach((level, i) => image.data.set([level, level, level, 255], 4 * i));
  part("face").getContext("2d").putImageData(image, 0, 0);
  const { best, name, unsure } = answer(probabilities);
  part("label").textContent = unsure ? "unsure" : name;
  part("told").textContent = `Rendered: ${rendered(shown)}. ` + (unsure
    ? `The network abstains: ${name}, ${percent(probabilities[best])}, is below its threshold of ${percent(models.about.threshold)}.`
    : `The network: ${name}, ${percent(probabilities[best])}.`);
  [...part("bars").rows].forEach((row, i) => {
    row.className = `${i === best ? "demo-best" : ""} ${unsure ? "demo-unsure" : ""}`;
    row.querySelector("span").style.width = `${100 * probabilities[i]}%`;
    row.cells[2].textContent = percent(probabilities[i]);
  });
}

// The probabilities along the slider that moved last: the rendered label and neutral, and the others in gray.
function drawTrail(along, shown) {
  const [left, right, top, bottom, width] = [40, 262, 8, 150, 340];
  const values = choices[trail];
  const x = (place) => left + ((right - left) * place) / (values.length - 1);
  const y = (p) => bottom - (bottom - top) * p;
  const svg = part("trail");
  const text = (words, attributes) => make("svg:text", attributes, words);
  const grid = [0, 0.5, 1].flatMap((p) => [
    make("svg:path", { d: `M${left} ${y(p)}H${right}`, class: "play-grid" }),
    text(percent(p), { x: left - 5, y: y(p) + 4, "text-anchor": "end" }),
  ]);
  const write = SLIDERS[trail].write;
  const ends = [0, values.length - 1].map((place) =>
    text(write(values[place]), { x: x(place), y: bottom + 16, "text-anchor": place ? "end" : "start" }));
  const here = make("svg:path", { d: `M${x(shown[trail])} ${top}V${bottom}`, class: "play-here" });
  const kind = (name) => (name === choices.expression[shown.expression] ? "play-meant" : name === "neutral" ? "play-neutral" : "play-other");
  const lines = models.about.classes.map((name, label) => make("svg:path", {
    d: along.map((p, place) => `${place ? "L" : "M"}${x(place).toFixed(1)} ${y(p[label]).toFixed(1)}`).join(""),
    class: `play-line ${kind(name)}`,
  }));
  // Names at the right ends, lowest first, pushed apart.
  let free = bottom + 8;
  const names = models.about.classes
    .map((name, label) => ({ name, peak: Math.max(...along.map((p) => p[label])), end: along.at(-1)[label] }))
    .filter(({ name, peak }) => peak >= 0.2 || kind(name) !== "play-other")
    .sort((a, b) => a.end - b.end)
    .map(({ name, end }) => {
      free = Math.min(y(end) + 4, free - 12);
      return text(name, { x: right + 6, y: free, class: kind(name) });
    });
  svg.setAttribute("aria-busy", "false");
  svg.replaceChildren(...grid, ...ends, here, ...lines, ...names);
  svg.setAttribute("viewBox", `0 0 ${width} 172`);
  const answers = along.map((p, place) => `${write(values[place])}: ${answer(p).name} ${percent(Math.max(...p))}`);
  svg.setAttribute("aria-label", `The most probable label along the slider ${SLIDERS[trail].label}: ${answers.join("; ")}.`);
  part("trail-title").textContent = `Probability of each label along “${SLIDERS[trail].label}”`;
}

// --- Fooling it ------------------------------------------------------------------------------------

// Of many random faces of this person, clearly expressed and clearly seen, the one whose wrong label is most probable.
async function fool() {
  const mine = ++turn;
  part("fool").disabled = true;
  const any = (name, from = 0) => from + Math.floor(Math.random() * (choices[name].length - from));
  let [worst, certainty] = [null, models.about.threshold];
  let tries = 0;
  while (tries < TRIES && mine === turn) {
    const tried = {
      ...state, blur: 0, noise: 0, expression: any("expression"), strength: any("strength", 5), yaw: any("yaw"),
      light: any("light"), cover: any("cover"),
    };
    const seen = await look(mine, tried);
    if (!seen) break;
    const { best, name } = answer(seen.probabilities);
    if (name !== meant(tried) && seen.probabilities[best] >= certainty) {
      [worst, certainty] = [tried, seen.probabilities[best]];
    }
    say(`Looked at ${++tries} of ${TRIES} faces …`);
  }
  part("fool").disabled = false;
  if (mine !== turn || tries < TRIES) return; // something else was chosen, or look() has said what failed
  if (worst) {
    trail = "strength"; // the slider whose curve says most about the new face
    choose(worst);
  } else say(`It was not fooled by any of ${TRIES} random faces: right, or unsure. Try again.`);
}
