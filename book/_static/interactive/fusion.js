// A fusion module at work on a face: the reader moves its three weights, and switches the sigmoid on and off.

// The cell gives one channel of F1, F2, and Fm, in thousandths, and the weights that were learned.
function fusion({ figure, size, maps, learned, limit }) {
  const { make } = figures;
  const view = new DataView(figures.bytes(maps).buffer);
  const pixels = size * size;
  const inputs = [0, 1, 2].map((k) =>
    Array.from({ length: pixels }, (_, i) => view.getInt16(2 * (k * pixels + i), true) / 1000));

  const [names, pictures] = [["F₁", "F₂", "Fₘ", "output"], make("div", { class: "interactive-maps" })];
  const draw = names.map((name) => {
    const canvas = make("canvas", { width: size, height: size, role: "img" });
    pictures.append(make("div", {}, canvas, name));
    return (values, words) => {
      figures.paint(canvas, values.map((value) => 127.5 * (1 + value / limit)), size);
      canvas.setAttribute("aria-label", words);
    };
  });
  inputs.forEach((values, k) => draw[k](values, `${names[k]}, a feature map of a face`));

  const [low, high, bins] = [-3, 6, 36];
  const { x, y, frame, outline } = figures.panel({
    left: 42, top: 20, width: 348, height: 120, x: [low, high], y: [0, 0.6], xTicks: [-3, 0, 3, 6], yTicks: [],
    title: "number of pixels", xTitle: "value; the ends count what is beyond them, too",
  });
  const kinds = ["completed", "printed"];
  const areas = kinds.map((kind) => make("svg:path", { class: `interactive-area interactive-${kind}` }));
  const curve = make("svg:path", { class: "interactive-ideal" });
  frame.append(curve);
  const drawing = make("svg:svg", { viewBox: "0 0 400 176", role: "img", class: "interactive-plot interactive-wide" },
    ...areas, frame);
  const legend = ["before the activation", "after the sigmoid"].map((words, k) =>
    make("li", { class: `interactive-${kinds[k]}` }, words));
  legend.push(make("li", { class: "interactive-dashed" }, "the sigmoid's slope, at most 0.25"));
  const told = make("p", { class: "interactive-told", "aria-live": "polite" });

  const histogram = (values) => { // the ends count what is outside as well
    const counts = Array(bins).fill(0);
    for (const value of values) {
      counts[Math.max(0, Math.min(bins - 1, Math.floor((bins * (value - low)) / (high - low))))] += 1 / pixels;
    }
    return outline(counts);
  };
  const s = (value) => 1 / (1 + Math.exp(-value));
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const state = { w: [...learned], sigmoid: false };

  const show = () => {
    const sum = inputs[0].map((_, i) => state.w.reduce((total, w, k) => total + w * inputs[k][i], 0));
    const output = state.sigmoid ? sum.map(s) : sum;
    const slope = state.sigmoid ? mean(output.map((value) => value * (1 - value))) : 1;
    const average = mean(output);
    const deviation = Math.sqrt(mean(output.map((value) => (value - average) ** 2)));
    areas[0].setAttribute("d", histogram(sum));
    areas[1].setAttribute("d", state.sigmoid ? histogram(output) : "");
    const points = Array.from({ length: 91 }, (_, i) => low + ((high - low) * i) / 90);
    const slopes = points.map((value) => `${x(value)} ${y(2 * s(value) * (1 - s(value)))}`);
    curve.setAttribute("d", state.sigmoid ? `M${slopes.join("L")}` : "");
    for (const item of legend.slice(1)) item.style.visibility = state.sigmoid ? "visible" : "hidden"; // keeps its place
    const words = `mean ${average.toFixed(3)}, standard deviation ${deviation.toFixed(3)}`;
    draw[3](output, `The output map: ${words}`);
    drawing.setAttribute("aria-label", `Histogram of the output: ${words}.`);
    told.textContent = `Output: ${words}. The mean slope of the activation is ${slope.toFixed(3)}.`;
  };

  const sliders = ["w₁", "w₂", "w₃"].map((label, k) => figures.slider({
    label, min: -2, max: 4, step: 0.05, write: (w) => w.toFixed(2), change: (w) => { state.w[k] = w; show(); },
  }));
  const setAll = (w) => sliders.forEach(({ set }, k) => set(w[k]));
  const box = make("input", { type: "checkbox" });
  box.addEventListener("change", () => { state.sigmoid = box.checked; show(); });
  const buttons = make("p", { class: "interactive-buttons" },
    figures.button(`As learned: ${learned.map((w) => w.toFixed(2)).join(", ")}`, () => setAll(learned)),
    figures.button("As at the start: 1, 1, 1", () => setAll([1, 1, 1])),
    make("label", { class: "interactive-check" }, box, " Sigmoid"));
  const list = make("ul", { class: "interactive-branches" }, ...legend);
  figures.replace(figure, ...sliders.map(({ row }) => row), buttons, pictures, list, drawing, told);
  setAll(learned);
}

figures.data("fusion").forEach(fusion);
