// Two figures of the chapter on calibration: a temperature, and a threshold, that the reader moves.

const BINS = 10;
const Z = 1.959964; // of a 95 % interval

// What the cell hands over: log probabilities in thousandths, N x classes, and the right label of each image.
function unpack({ log_probabilities, labels, classes }) {
  const view = new DataView(figures.bytes(log_probabilities).buffer);
  const scores = Array.from({ length: view.byteLength / 2 }, (_, i) => view.getInt16(2 * i, true) / 1000);
  const rows = Array.from(labels, (_, i) => scores.slice(i * classes.length, (i + 1) * classes.length));
  return { rows, labels: [...labels].map(Number) };
}

// softmax(row / T): its largest probability, where it is, and the log probability of the right label.
function classify(row, label, temperature) {
  const scaled = row.map((score) => score / temperature);
  const top = Math.max(...scaled);
  const total = scaled.reduce((sum, score) => sum + Math.exp(score - top), 0);
  return { confidence: 1 / total, predicted: scaled.indexOf(top), log: scaled[label] - top - Math.log(total) };
}

function reliability(found, labels) {
  const bins = Array.from({ length: BINS }, () => ({ count: 0, right: 0, confidence: 0 }));
  found.forEach(({ confidence, predicted }, i) => {
    const bin = bins[Math.min(BINS, Math.max(1, Math.ceil(confidence * BINS))) - 1]; // with its upper edge
    bin.count += 1;
    bin.right += predicted === labels[i];
    bin.confidence += confidence;
  });
  const gaps = bins.reduce((sum, { right, confidence }) => sum + Math.abs(right - confidence), 0);
  return { bins, error: gaps / labels.length };
}

// Wilson's interval of a proportion.
function wilson(right, count) {
  const [p, z] = [right / count, (Z * Z) / count];
  const half = Z * Math.sqrt((p * (1 - p)) / count + z / (4 * count));
  return [(p + z / 2 - half) / (1 + z), (p + z / 2 + half) / (1 + z)];
}

function temperatureFigure(figure, { rows, labels }, fitted) {
  const { make, percent } = figures;
  const [left, top, side] = [46, 8, 260];
  const x = (p) => left + side * p;
  const y = (p) => top + side * (1 - p);
  const drawing = make("svg:svg", { viewBox: "0 0 330 316", role: "img", class: "interactive-plot" });
  const frame = make("svg:g", { class: "interactive-axes" });
  for (const p of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
    frame.append(
      make("svg:text", { x: x(p), y: y(0) + 16, "text-anchor": "middle" }, percent(p, 0)),
      make("svg:text", { x: left - 6, y: y(p) + 4, "text-anchor": "end" }, percent(p, 0)),
    );
  }
  frame.append(
    make("svg:path", { d: `M${x(0)} ${y(1)}V${y(0)}H${x(1)}` }),
    make("svg:path", { d: `M${x(0)} ${y(0)}L${x(1)} ${y(1)}`, class: "interactive-ideal" }),
    make("svg:text", { x: x(0.5), y: y(0) + 36, "text-anchor": "middle" }, "confidence: top probability"),
    make("svg:text", { x: x(0) + 6, y: y(1) + 12 }, "percentage right"),
  );
  const bars = make("svg:g");
  drawing.append(bars, frame);
  const told = make("p", { class: "interactive-told", "aria-live": "polite" });

  const show = (power) => {
    const temperature = 2 ** power;
    const found = rows.map((row, i) => classify(row, labels[i], temperature));
    const { bins, error } = reliability(found, labels);
    bars.replaceChildren();
    bins.forEach(({ count, right }, i) => {
      if (!count) return;
      const [low, high] = wilson(right, count);
      const middle = x((i + 0.5) / BINS);
      bars.append(
        make("svg:rect", {
          class: "interactive-bar", x: x(i / BINS) + 0.5, width: side / BINS - 1,
          y: y(right / count), height: (side * right) / count,
        }),
        make("svg:path", { class: "interactive-interval", d: `M${middle} ${y(low)}V${y(high)}` }),
      );
    });
    const mean = (of) => found.reduce((sum, one, i) => sum + of(one, i), 0) / found.length;
    const confidence = mean((one) => one.confidence);
    const accuracy = mean((one, i) => one.predicted === labels[i]);
    const trust = confidence < accuracy ? "underconfident" : "overconfident";
    const words =
      `Mean confidence ${percent(confidence)}, accuracy ${percent(accuracy)}: ${trust} on average. Calibration error ${percent(error)} ` +
      `with ${BINS} bins, negative log-likelihood ${(-mean((one) => one.log)).toFixed(3)}.`;
    told.textContent = words;
    drawing.setAttribute("aria-label", `Accuracy by confidence at temperature ${temperature.toFixed(2)}. ${words}`);
  };

  const { row, set } = figures.slider({
    label: "Temperature", min: -2, max: 2, step: 0.02, write: (power) => (2 ** power).toFixed(2), change: show,
  });
  const buttons = make("p", { class: "interactive-buttons" },
    figures.button("As trained: 1", () => set(0)),
    figures.button(`Fitted: ${fitted.toFixed(2)}`, () => set(Math.log2(fitted))));
  figures.replace(figure, row, buttons, drawing, told);
  figures.caption(figure, "As trained, the network is underconfident; one number, the temperature, repairs that. Accuracy by " +
    "confidence on FER2013's PrivateTest, with 95 % intervals; on the diagonal, a confidence of 80 % means that four out of " +
    "five are right. A bin with few images has a long interval.");
  set(0);
}

