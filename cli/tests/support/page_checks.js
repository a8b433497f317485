// Run within a page by the tests: writes the number of plots, the ground's colour, and what is wrong, a line each.
(() => {
  const mistakes = [];
  const boxOf = (element) => element.getBoundingClientRect();
  const words = (element) => JSON.stringify(element.textContent.slice(0, 40));
  const overlap = (a, b, slack) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > slack && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > slack;

  const plots = [...document.querySelectorAll("svg.plot")];
  for (const plot of plots) {
    const name = JSON.stringify(plot.getAttribute("aria-label"));
    if (!(Number(plot.dataset.points) > 0)) mistakes.push(`${name} has no data`);
    const drawn = [...plot.querySelectorAll("path, circle, rect")].filter((shape) => {
      const box = boxOf(shape);
      return box.width > 0 || box.height > 0;
    });
    if (drawn.length === 0) mistakes.push(`${name} draws nothing`);
    const outer = boxOf(plot);
    // A line of text is higher than its letters: two may come this close without touching.
    const texts = [...plot.querySelectorAll("text")].map((text) => {
      const { left, right, top, bottom } = boxOf(text);
      const height = bottom - top;
      return { text, box: { left, right, top: top + height * 0.1, bottom: bottom - height * 0.1 } };
    });
    for (const { text, box } of texts) {
      if (box.left < outer.left - 1 || box.right > outer.right + 1 || box.top < outer.top - 1 || box.bottom > outer.bottom + 1)
        mistakes.push(`${name}: ${words(text)} leaves the picture`);
    }
    texts.forEach((a, index) => {
      for (const b of texts.slice(index + 1))
        if (overlap(a.box, b.box, 0.5)) mistakes.push(`${name}: ${words(a.text)} overlaps ${words(b.text)}`);
    });
  }

  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) mistakes.push(`the page is ${document.documentElement.scrollWidth} wide in ${width}`);
  for (const element of document.querySelectorAll("h1, h2, h3, p, dt, dd, .figure, .figure *, .who, .who *, pre")) {
    if (element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).display !== "inline")
      mistakes.push(`${element.tagName} ${words(element)} is wider than its place`);
  }
  const blocks = [...document.querySelectorAll("h1, h2, h3, p, dl, pre, table, .figure, svg.plot, .who")].filter((block) => !block.parentElement.closest("p, dl, pre, table, .figure, .who"));
  blocks.forEach((a, index) => {
    for (const b of blocks.slice(index + 1, index + 12))
      if (overlap(boxOf(a), boxOf(b), 1.5)) mistakes.push(`${a.tagName} ${words(a)} overlaps ${b.tagName} ${words(b)}`);
  });

  const findings = document.createElement("pre");
  findings.id = "findings";
  findings.textContent = [plots.length, getComputedStyle(document.body).backgroundColor, ...mistakes.slice(0, 50)].join("\n");
  document.body.append(findings);
})();
