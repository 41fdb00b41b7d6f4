// From an image to the 48x48 gray face that the network sees: fertools/data/faces.py, in JavaScript.
// A test compares both: they differ by one gray level at most.
// Images are {data, width, height}, as canvases give them: four bytes a pixel.

export const IMAGE_SIZE = 48;
const MARGIN = 0.1; // of the box's side, shown on each side of it
const LIFT = 0.1; // of the box's side: how far the square's center is above the box's

const clamp = (value, last) => Math.min(Math.max(value, 0), last);

// Python's round: halves round to the even neighbor.
const round = (x) => (x % 1 === 0.5 && Math.floor(x) % 2 === 0 ? Math.floor(x) : Math.round(x));

// The square around a face: the box, a margin, and lifted, since the boxes hang low.
export function square(box) {
  const longer = Math.max(box.right - box.left, box.bottom - box.top);
  const side = round(longer * (1 + 2 * MARGIN));
  return {
    left: box.left + Math.floor((box.right - box.left - side) / 2),
    top: box.top + Math.floor((box.bottom - box.top - side) / 2 - LIFT * longer),
    side,
  };
}

// The face in a box: 48x48 gray levels. Where the square leaves the image, the edge is repeated.
export function crop(image, box) {
  const planes = resize(image, square(box), IMAGE_SIZE);
  const area = IMAGE_SIZE ** 2;
  return Uint8ClampedArray.from({ length: area }, (_, i) => {
    return Math.round(0.299 * planes[i] + 0.587 * planes[area + i] + 0.114 * planes[2 * area + i]); // ITU-R BT.601
  });
}

// A square of an image, resampled to size x size. Shrinking averages over areas and enlarging is
// bicubic, as cv2.INTER_AREA and cv2.INTER_CUBIC. Returns the planes red, green and blue.
export function resize({ data, width, height }, { left, top, side }, size) {
  const { count, places, weights } = side >= size ? areaTaps(side, size) : cubicTaps(side, size);
  const columns = places.map((place) => clamp(left + place, width - 1) * 4);
  const planes = new Float32Array(3 * size * size);
  const narrow = new Float32Array(side * size); // columns done, rows not yet
  for (let channel = 0; channel < 3; channel++) {
    for (let y = 0; y < side; y++) {
      const row = clamp(top + y, height - 1) * width * 4 + channel;
      for (let x = 0, tap = 0; x < size; x++) {
        let sum = 0;
        for (let k = 0; k < count; k++, tap++) sum += weights[tap] * data[row + columns[tap]];
        narrow[y * size + x] = sum;
      }
    }
    for (let y = 0; y < size; y++) {
      for (let x = 0; x < size; x++) {
        let sum = 0;
        for (let tap = y * count; tap < (y + 1) * count; tap++) sum += weights[tap] * narrow[places[tap] * size + x];
        planes[(channel * size + y) * size + x] = sum;
      }
    }
  }
  return planes;
}

// For each of `target` pixels the `count` source pixels that it is made of, and their weights.
function taps(source, target, count, first, weight) {
  const places = new Int32Array(target * count);
  const weights = new Float32Array(target * count);
  for (let i = 0; i < target; i++) {
    for (let k = 0; k < count; k++) {
      places[i * count + k] = clamp(first(i) + k, source - 1);
      weights[i * count + k] = weight(i, first(i) + k);
    }
  }
  return { count, places, weights };
}

// Each target pixel is the mean over the source pixels that it covers, wholly or in part.
function areaTaps(source, target) {
  const scale = source / target;
  const covered = (i, place) => Math.min(place + 1, (i + 1) * scale) - Math.max(place, i * scale);
  const weight = (i, place) => Math.max(covered(i, place), 0) / scale;
  return taps(source, target, Math.ceil(scale) + 1, (i) => Math.floor(i * scale), weight);
}

// Keys' cubic convolution with a = -0.75; pixel centers are at i + 1/2.
function cubicTaps(source, target, a = -0.75) {
  const near = (t) => (a + 2) * t ** 3 - (a + 3) * t ** 2 + 1;
  const far = (t) => a * t ** 3 - 5 * a * t ** 2 + 8 * a * t - 4 * a;
  const position = (i) => ((i + 0.5) * source) / target - 0.5;
  const distance = (i, place) => Math.abs(position(i) - place);
  const weight = (i, place) => (distance(i, place) <= 1 ? near : far)(distance(i, place));
  return taps(source, target, 4, (i) => Math.floor(position(i)) - 1, weight);
}
