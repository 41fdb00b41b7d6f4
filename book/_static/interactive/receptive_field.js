// What an output pixel of each branch sees of the face: the reader points at a place, and changes the module.

// For each branch and setting, the cell gives the first and the last image row that each output row depends on. The
// same holds for columns.
function receptiveFields({ figure, face, branches, fields }) {
  const { make } = figures;
  const size = 48;
  const canvas = make("canvas", { width: size, height: size });
  figures.paint(canvas, figures.bytes(face), size);
  const drawing = make("svg:svg", { viewBox: `0 0 ${size} ${size}`, role: "img", class: "interactive-face" },
    make("svg:image", { href: canvas.toDataURL(), width: size, height: size }));
  const boxes = Object.entries(branches).map(([name, color]) => {
    const box = make("svg:rect", { fill: "none", stroke: color, "stroke-width": 0.9 });
    const words = make("li");
    words.style.setProperty("--branch", color);
    drawing.append(box);
    return { name, box, words };
  });
  const point = make("svg:circle", { r: 0.8, class: "interactive-point" });
  drawing.append(point);

  const state = { across: 23, down: 25, units: 3, window: 5, module: 1 };
  const show = () => {
    const sizes = boxes.map(({ name, box, words }) => {
      const spans = fields[`${name} ${state.window} ${state.units} ${state.module}`];
      const of = (place) => spans[Math.floor((place * spans.length) / size)];
      const [[left, right], [top, bottom]] = [of(state.across), of(state.down)];
      const [width, height] = [right - left + 1, bottom - top + 1];
      for (const [key, value] of Object.entries({ x: left, y: top, width, height })) box.setAttribute(key, value);
      const cut = left === 0 || top === 0 || right === size - 1 || bottom === size - 1;
      words.textContent = `${name}: ${width}x${height} pixels${cut ? ", cut off at the edge" : ""}`;
      return words.textContent;
    });
    point.setAttribute("cx", state.across + 0.5);
    point.setAttribute("cy", state.down + 0.5);
    drawing.setAttribute("aria-label", `A face, and what one output pixel of each branch sees of it: ${sizes.join(", ")}.`);
  };

  const slider = (label, key, min, max, write, step = 1) => figures.slider({
    label, min, max, step, write, change: (value) => { state[key] = value; show(); },
  });
  const sliders = {
    across: slider("Column", "across", 0, size - 1, String),
    down: slider("Row", "down", 0, size - 1, String),
    units: slider("Units in a module", "units", 1, 4, String),
    window: slider("Widest window", "window", 3, 7, (k) => `${k}x${k}`, 2),
    module: slider("Module of the branch", "module", 1, 2, (n) => (n === 1 ? "first" : "second")),
  };
  const follow = (event) => {
    if (event.type === "pointermove" && event.pointerType === "touch" && !event.buttons) return;
    const place = drawing.getBoundingClientRect();
    const at = (offset, length) => Math.max(0, Math.min(size - 1, Math.floor((size * offset) / length)));
    sliders.across.set(at(event.clientX - place.left, place.width));
    sliders.down.set(at(event.clientY - place.top, place.height));
  };
  for (const kind of ["pointermove", "pointerdown"]) drawing.addEventListener(kind, follow);

  const list = make("ul", { class: "interactive-branches", "aria-live": "polite" }, ...boxes.map((box) => box.words));
  figures.replace(figure, drawing, list, ...Object.values(sliders).map(({ row }) => row));
  for (const [key, { set }] of Object.entries(sliders)) set(state[key]);
}

figures.data("receptive_field").forEach(receptiveFields);
