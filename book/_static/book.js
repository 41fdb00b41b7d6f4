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
