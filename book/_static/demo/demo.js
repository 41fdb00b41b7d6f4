// The demo page: its buttons, and what it shows. Images stay in this page and are dropped with it.

import { IMAGE_SIZE, crop } from "./crop.js";
import { canRun, load } from "./classify.js";
import { findFace } from "./detect.js";

const LONGEST_PHOTO = 1280; // pixels; a larger image is scaled down first
const LONGEST_FRAME = 400;
const MOST_PIXELS = 89_478_485; // of a photo, as in Python; more would fill a phone's memory
const SAFE_PIXELS = 16_000_000; // a sound image of fewer can be read by every browser
const ANNOUNCE_EVERY = 2000; // ms, for those who listen to the page

const part = (name) => document.getElementById(`demo-${name}`);
const say = (words) => (part("status").textContent = words);
const percent = (p) => `${Math.round(100 * p)}\u00a0%`;
const context = part("image").getContext("2d", { willReadFrequently: true });

let models; // what load() gives
let turn = 0; // grows with each choice; work for an older one is dropped
let stream; // the camera's, while it is on
let queue = Promise.resolve(); // the networks process one image at a time
let announced = { words: "", at: -Infinity };

// --- Starting -------------------------------------------------------------------------------

if (canRun()) {
  Object.assign(part("start"), { hidden: false, disabled: false }); // Firefox keeps a disabled button when reloading
  say("This loads about 7 MB from this site, and nothing from anywhere else.");
} else {
  say("This browser cannot run the demo: it lacks WebAssembly with SIMD. A browser of 2023 or later has it.");
}

part("start").addEventListener("click", async () => {
  part("start").disabled = true;
  say("Loading about 7 MB …");
  try {
    models = await load();
  } catch (error) {
    part("start").disabled = false;
    say(`The demo could not be loaded (${error.message}). Check the connection, and press the button again.`);
    return;
  }
  const { run, accuracy, threshold, target, coverage, covered_accuracy } = models.about;
  part("bars").replaceChildren(...models.about.classes.map(bar));
  part("about").textContent =
    `Network ${run}: accuracy ${percent(accuracy)} on FER2013's PrivateTest. Below a confidence of ${percent(threshold)} ` +
    `it abstains and says unsure; with this threshold, ${percent(target)} of its predictions on PublicTest were right. ` +
    `On PrivateTest it predicts ${percent(coverage)} of the images, with an accuracy of ${percent(covered_accuracy)}.`;
  part("start").hidden = true;
  part("main").hidden = false;
  const first = document.querySelector("[data-sample]");
  first.focus({ preventScroll: true });
  showSample(first);
});

function bar(name) {
  const row = document.createElement("tr");
  const heading = document.createElement("th");
  heading.scope = "row";
  heading.textContent = name;
  const [drawn, number] = [document.createElement("td"), document.createElement("td")];
  drawn.ariaHidden = "true";
  drawn.append(document.createElement("span"));
  row.append(heading, drawn, number);
  return row;
}

// --- Choosing an image -----------------------------------------------------------------------

for (const button of document.querySelectorAll("[data-sample]")) {
  button.addEventListener("click", () => showSample(button));
}
part("file").addEventListener("change", ({ target }) => {
  if (target.files.length) showPhoto(target.files[0], { name: target.files[0].name });
  target.value = ""; // so that the same file can be chosen again
});
part("camera").addEventListener("click", () => (stream ? nextTurn("The camera is off.") : startCamera()));

async function showSample(button) {
  const mine = nextTurn();
  try {
    const response = await fetch(new URL(`samples/${button.dataset.sample}`, import.meta.url));
    if (!response.ok) throw new Error(response.status);
    const photo = await response.blob();
    if (mine === turn) await showPhoto(photo, { name: button.textContent, credit: button.dataset.credit, button });
  } catch {
    if (mine === turn) fail("The image could not be loaded. Check the connection, and try again.");
  }
}

