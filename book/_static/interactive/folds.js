// Test frames and their nearest training frames under three kinds of folds: the reader chooses the folds and a frame.

// `frames` are [person, column, tile] in reading order; `kinds` give, for each frame, its fold and its nearest training
// frame [tile, distance, whose]; `tiles` are the labels of the images in the atlas.
function folds({ figure, atlas, across, frames, tiles, kinds, whose }) {
  const { make } = figures;
  const cell = 10;
  const [rows, columns] = [0, 1].map((part) => Math.max(...frames.map((frame) => frame[part])) + 1);
  const place = frames.map(([row, column]) => ({ x: column * cell + 3 * Math.floor(column / 3), y: row * cell }));
  const width = columns * cell + 3 * Math.floor(columns / 3);
  const grid = make("svg:svg", { viewBox: `0 0 ${width} ${rows * cell}`, role: "img", class: "interactive-grid" });
  const cells = place.map(({ x, y }, i) => {
    const square = make("svg:rect", { x: x + 0.5, y: y + 0.5, width: cell - 1, height: cell - 1 });
    square.addEventListener("pointerdown", () => choose(i));
    return square;
  });
  grid.append(...cells);

  const picture = (words) => {
    const image = make("div", { class: "interactive-tile", role: "img" });
    image.style.backgroundImage = `url(${atlas})`;
    image.style.backgroundSize = `${100 * across}%`;
    return { image, whole: make("figure", {}, image, make("figcaption", {}, words)) };
  };
  const pictures = [picture("test frame"), picture("nearest training frame")];
  const fill = ({ image }, tile) => {
    const [row, column] = [Math.floor(tile / across), tile % across];
    const down = Math.ceil(tiles.length / across);
    image.style.backgroundPosition = `${(100 * column) / (across - 1)}% ${(100 * row) / Math.max(down - 1, 1)}%`;
    image.ariaLabel = `A rendered face: ${tiles[tile]}`;
  };

  const told = make("p", { class: "interactive-told", "aria-live": "polite" });
  const buttons = Object.entries(kinds).map(([kind, { name }]) => {
    const button = figures.button(name, () => { state.kind = kind; show(); });
    button.dataset.kind = kind;
    return button;
  });

  const state = { kind: Object.keys(kinds)[0], frame: 0 };
  const show = () => {
    const { name, accuracy, fold, nearest } = kinds[state.kind];
    const [tile, distance, relation] = nearest[state.frame];
    for (const button of buttons) button.ariaPressed = String(button.dataset.kind === state.kind);
    cells.forEach((square, i) => square.setAttribute("class",
      `${fold[i] === fold[state.frame] ? "interactive-test" : "interactive-train"} ${i === state.frame ? "interactive-chosen" : ""}`));
    fill(pictures[0], frames[state.frame][2]);
    fill(pictures[1], tile);
    const [own, found] = [tiles[frames[state.frame][2]], tiles[tile]];
    told.textContent = `The nearest training frame is of ${whose[relation]}, ${distance.toFixed(1)} gray levels per pixel away; ` +
      `its label is ${found}, which is ${found === own ? "right" : `wrong: it's ${own}`}. ` +
      `With ${name} folds, nearest neighbor is right on ${figures.percent(accuracy)} of all frames.`;
    const together = fold.filter((number) => number === fold[state.frame]).length;
    grid.ariaLabel = `A row for each person, a square for each frame. With ${name} folds, ${together} of these ` +
      `${frames.length} frames are in the test fold of the chosen one.`;
  };
  const choose = (i) => {
    state.frame = i;
    const [person, column] = frames[i];
    frame.row.querySelector("input").max = frames.filter(([row]) => row === person).length;
    sliders.person.set(person + 1);
    sliders.frame.set(column + 1);
  };
  const go = (person, column) => {
    const found = frames.findIndex(([row, at]) => row === person && at === column);
    if (found >= 0 && found !== state.frame) choose(found);
    show();
  };
  const slider = (label, max, change) => figures.slider({ label, min: 1, max, step: 1, write: String, change });
  const person = slider("Person", rows, (n) => go(n - 1, Math.min(frames[state.frame][1], frames.filter(([row]) => row === n - 1).length - 1)));
  const frame = slider("Frame", columns, (n) => go(frames[state.frame][0], n - 1));
  const sliders = { person, frame };

  figures.replace(figure, make("div", { class: "interactive-buttons", role: "group", "aria-label": "Folds" }, ...buttons),
    grid, person.row, frame.row, make("div", { class: "interactive-pair" }, ...pictures.map(({ whole }) => whole)), told);
  figures.caption(figure, "With image-level folds, the nearest training image is usually a neighboring frame with the same " +
    "label. Each row is a person, each group of three squares a video, and blue is the chosen frame's test fold.");
  choose(0);
}

figures.data("folds").forEach(folds);
