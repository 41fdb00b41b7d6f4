// The theme's buttons that unfold a chapter's sections in the sidebar have a picture and no name.
document.addEventListener("DOMContentLoaded", () => {
  for (const button of document.querySelectorAll(".bd-links summary")) {
    const chapter = button.closest("li")?.querySelector("a")?.textContent.trim();
    button.setAttribute("aria-label", `Sections of ${chapter}`);
  }
  // Sphinx makes the references a list of entries that are no list items.
  for (const entry of document.querySelectorAll(".citation-list > .citation")) {
    entry.setAttribute("role", "listitem");
  }
});
