// What the interactive figures share. Plain scripts, so that they also run in a page that is opened from a disk.

const SVG = "http://www.w3.org/2000/svg";

const figures = {
  // The data that cells of this page left for scripts of this kind, one for each cell.
  data(kind) {
    const places = document.querySelectorAll(`.page-data[data-kind="${kind}"] script`);
    return [...places].map((place) => JSON.parse(place.textContent));
  },

  // An element with attributes and children; names with "svg:" are of SVG.
  make(name, attributes = {}, ...children) {
    const element = name.startsWith("svg:")
      ? document.createElementNS(SVG, name.slice(4))
      : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  },

  // Puts the parts where the figure's image is. On paper, the image stays.
  replace(id, ...parts) {
    const image = document.querySelector(`#${id} img`);
    image.classList.add("interactive-still");
    image.loading = "eager"; // hidden, it would never be loaded
    image.after(figures.make("div", { class: "interactive" }, ...parts));
  },

  // What the caption says while the figure can be moved. On paper, the still image has its own.
  caption(id, words) {
    const still = document.querySelector(`#${id} .caption-text`);
    const moving = figures.make("span", { class: "interactive-caption" }, words);
    still.after(moving);
    still.classList.add("interactive-still");
  },

  // The bytes that Python's base64 wrote.
  bytes: (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)),

  // A labeled slider with its value next to it, { row, set }. Call set() once to begin; it also goes between two steps.
  slider({ label, min, max, step, write, change }) {
    const shown = figures.make("span", { class: "interactive-value" });
    const input = figures.make("input", { type: "range", min, max, step });
    const update = () => {
      shown.textContent = input.ariaValueText = write(Number(input.value));
      change(Number(input.value));
    };
    const set = (place) => {
      input.step = "any";
      input.value = place;
      update();
      input.step = step;
    };
    input.addEventListener("input", update);
    const row = figures.make("label", { class: "interactive-slider" }, label, input, shown);
    return { row, set };
  },

  button(words, press) {
    const button = figures.make("button", { type: "button", class: "interactive-button" }, words);
    button.addEventListener("click", press);
    return button;
  },

  // Draws a square of gray levels on a canvas; they are rounded, and cut off at 0 and 255.
  paint(canvas, levels, size, x = 0, y = 0) {
    const pixels = new ImageData(size, size);
    levels.forEach((level, i) => {
      pixels.data.fill(level, 4 * i, 4 * i + 3);
      pixels.data[4 * i + 3] = 255;
    });
    canvas.getContext("2d").putImageData(pixels, x, y);
  },

  // Axes in a drawing, { x, y, frame, outline }: where values are, the frame with its ticks and titles, and the path
  // of a histogram over all of x, cut off at the top.
  panel({ left, top, width, height, x: [x0, x1], y: [y0, y1], scale = Number, xTicks, yTicks, title, xTitle }) {
    const { make } = figures;
    const x = (value) => left + (width * (value - x0)) / (x1 - x0);
    const y = (value) => top + height * (1 - (scale(value) - scale(y0)) / (scale(y1) - scale(y0)));
    const frame = make("svg:g", { class: "interactive-axes" },
      make("svg:path", { d: `M${left} ${top}V${top + height}H${left + width}` }),
      make("svg:text", { x: left + 4, y: top - 7 }, title),
      make("svg:text", { x: left + width / 2, y: top + height + 31, "text-anchor": "middle" }, xTitle),
      ...xTicks.map((at) => make("svg:text", { x: x(at), y: top + height + 16, "text-anchor": "middle" }, at)),
      ...yTicks.map((at) => make("svg:text", { x: left - 5, y: y(at) + 4, "text-anchor": "end" }, at)));
    const outline = (heights) => {
      const tops = heights.map((height, i) =>
        `V${y(Math.min(y1, height))}H${x(x0 + ((i + 1) * (x1 - x0)) / heights.length)}`);
      return `M${x(x0)} ${y(y0)}${tops.join("")}V${y(y0)}Z`;
    };
    return { x, y, frame, outline };
  },

  percent: (p, digits = 1) => `${(100 * p).toFixed(digits)}\u00a0%`,
};
