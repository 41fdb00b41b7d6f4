// The rendered faces of "A face to play with": tiles of sheets, what covers them, and the camera's blur and noise.
// faces.json says what the sheets' rows and columns are; book/_tools/play_faces.py renders them.

import { IMAGE_SIZE } from "../demo/crop.js";

const AREA = IMAGE_SIZE ** 2;

async function download(path) {
  const response = await fetch(new URL(path, import.meta.url));
  if (!response.ok) throw new Error(`${path}: the server answered ${response.status}`);
  return response;
}

// What can be set, and to which values. The first five are sliders.
export async function loadChoices() {
  const { people, expressions, strengths, yaws, lights, covers } = await (await download("faces.json")).json();
  const steps = (count, step) => Array.from({ length: count }, (_, i) => i * step);
  return {
    strength: strengths,
    yaw: yaws, // degrees, to the head's left
    light: lights, // degrees, to the camera's right
    blur: steps(9, 0.25), // standard deviation, pixels
    noise: steps(9, 5), // standard deviation, gray levels
    person: steps(people, 1).map((i) => i + 1),
    expression: expressions,
    cover: covers,
  };
}

async function loadSheet(path) {
  const picture = await createImageBitmap(await (await download(path)).blob(), { colorSpaceConversion: "none" });
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: picture.width, height: picture.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const { data } = context.getImageData(0, 0, picture.width, picture.height);
  return { width: picture.width, levels: Uint8Array.from({ length: data.length / 4 }, (_, i) => data[4 * i]) };
}

const people = new Map();

// The two sheets of a person, loaded once; a load that failed is tried again.
export function loadPerson(number) {
  if (!people.has(number)) {
    const sheets = Promise.all([loadSheet(`faces-${number}.webp`), loadSheet(`covers-${number}.webp`)]);
    people.set(number, sheets);
    sheets.catch(() => people.delete(number));
  }
  return people.get(number);
}

function tile({ levels, width }, row, column) {
  const start = row * IMAGE_SIZE * width + column * IMAGE_SIZE;
  return Float32Array.from({ length: AREA }, (_, i) => {
    return levels[start + Math.floor(i / IMAGE_SIZE) * width + (i % IMAGE_SIZE)];
  });
}

// The 48x48 gray levels of a state: for each choice, the position in its list of values.
export function photograph([faces, covers], choices, state) {
  const column = state.yaw * choices.light.length + state.light;
  const strengths = choices.strength.length - 1; // without 0, the neutral face in row 0
  const row = state.strength ? state.expression * strengths + state.strength : 0;
  let image = tile(faces, row, column);
  if (state.cover) {
    const gray = tile(covers, 2 * state.cover - 2, column); // times opacity
    const opacity = tile(covers, 2 * state.cover - 1, column);
    image = image.map((level, i) => gray[i] + (1 - opacity[i] / 255) * level);
  }
  image = blurred(image, choices.blur[state.blur]);
  const deviation = choices.noise[state.noise];
  return Uint8ClampedArray.from(image, (level, i) => Math.round(level + deviation * NOISE[i]));
}

// Gaussian, in rows and then in columns; beyond the edge, the edge is repeated.
function blurred(image, deviation) {
  if (!deviation) return image;
  const reach = Math.ceil(3 * deviation);
  const weights = Array.from({ length: 2 * reach + 1 }, (_, k) => Math.exp(-((k - reach) ** 2) / (2 * deviation ** 2)));
  const sum = weights.reduce((a, b) => a + b);
  const last = IMAGE_SIZE - 1;
  const along = (source, place) => Float32Array.from({ length: AREA }, (_, i) => {
    const [y, x] = [Math.floor(i / IMAGE_SIZE), i % IMAGE_SIZE];
    return weights.reduce((total, weight, k) => total + weight * source[place(y, x, k - reach)], 0) / sum;
  });
  const inside = (place) => Math.min(Math.max(place, 0), last);
  const rows = along(image, (y, x, k) => y * IMAGE_SIZE + inside(x + k));
  return along(rows, (y, x, k) => inside(y + k) * IMAGE_SIZE + x);
}

// One pattern of standard normal numbers, always the same, so that a link shows the same face.
const NOISE = (() => {
  let seed = 1;
  const uniform = () => (seed = (16807 * seed) % 2147483647) / 2147483647; // Park and Miller 1988
  return Float32Array.from({ length: AREA }, () => {
    return Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()); // Box and Muller 1958
  });
})();
