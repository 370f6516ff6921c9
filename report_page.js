// Shows the values of a chart's curves beside the pointer, read back from the drawing.
for (const chart of document.querySelectorAll("figure svg")) {
  const range = Object.fromEntries(Object.entries(chart.dataset).map(([name, value]) => [name, Number(value)]));
  const readout = chart.parentElement.querySelector(".readout");
  const pointer = chart.querySelector(".pointer");
  const curves = [...chart.querySelectorAll("path.curve")].map((path) => ({
    label: path.dataset.label,
    places: path.getAttribute("d").slice(1).split(/[ML]/).map((pair) => pair.split(" ").map(Number)),
  }));
  const updateAt = (x) =>
    range.xLow + ((x - range.left) / (range.right - range.left)) * (range.xHigh - range.xLow);
  const valueAt = (y) => {
    const value = range.yLow + ((range.bottom - y) / (range.bottom - range.top)) * (range.yHigh - range.yLow);
    return range.logarithmic ? 10 ** value : value;
  };
  const show = (event) => {
    const box = chart.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
    if (x < range.left || x > range.right) return hide();
    pointer.setAttribute("x1", x);
    pointer.setAttribute("x2", x);
    const values = curves.map(({ label, places }) => {
      const nearest = places.reduce((best, place) => (Math.abs(place[0] - x) < Math.abs(best[0] - x) ? place : best));
      return `${label} ${Number(valueAt(nearest[1]).toPrecision(3))}`;
    });
    readout.textContent = `update ${Math.round(updateAt(x)).toLocaleString("en")}: ${values.join(", ")}`;
  };
  const hide = () => {
    for (const name of ["x1", "x2"]) pointer.setAttribute(name, -9);
    readout.textContent = "";
  };
  chart.addEventListener("pointermove", show);
  chart.addEventListener("pointerdown", show);
  chart.addEventListener("pointerleave", hide);
}