async function showPhoto(file, { name, credit = "", button }) {
  const mine = nextTurn();
  const size = await sizeOf(file); // before its pixels are unpacked: a small file can have billions
  if (mine !== turn) return;
  if (!size) {
    fail(`${name} cannot be read as an image. JPEG, PNG, WebP, and GIF can.`);
    return;
  }
  const tooLarge = `${name} is too large for this browser: ${size.width} x ${size.height} pixels. Shrink it, and try again.`;
  const pixels = size.width * size.height;
  if (pixels > MOST_PIXELS) {
    fail(tooLarge);
    return;
  }
  let photo;
  try {
    // Upright, as a camera's note in the file says, and with the numbers of the file, as Python reads them.
    photo = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    if (mine !== turn) return;
    fail(pixels > SAFE_PIXELS ? tooLarge : `${name} is damaged, or in another format than JPEG, PNG, WebP, and GIF.`);
    return;
  }
  if (mine !== turn) return;
  button?.setAttribute("aria-pressed", "true");
  part("credit").textContent = credit;
  draw(photo, photo.width, photo.height, LONGEST_PHOTO);
  photo.close();
  const face = await look(mine, [1, 2, 4]);
  if (mine !== turn) return;
  part("image").ariaLabel = `${name}${face ? ", with a box around the face" : ""}`;
  say(face ? `${name}: one face found.` : `${name}: no face found. It should be upright, frontal, and not too small.`);
}

// Width and height of an image, of which the browser reads only the beginning; null if it isn't one.
async function sizeOf(file) {
  const image = new Image();
  const address = URL.createObjectURL(file);
  try {
    await new Promise((done, failed) => Object.assign(image, { onload: done, onerror: failed, src: address }));
    return { width: image.naturalWidth, height: image.naturalHeight };
  } catch {
    return null;
  } finally {
    URL.revokeObjectURL(address);
  }
}

// --- The camera -----------------------------------------------------------------------------

async function startCamera() {
  const mine = nextTurn();
  if (!navigator.mediaDevices?.getUserMedia) {
    fail("This page may not use a camera: browsers allow it only over https, or on this very computer.");
    return;
  }
  say("Waiting for the camera …");
  const video = document.createElement("video");
  try {
    const wanted = { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" };
    const opened = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
    if (mine !== turn) return opened.getTracks().forEach((track) => track.stop());
    stream = opened;
    Object.assign(video, { srcObject: stream, muted: true, playsInline: true });
    stream.getVideoTracks()[0].addEventListener("ended", () => mine === turn && nextTurn("The camera stopped sending."));
    await video.play();
  } catch (error) {
    if (mine === turn) fail(CAMERA_ERRORS[error.name] ?? `The camera cannot be used (${error.message}).`);
    return;
  }
  if (mine !== turn) return;
  part("camera").textContent = "Stop the camera";
  part("camera").ariaPressed = "true";
  part("image").ariaLabel = "The camera's image, mirrored";
  part("image").classList.add("demo-mirrored");
  part("credit").textContent = "";
  say("The camera is on. Its images stay on this device.");
  const times = []; // when the frames of the last second were done
  for (;;) {
    await nextFrame(video);
    if (mine !== turn) return;
    draw(video, video.videoWidth, video.videoHeight, LONGEST_FRAME);
    await look(mine, [1, 2]);
    if (mine !== turn) return;
    times.push(performance.now());
    while (times.at(-1) - times[0] > 1000) times.shift();
    const rate = (1000 * (times.length - 1)) / (times.at(-1) - times[0]);
    part("speed").textContent = times.length > 1 ? `${rate.toFixed(1)} frames per second` : "";
  }
}

const CAMERA_ERRORS = {
  NotAllowedError: "The camera was not allowed. Allow it in the browser's settings for this page, and try again.",
  NotFoundError: "There is no camera on this device.",
  NotReadableError: "The camera cannot be read: another program may be using it.",
};

function nextFrame(video) {
  return new Promise((done) =>
    video.requestVideoFrameCallback ? video.requestVideoFrameCallback(done) : requestAnimationFrame(done),
  );
}

// Ends what is going on, the camera too, and returns the number of the new turn.
function nextTurn(words) {
  stream?.getTracks().forEach((track) => track.stop());
  stream = undefined;
  for (const button of document.querySelectorAll(".demo-choices [aria-pressed]")) button.ariaPressed = "false";
  part("camera").textContent = "Use the camera";
  part("image").classList.remove("demo-mirrored");
  part("speed").textContent = "";
  announced = { words: "", at: -Infinity };
  if (words) say(words);
  return ++turn;
}

// Ends what is going on without a result: that of an earlier image must not stand next to this one's failure.
function fail(words) {
  nextTurn(words);
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  part("image").ariaLabel = "No image";
  for (const name of ["credit", "label", "note"]) part(name).textContent = "";
  drawCrop();
  drawBars();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden && stream) nextTurn("The camera was stopped, since the page was hidden.");
});
window.addEventListener("pagehide", () => stream && nextTurn("The camera is off."));