function thresholdFigure(figure, { rows, labels }, classes, temperature, chosen) {
  const { make, percent } = figures;
  const found = rows.map((row, i) => classify(row, labels[i], temperature));
  const counts = classes.map((_, k) => labels.filter((label) => label === k).length);
  const table = make("tbody");
  const lines = classes.map((name, k) => {
    const [bar, number] = [make("span"), make("td")];
    const drawn = make("td", { "aria-hidden": "true" }, bar);
    return { k, bar, number, row: make("tr", {}, make("th", { scope: "row" }, name), drawn, number) };
  });
  const told = make("p", { class: "interactive-told", "aria-live": "polite" });

  const show = (threshold) => {
    const kept = found.map((one) => one.confidence >= threshold);
    const covered = kept.filter(Boolean).length;
    const right = found.filter((one, i) => kept[i] && one.predicted === labels[i]).length;
    const share = counts.map((count, k) => labels.filter((label, i) => label === k && kept[i]).length / count);
    for (const { k, bar, number } of lines) {
      bar.style.width = `${100 * share[k]}%`;
      number.textContent = percent(share[k], 0);
    }
    told.textContent =
      `It labels ${percent(covered / labels.length)} of the images` +
      (covered ? `, and ${percent(right / covered)} of these ${covered.toLocaleString("en")} labels are right.` : ".");
  };

  const { row, set } = figures.slider({
    label: "Threshold", min: 0, max: 1, step: 0.005, write: (p) => percent(p), change: show,
  });
  lines.sort((a, b) => counts[b.k] - counts[a.k]).forEach((line) => table.append(line.row));
  const buttons = make("p", { class: "interactive-buttons" },
    figures.button("Never abstain: 0", () => set(0)),
    figures.button(`Chosen on PublicTest: ${percent(chosen)}`, () => set(chosen)));
  const caption = make("caption", {}, "Images that are still labeled, by FER2013's label");
  figures.replace(figure, row, buttons, make("table", { class: "interactive-bars" }, caption, table), told);
  set(chosen);
}

for (const data of figures.data("calibration")) {
  const predictions = unpack(data);
  temperatureFigure(data.figures.temperature, predictions, data.temperature);
  thresholdFigure(data.figures.threshold, predictions, data.classes, data.temperature, data.threshold);
}
