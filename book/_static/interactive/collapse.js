// Two trainings, with the sigmoid and without it: the reader moves through their first steps, or plays them.

const WINDOW = 30; // steps; curves and sentence are means over the last ones
const FRAME = 100; // milliseconds

const trailing = (values) => values.map((_, i) => {
  const last = values.slice(Math.max(0, i + 1 - WINDOW), i + 1);
  return last.reduce((sum, value) => sum + value, 0) / last.length;
});

function collapse({ figure, every, bins, guess, trainings }) {
  const { make } = figures;
  const steps = trainings[0].loss.length;
  const last = every * (trainings[0].spread.length - 1);
  const [left, bottom, width] = [42, 224, 140];
  const density = figures.panel({
    left, top: 20, width: 348, height: 132, x: bins, y: [0, 4], xTicks: [-3, 0, 3, 6], yTicks: [0, 2, 4],
    title: "density", xTitle: "output of the last fusion, the classifier's input",
  });
  const curves = { top: bottom, width, height: 92, x: [0, steps], xTicks: [0, steps / 2, steps], xTitle: "step" };
  const gradient = figures.panel({
    ...curves, left, y: [0.005, 5], scale: Math.log, yTicks: [0.01, 0.1, 1], title: "gradient at the stem",
  });
  const loss = figures.panel({ ...curves, left: left + 202, y: [0, 2.5], yTicks: [0, 1, 2], title: "loss" });
  const drawing = make("svg:svg", { viewBox: "0 0 400 352", role: "img", class: "interactive-plot interactive-wide" });
  const cursor = make("svg:path", { class: "interactive-cursor" });
  drawing.append(density.frame, gradient.frame, loss.frame, make("svg:g", { class: "interactive-axes" },
    make("svg:path", { class: "interactive-ideal", d: `M${loss.x(0)} ${loss.y(guess)}H${loss.x(steps)}` })), cursor);

  const lines = trainings.map((training) => {
    const area = make("svg:path", { class: "interactive-area" });
    const parts = [[gradient, trailing(training.gradient)], [loss, trailing(training.loss)]].map(([at, means]) => {
      const path = (values) => `M${values.map((value, i) => `${at.x(i)} ${at.y(value)}`).join("L")}`;
      const past = make("svg:path", { class: "interactive-curve" });
      const whole = make("svg:path", { class: "interactive-curve interactive-later", d: path(means) });
      return { means, past, whole, to: (step) => past.setAttribute("d", path(means.slice(0, step + 1))) };
    });
    drawing.append(make("svg:g", { class: `interactive-${training.kind}` },
      area, ...parts.flatMap(({ whole, past }) => [whole, past])));
    return { ...training, area, parts };
  });
  const legend = make("ul", { class: "interactive-branches" },
    ...trainings.map(({ name, kind }) => make("li", { class: `interactive-${kind}` }, name)));
  const told = make("p", { class: "interactive-told", "aria-live": "polite" });

  let now = 0;
  const show = (step) => {
    now = step;
    const sentences = lines.map(({ name, histograms, spread, area, parts }) => {
      area.setAttribute("d", density.outline(histograms[step / every].map((hundredths) => hundredths / 100)));
      parts.forEach(({ to }) => to(step));
      const [size, level] = parts.map(({ means }) => means[step].toFixed(3));
      const start = name[0].toUpperCase() + name.slice(1);
      return `${start}, the output's standard deviation over the faces is ${spread[step / every].toFixed(3)}; ` +
        `the gradient is ${size}, the loss ${level}.`;
    });
    cursor.setAttribute("d", [gradient, loss].map(({ x }) => `M${x(step)} ${bottom}v92`).join(""));
    told.textContent = `Step ${step}. ${sentences.join(" ")}`;
    drawing.setAttribute("aria-label", `Histogram, gradient, and loss of two trainings at step ${step}.`);
  };

  const { row, set } = figures.slider({ label: "Step", min: 0, max: last, step: every, write: String, change: show });
  let timer;
  const stop = () => {
    clearInterval(timer);
    timer = undefined;
    play.textContent = "Play";
    told.ariaLive = "polite";
  };
  const play = figures.button("Play", () => {
    if (timer) return stop();
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return set(now < last ? last : 0);
    if (now === last) set(0);
    play.textContent = "Pause";
    told.ariaLive = "off"; // until it stops
    timer = setInterval(() => {
      const next = now + every;
      if (next === last) stop();
      set(next);
    }, FRAME);
  });
  row.addEventListener("input", stop);
  figures.replace(figure, make("p", { class: "interactive-buttons" }, play), row, legend, drawing, told);
  set(0);
}

figures.data("collapse").forEach(collapse);