// --- Looking and showing --------------------------------------------------------------------

function draw(source, width, height, longest) {
  const scale = Math.min(1, longest / Math.max(width, height));
  const canvas = context.canvas;
  const [w, h] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  context.fillStyle = "white"; // under transparent pixels
  context.fillRect(0, 0, w, h);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, w, h);
}

// Finds and labels the face in the image, and shows both. Returns the face, or null.
function look(mine, parts) {
  const image = context.getImageData(0, 0, context.canvas.width, context.canvas.height);
  queue = queue.then(async () => {
    if (mine !== turn) return null;
    try {
      const face = await findFace(models.detector, image, parts);
      const levels = face && crop(image, face);
      const output = face && (await models.network(levels));
      if (mine === turn) show(face, levels, output?.probabilities);
      return face;
    } catch (error) {
      if (mine === turn) fail(`The networks could not process the image (${error.message}).`);
      return null;
    }
  });
  return queue;
}

function show(face, levels, probabilities) {
  const best = face ? probabilities.indexOf(Math.max(...probabilities)) : -1;
  const name = models.about.classes[best];
  const unsure = face && probabilities[best] < models.about.threshold;
  drawCrop(levels);
  if (face) drawBox(face, unsure);
  part("label").textContent = face ? (unsure ? "unsure" : name) : "no face";
  const confidence = face ? percent(probabilities[best]) : "";
  part("note").textContent = unsure ? `${name} ${confidence} is below the threshold` : confidence;
  drawBars(probabilities, best, unsure);
  announce(face ? (unsure ? "unsure" : `label: ${name}`) : "no face");
}

function drawBars(probabilities, best, unsure) {
  [...part("bars").rows].forEach((row, i) => {
    row.className = `${i === best ? "demo-best" : ""} ${unsure ? "demo-unsure" : ""}`;
    row.querySelector("span").style.width = probabilities ? `${100 * probabilities[i]}%` : 0;
    row.cells[2].textContent = probabilities ? percent(probabilities[i]) : "";
  });
}

function drawCrop(levels) {
  const image = new ImageData(IMAGE_SIZE, IMAGE_SIZE);
  levels?.forEach((level, i) => image.data.set([level, level, level, 255], 4 * i));
  part("crop").getContext("2d").putImageData(image, 0, 0);
}

// Dark on light, visible on every image; dashed where the network abstains.
function drawBox({ left, top, right, bottom }, unsure) {
  const width = Math.max(2, context.canvas.width / 200);
  for (const [color, line] of [["black", 2 * width], ["white", width]]) {
    context.strokeStyle = color;
    context.lineWidth = line;
    context.setLineDash(unsure ? [6 * width, 4 * width] : []);
    context.strokeRect(left, top, right - left, bottom - top);
  }
}

function announce(words) {
  const now = performance.now();
  if (words === announced.words || now - announced.at < ANNOUNCE_EVERY) return;
  announced = { words, at: now };
  part("spoken").textContent = words;
}
