// Opens the dashboard in Chromium, over the pipe of its debugging protocol, and looks at it.
// node dashboard.mjs CHROMIUM PORT DIRECTORY [PREFIX-OF-SCREENSHOTS]
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";

const [chromium, port, directory, shots] = process.argv.slice(2);
const browser = spawn(chromium, [
  "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
  `--user-data-dir=${directory}/browser`, "--remote-debugging-pipe",
], { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
const fail = (text) => {
  console.log(text);
  browser.kill("SIGKILL");
  process.exit(1);
};
const [out, back] = [browser.stdio[3], browser.stdio[4]];
out.on("error", () => {});
const waiting = new Map(), complaints = [];
let rest = "", number = 0;
back.on("data", (data) => {
  const told = (rest + data).split("\0");
  rest = told.pop();
  for (const text of told) {
    const message = JSON.parse(text);
    if (message.id) {
      const { resolve, reject } = waiting.get(message.id);
      waiting.delete(message.id);
      message.error ? reject(new Error(message.error.message)) : resolve(message.result);
    } else if (message.method === "Runtime.exceptionThrown") {
      complaints.push(JSON.stringify(message.params.exceptionDetails));
    } else if (message.method === "Log.entryAdded" && message.params.entry.level === "error") {
      complaints.push(JSON.stringify(message.params.entry));
    } else if (message.method === "Runtime.consoleAPICalled" && message.params.type === "error") {
      complaints.push(JSON.stringify(message.params.args));
    }
  }
});
let session;
const send = (method, params = {}) => new Promise((resolve, reject) => {
  waiting.set(++number, { resolve, reject });
  out.write(JSON.stringify({ id: number, method, params, sessionId: session }) + "\0");
});
const evaluate = async (expression) => {
  const told = await send("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true });
  if (told.exceptionDetails) throw new Error(JSON.stringify(told.exceptionDetails));
  return told.result.value;
};
const until = async (what, expression) => {
  const deadline = Date.now() + 30000;
  while (!(await evaluate(expression))) {
    if (Date.now() > deadline) throw new Error(`${what}: not within 30 s; ${complaints.join("\n")}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
};
const shot = async (name, width, height, whole) => {
  await send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: width < 600 });
  await new Promise((resolve) => setTimeout(resolve, 300));
  if (!shots) return;
  const { data } = await send("Page.captureScreenshot", { format: "png", captureBeyondViewport: !!whole });
  writeFileSync(`${shots}-${name}.png`, Buffer.from(data, "base64"));
};
try {
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  ({ sessionId: session } = await send("Target.attachToTarget", { targetId, flatten: true }));
  for (const domain of ["Runtime", "Log", "Page"]) await send(`${domain}.enable`);
  await send("Emulation.setDeviceMetricsOverride", { width: 1280, height: 900, deviceScaleFactor: 1, mobile: false });
  await send("Page.navigate", { url: `http://127.0.0.1:${port}/dashboard` });
  await until("the stream is live", "typeof samples !== 'undefined' && samples.length > 2 && document.getElementById('link').textContent === 'live'");
  await until("the member's role", "document.getElementById('role').textContent === 'leader'");
  await until("members", "document.querySelectorAll('#members tr').length >= 1 && document.getElementById('members').textContent.includes('this member')");
  await until("keys", `document.querySelectorAll('#list button').length >= ${shots ? 1 : 2}`);
  // With a name for screenshots it is somebody's own cluster: some time passes, and nothing is clicked.
  if (shots) await evaluate("new Promise((resolve) => setTimeout(resolve, 8000))");
  const hostile = "<img src=x onerror=document.title='gone'>";
  if (!shots) {
    // Names of keys and values are text.
    const names = await evaluate("Array.from(document.querySelectorAll('#list span'), (span) => span.textContent)");
    if (!names.includes(hostile) || !names.includes("fruit/")) throw new Error(JSON.stringify(names));
    await evaluate(`Array.from(document.querySelectorAll('#list button')).find((b) => b.textContent.startsWith(${JSON.stringify(hostile)})).click()`);
    await until("the value", "document.getElementById('value').textContent === \"<script>document.title='gone'</script>\"");
    if (await evaluate("document.images.length + document.scripts.length")  !== 1) throw new Error("a name became markup");
    if ((await evaluate("document.title")) === "gone") throw new Error("a name ran");
    // A directory opens, a key's history and its live changes come.
    await evaluate("Array.from(document.querySelectorAll('#list button')).find((b) => b.textContent.startsWith('fruit/')).click()");
    await until("the directory", "Array.from(document.querySelectorAll('#list span'), (span) => span.textContent).join() === 'apple,pear'");
    await evaluate("document.querySelectorAll('#list button')[0].click()");
    await until("the key", "document.getElementById('value').textContent === 'red'");
    await evaluate("document.getElementById('history').click()");
    await until("its history", "document.getElementById('events').textContent.includes('red')");
    await evaluate("document.getElementById('watch').click()");
    await until("the watch", "document.getElementById('events').textContent.includes('from revision')");
    await evaluate("fetch('/v3/kv/put', { method: 'POST', body: JSON.stringify({ key: btoa('fruit/apple'), value: btoa('golden') }) }).then((a) => a.ok)");
    await until("a change", "document.getElementById('value').textContent === 'golden' && document.getElementById('events').textContent.includes('golden')");
    await evaluate("document.getElementById('watch').click()");
  }
  // Every chart has drawn something in its own colours.
  const blank = await evaluate(`charts.filter((chart) => {
    const canvas = document.getElementById(chart.id);
    return !canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((byte) => byte);
  }).map((chart) => chart.id)`);
  if (blank.length) throw new Error("blank: " + blank);
  await shot("light", 1280, 1000, true);
  await evaluate("document.dispatchEvent(new KeyboardEvent('keydown', { key: 't' }))");
  await until("another theme", "document.documentElement.dataset.theme === 'dark'");
  await shot("dark", 1280, 1000, true);
  await shot("small", 390, 844, false);
  if (await evaluate("document.documentElement.scrollWidth > innerWidth + 1")) throw new Error("a small screen has to be scrolled sideways");
  if (complaints.length) throw new Error(complaints.join("\n"));
} catch (error) {
  fail(String(error.stack || error));
}
browser.kill("SIGKILL");
process.exit(0);
