// One face, and twelve draws of its augmentation, whose strengths the reader moves.

// fertools/training/augmentation.py for one image, in the same order. `u` has the draw's random numbers in [0, 1).
function augmentFace(face, size, config, u) {
  const pixel = (image, row, column) =>
    row < 0 || column < 0 || row >= size || column >= size ? 0 : image[size * row + column];
  const each = (change) => {
    const image = new Float64Array(face.length);
    image.forEach((_, i) => { image[i] = change(Math.floor(i / size), i % size); });
    return image;
  };
  const mean = (image) => image.reduce((sum, level) => sum + level, 0) / image.length;
  const signed = (number) => 2 * number - 1;

  const [down, across] = [u[0], u[1]].map((number) => Math.floor(number * (2 * config.pad + 1)) - config.pad);
  const mirrored = u[2] < config.flip;
  let image = each((row, column) => pixel(face, row + down, (mirrored ? size - 1 - column : column) + across));

  if (config.rotate || config.zoom) {
    const angle = (config.rotate * Math.PI * signed(u[3])) / 180;
    const scale = 1 + config.zoom * signed(u[4]);
    const [cos, sin] = [Math.cos(angle) / scale, Math.sin(angle) / scale];
    const [center, cropped] = [(size - 1) / 2, image];
    image = each((row, column) => { // bilinear; what was outside is black
      const x = center + cos * (column - center) - sin * (row - center);
      const y = center + sin * (column - center) + cos * (row - center);
      const [left, top] = [Math.floor(x), Math.floor(y)];
      const line = (at) => (left + 1 - x) * pixel(cropped, at, left) + (x - left) * pixel(cropped, at, left + 1);
      return (top + 1 - y) * line(top) + (y - top) * line(top + 1);
    });
  }
  if (config.contrast) {
    const [factor, middle] = [1 + config.contrast * signed(u[5]), mean(image)];
    image = image.map((level) => Math.max(0, Math.min(255, (level - middle) * factor + middle)));
  }
  const erased = u[10] < config.erase;
  if (erased) {
    const [area, aspect, gray, whole] = [0.02 + 0.18 * u[6], 3 ** signed(u[7]), mean(image), image];
    const [height, width] = [area * aspect, area / aspect].map((square) => Math.min(1, Math.sqrt(square)) * size);
    const [top, left] = [u[8] * (size - height), u[9] * (size - width)];
    const inside = (place, start, length) => place + 0.5 >= start && place + 0.5 < start + length;
    image = each((row, column) =>
      inside(row, top, height) && inside(column, left, width) ? gray : pixel(whole, row, column));
  }
  return { image, mirrored, erased };
}

function augmentation({ figure, size, face: packed, numbers, recipes, start }) {
  const { make, percent } = figures;
  const face = figures.bytes(packed);
  const columns = 4;
  const gap = 2;
  const canvas = (across, down, words) => make("canvas", {
    width: across * (size + gap) - gap, height: down * (size + gap) - gap, role: "img", "aria-label": words,
  });
  const original = canvas(1, 1, "The original face");
  const draws = canvas(columns, numbers.length / columns, "");
  figures.paint(original, face, size);
  const told = make("p", { class: "interactive-told", "aria-live": "polite" });
  const config = { ...recipes[start] };
  let random = numbers;

  const show = () => {
    const drawn = random.map((u) => augmentFace(face, size, config, u));
    drawn.forEach(({ image }, k) => {
      const [x, y] = [k % columns, Math.floor(k / columns)].map((place) => place * (size + gap));
      figures.paint(draws, image, size, x, y);
    });
    const count = (key) => `${drawn.filter((one) => one[key]).length} of ${drawn.length}`;
    const change = drawn.reduce((sum, { image }) =>
      sum + image.reduce((total, level, i) => total + Math.abs(level - face[i]), 0), 0) / (drawn.length * face.length);
    const words = `Mirrored: ${count("mirrored")}. With a box: ${count("erased")}.`;
    draws.setAttribute("aria-label", `The face, changed at random. ${words}`);
    told.textContent = `${words} On average, the gray level of a pixel changes by ${change.toFixed(1)} of 255.`;
  };

  const spread = (p) => `±${percent(p, 0)}`;
  const sliders = [
    ["Flip, how often", "flip", 1, 0.05, (p) => percent(p, 0)],
    ["Shift", "pad", 16, 1, (pixels) => `±${pixels} px`],
    ["Rotation", "rotate", 90, 1, (degrees) => `±${degrees}°`],
    ["Zoom", "zoom", 0.9, 0.05, spread],
    ["Contrast", "contrast", 0.95, 0.05, spread],
    ["Erasing, how often", "erase", 1, 0.05, (p) => percent(p, 0)],
  ].map(([label, key, max, step, write]) => ({ key, ...figures.slider({
    label, min: 0, max, step, write, change: (value) => { config[key] = value; show(); },
  }) }));
  const setAll = (values) => sliders.forEach(({ key, set }) => set(values[key]));
  const buttons = make("p", { class: "interactive-buttons" },
    figures.button("Draw again", () => { random = random.map((u) => u.map(Math.random)); show(); }),
    ...Object.entries(recipes).map(([name, values]) => figures.button(name, () => setAll(values))));
  const pictures = make("div", { class: "interactive-draws" },
    make("div", {}, original, "original"), make("div", {}, draws, "twelve draws"));
  figures.replace(figure, pictures, buttons, ...sliders.map(({ row }) => row), told);
  figures.caption(figure, "Too strong an augmentation hides the expression. A rendered face, and twelve draws; move the " +
    "sliders, or choose a recipe.");
  setAll(config);
}

figures.data("augmentation").forEach(augmentation);
