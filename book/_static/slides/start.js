// Starts a deck. S opens the speaker's view; ?print-pdf in the address makes pages to print.
Reveal.initialize({
  width: 1280,
  height: 720,
  margin: 0.02,
  hash: true,
  controlsTutorial: false, // its arrow would never rest
  display: "flex", // the picture takes the height that is left
  transition: "none",
  pdfSeparateFragments: false, // one page for a slide, with the right choice marked
  plugins: [RevealNotes],
});
