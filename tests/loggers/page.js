// Opens a page of visdom in a browser and prints what is drawn on it: node page.js PLAYWRIGHT CHROMIUM URL PICTURE
const [playwright, chromium, url, picture] = process.argv.slice(2);

(async () => {
  const browser = await require(playwright).chromium.launch({ executablePath: chromium, args: ["--no-sandbox"] });
  try {
    const page = await browser.newPage({ viewport: { width: 1400, height: 1560 } });
    const failed = [];
    page.on("requestfailed", (request) => failed.push(request.url()));
    page.on("response", (response) => response.status() >= 400 && failed.push(response.url()));
    page.on("pageerror", (error) => failed.push(String(error)));
    await page.goto(url);
    await page.waitForFunction(
      () => document.querySelector(".heatmaplayer image") && document.querySelector(".scatterlayer path.js-line") &&
        [...document.querySelectorAll("img")].some((image) => image.naturalWidth),
      null, { timeout: 60000 });
    await page.waitForTimeout(1000);
    const plots = await page.evaluate(() => Object.fromEntries(
      [...document.querySelectorAll(".js-plotly-plot")].map((plot) => [plot.layout.title.text, {
        curves: Object.fromEntries(plot.data.map((data) => [data.name, { x: data.x, y: data.y, z: data.z }])),
        boxes: [...plot.querySelectorAll(".scatterlayer path.js-line")].map((path) => path.getBoundingClientRect().width),
        legend: [...plot.querySelectorAll(".legendtext")].map((text) => text.textContent),
        axes: [...plot.querySelectorAll(".xtitle, .ytitle")].map((text) => text.textContent),
        rows: [...plot.querySelectorAll(".yaxislayer-above .ytick")].map(
          (tick) => [tick.textContent, tick.getBoundingClientRect().top]),
      }])));
    const images = await page.evaluate(() => [...document.querySelectorAll("img")].map(
      (image) => [image.naturalWidth, image.naturalHeight, image.getBoundingClientRect().width]));
    if (picture) await page.screenshot({ path: picture });
    console.log(JSON.stringify({ failed, plots, images }));
  } finally {
    await browser.close();
  }
})().catch((error) => { console.error(error); process.exit(1); });
