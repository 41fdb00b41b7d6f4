// How ten annotators' votes for two labels compare with the network's probabilities: the reader chooses the labels.

// For each pair, counts of test images: [tenths of the votes for the first label, tenth of its probability, images,
// sum of its probability's share].
function labelNoise({ figure, labels, start, pairs }) {
  const { make, percent } = figures;
  const [left, top, step, high] = [52, 6, 22, 20];
  const [right, bottom] = [left + 11 * step, top + 10 * high];
  const select = (label) => {
    const element = make("select", {}, ...labels.map((name) => make("option", {}, name)));
    element.addEventListener("change", () => show());
    return { element, row: make("label", { class: "interactive-select" }, label, element) };
  };
  const [one, two] = [select("First label"), select("Second label")];
  [one.element.value, two.element.value] = start;

  const plot = make("svg:svg", { viewBox: `0 0 ${right + 4} ${bottom + 40}`, role: "img", class: "interactive-plot interactive-axes" });
  const told = make("p", { class: "interactive-told", "aria-live": "polite" });
  const text = (words, attributes) => make("svg:text", attributes, words);

  const show = () => {
    // The same label twice makes no pair: the other one is the next in the list.
    if (one.element.value === two.element.value) {
      two.element.value = labels[(labels.indexOf(one.element.value) + 1) % labels.length];
    }
    const [first, second] = [one.element.value, two.element.value];
    const turned = !(`${first} ${second}` in pairs);
    const rows = pairs[turned ? `${second} ${first}` : `${first} ${second}`].map(([votes, bin, images, share]) => (
      turned ? [10 - votes, 9 - bin, images, images - share] : [votes, bin, images, share]
    ));
    const most = Math.max(...rows.map(([, , images]) => images));
    const cells = rows.map(([votes, bin, images]) => make("svg:rect", {
      x: left + votes * step + 0.5, y: bottom - (bin + 1) * high + 0.5, width: step - 1, height: high - 1,
      class: "interactive-bar", opacity: Math.max(0.2, Math.sqrt(images / most)),
    }));
    const sums = Array.from({ length: 11 }, () => [0, 0]);
    for (const [votes, , images, share] of rows) {
      sums[votes][0] += images;
      sums[votes][1] += share;
    }
    const means = sums.map(([images, share]) => (images ? share / images : null));
    const points = means.flatMap((mean, votes) => (mean === null ? [] : [[left + (votes + 0.5) * step, bottom - 10 * high * mean]]));
    const ticks = [0, 0.5, 1].map((p) => text(percent(p, 0), { x: left - 6, y: bottom - 10 * high * p + 4, "text-anchor": "end" }));
    const marks = [0, 5, 10].map((votes) => text(String(votes), { x: left + (votes + 0.5) * step, y: bottom + 15, "text-anchor": "middle" }));
    plot.replaceChildren(...cells, ...ticks, ...marks,
      make("svg:path", { d: `M${left} ${top}V${bottom}H${right}` }),
      make("svg:path", { d: points.map(([x, y], i) => `${i ? "L" : "M"}${x} ${y}`).join(""), class: "interactive-mean" }),
      ...points.map(([cx, cy]) => make("svg:circle", { cx, cy, r: 3, class: "interactive-mean-point" })),
      text(`votes for ${first}, in tenths of both`, { x: (left + right) / 2, y: bottom + 33, "text-anchor": "middle" }),
      text(`the network's share for ${first}`, { x: -(top + bottom) / 2, y: 11, transform: "rotate(-90)", "text-anchor": "middle" }));
    const count = sums.reduce((total, [images]) => total + images, 0);
    const mean = (votes) => (sums[votes][0]
      ? `${percent(means[votes])} on average (${sums[votes][0].toLocaleString("en")} ${sums[votes][0] === 1 ? "image" : "images"})`
      : "unknown, since there is no image");
    told.textContent = `For ${count.toLocaleString("en")} test images, at least eight of ten annotators chose ${first} or ` +
      `${second}. Where nobody chose ${second}, the network's share for ${first} is ${mean(10)}; where both have as many ` +
      `votes, ${mean(5)}; where nobody chose ${first}, ${mean(0)}.`;
    plot.ariaLabel = `Test images by the votes for ${first} and by the network's share for ${first}.`;
  };
  figures.replace(figure, make("div", { class: "interactive-buttons" }, one.row, two.row), plot, told);
  figures.caption(figure, "Where people hesitate between two labels, so does the network. Test images by the votes for the " +
    "first label, as tenths of those for both, and by the network's probability of it, as a fraction of both. The stronger " +
    "the color, the more images. Line: the mean.");
  show();
}

figures.data("label_noise").forEach(labelNoise);
