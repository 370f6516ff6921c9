// Shows the values of a chart's curves at the pointer in its legend, read back from the drawing.
for (const figure of document.querySelectorAll("figure")) {
  const chart = figure.querySelector("svg.chart");
  const range = Object.fromEntries(Object.entries(chart.dataset).map(([name, value]) => [name, Number(value)]));
  const [update, ...values] = figure.querySelectorAll("output");
  const pointer = chart.querySelector(".pointer");
  const curves = [...chart.querySelectorAll("path.curve")].map((path) =>
    path.getAttribute("d").slice(1).split(/[ML]/).map((pair) => pair.split(" ").map(Number)),
  );
  const updateAt = (x) =>
    range.xLow + ((x - range.left) / (range.right - range.left)) * (range.xHigh - range.xLow);
  const valueAt = (y) => {
    const value = range.yLow + ((range.bottom - y) / (range.bottom - range.top)) * (range.yHigh - range.yLow);
    return range.logarithmic ? 10 ** value : value;
  };
  const hide = () => {
    for (const name of ["x1", "x2"]) pointer.setAttribute(name, -9);
    for (const output of [update, ...values]) output.textContent = "";
  };
  const show = (event) => {
    const box = chart.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
    if (x < range.left || x > range.right) return hide();
    for (const name of ["x1", "x2"]) pointer.setAttribute(name, x);
    update.textContent = `update ${Math.round(updateAt(x)).toLocaleString("en")}`;
    curves.forEach((places, number) => {
      const nearest = places.reduce((best, place) => (Math.abs(place[0] - x) < Math.abs(best[0] - x) ? place : best));
      values[number].textContent = Number(valueAt(nearest[1]).toPrecision(3));
    });
  };
  chart.addEventListener("pointermove", show);
  chart.addEventListener("pointerdown", show);
  chart.addEventListener("pointerleave", hide);
}
