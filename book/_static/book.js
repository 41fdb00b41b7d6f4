// The theme's buttons that unfold a chapter's sections in the sidebar have an icon and no name.
document.addEventListener("DOMContentLoaded", () => {
  for (const button of document.querySelectorAll(".bd-links summary")) {
    const chapter = button.closest("li")?.querySelector("a")?.textContent.trim();
    button.setAttribute("aria-label", `Sections of ${chapter}`);
  }
  // Sphinx marks the references as a list, but not its entries as list items.
  for (const entry of document.querySelectorAll(".citation-list > .citation")) {
    entry.setAttribute("role", "listitem");
  }
});

// Cells leave data for the figures that a reader can move; the script of each kind puts them in their places.
const scripts = document.currentScript.src;
document.addEventListener("DOMContentLoaded", () => {
  const kinds = new Set([...document.querySelectorAll(".page-data")].map((place) => place.dataset.kind));
  for (const name of kinds.size ? ["figure", ...kinds] : []) {
    const script = document.createElement("script");
    script.async = false; // in this order
    script.src = new URL(`interactive/${name}.js`, scripts);
    document.head.append(script);
  }
});
