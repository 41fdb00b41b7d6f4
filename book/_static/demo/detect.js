// Where a face is, by MediaPipe's short-range detector (Bazarevsky et al. 2019, "BlazeFace"). Its boxes are
// turned into dlib's, around which fertools crops faces.

import { resize } from "./crop.js";

const SIZE = 128; // the detector's input, square
const MIN_SCORE = 0.5;
const SAME_FACE = 0.3; // overlap, intersection over union, from which two boxes are of one face

// dlib's box in terms of the detector's: how long its side is, and how far down its center, in sides. Medians
// over the faces that both found in 600 of FER2013's training images. The middle half of them is within
// 0.07 of the first and 0.05 of the second.
const DLIB_SIDE = 1.02;
const DLIB_DOWN = -0.02;

// Anchors of the detector's 896 boxes, as centers: two boxes at each of 16x16 places, six at each of 8x8.
const ANCHORS = [[16, 2], [8, 6]].flatMap(([places, boxes]) =>
  Array.from({ length: places * places * boxes }, (_, i) => {
    const place = Math.floor(i / boxes);
    return [((place % places) + 0.5) / places, (Math.floor(place / places) + 0.5) / places];
  }),
);

// The face in an image, as {left, top, right, bottom, score}, or null: of several, the largest.
// `detector` runs the detector on one square. It sees faces from about a fifth of the square's side, so
// where it finds none, the image is cut into overlapping squares, of 1 / `parts` of its longer side.
export async function findFace(detector, image, parts = [1, 2]) {
  for (const part of parts) {
    const faces = [];
    for (const region of squares(image, part)) {
      const planes = resize(image, region, SIZE).map((level) => level / 127.5 - 1);
      const { scores, boxes } = await detector(planes);
      faces.push(...decode(scores, boxes, region));
    }
    if (faces.length) return choose(faces);
  }
  return null;
}

// Squares that cover an image: one, around all of it, or overlapping by half.
function squares({ width, height }, part) {
  const side = Math.ceil(Math.max(width, height) / part);
  const starts = (length) => {
    if (length <= side) return [Math.floor((length - side) / 2)];
    const steps = Math.ceil((2 * (length - side)) / side);
    return Array.from({ length: steps + 1 }, (_, i) => Math.round((i * (length - side)) / steps));
  };
  return starts(height).flatMap((top) => starts(width).map((left) => ({ left, top, side })));
}

// The detector's numbers as faces in the image. Boxes that overlap are one face: their mean, by score.
function decode(scores, boxes, { left, top, side }) {
  const found = [];
  scores.forEach((logit, i) => {
    const score = 1 / (1 + Math.exp(-logit));
    if (score < MIN_SCORE) return;
    const [x, y, width, height] = boxes.subarray(i * 16, i * 16 + 4).map((value) => value / SIZE);
    found.push({ x: ANCHORS[i][0] + x, y: ANCHORS[i][1] + y, side: (width + height) / 2, score });
  });
  found.sort((a, b) => b.score - a.score);
  const faces = [];
  while (found.length) {
    const same = found.filter((box) => overlap(box, found[0]) > SAME_FACE);
    const total = same.reduce((sum, box) => sum + box.score, 0);
    const mean = (key) => same.reduce((sum, box) => sum + box.score * box[key], 0) / total;
    faces.push(toBox(left + side * mean("x"), top + side * mean("y"), side * mean("side"), found[0].score));
    found.splice(0, found.length, ...found.filter((box) => !same.includes(box)));
  }
  return faces;
}

function overlap(a, b) {
  const shared = (p, q) => Math.max(0, Math.min(p + a.side / 2, q + b.side / 2) - Math.max(p - a.side / 2, q - b.side / 2));
  const both = shared(a.x, b.x) * shared(a.y, b.y);
  return both / (a.side ** 2 + b.side ** 2 - both);
}

function toBox(x, y, side, score) {
  const dlib = Math.round(side * DLIB_SIDE);
  const left = Math.round(x - dlib / 2);
  const top = Math.round(y + DLIB_DOWN * side - dlib / 2);
  return { left, top, right: left + dlib, bottom: top + dlib, score };
}

// The largest of those with at least half the highest score.
function choose(faces) {
  const highest = Math.max(...faces.map((face) => face.score));
  return faces.filter((face) => face.score >= highest / 2).reduce((a, b) => (b.right - b.left > a.right - a.left ? b : a));
}
