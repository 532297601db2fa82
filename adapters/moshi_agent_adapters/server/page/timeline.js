// The last 20 seconds: the caller above the line, the bot below, and where both speak.

const SPAN_S = 20;
const STEP_S = 0.05;
const LONGEST_GAP_S = 0.25; // between two states, of a page that is busy
const TICK_S = 5;
const LABEL_HEIGHT = 18;

export class Timeline {
  #canvas;
  #samples = []; // {at, user, bot, userSpeaks, botSpeaks}
  #colours = {};

  constructor(canvas) {
    this.#canvas = canvas;
    this.#readColours();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#readColours());
  }

  clear() {
    this.#samples = [];
    this.draw(performance.now() / 1000);
  }

  /** Notes the state now, in seconds of any clock. */
  add(now, state) {
    const last = this.#samples.at(-1);
    if (last && now - last.at < STEP_S) {
      last.user = Math.max(last.user, state.user);
      last.bot = Math.max(last.bot, state.bot);
      return;
    }
    this.#samples.push({ at: now, ...state });
    while (this.#samples[0].at < now - SPAN_S - 1) this.#samples.shift();
  }

  draw(now) {
    const { width, height, pen } = this.#sheet();
    const x = (at) => width * (1 - (now - at) / SPAN_S);
    const lane = (height - LABEL_HEIGHT) / 2;
    pen.clearRect(0, 0, width, height);
    this.#drawOverlap(pen, x, 2 * lane);
    this.#drawTicks(pen, x, now, height);
    for (const [index, sample] of this.#samples.entries()) {
      const end = this.#samples[index + 1]?.at ?? sample.at + STEP_S;
      const bar = Math.max(1, Math.min(x(end) - x(sample.at), LONGEST_GAP_S * width / SPAN_S) - 1);
      const both = sample.userSpeaks && sample.botSpeaks;
      this.#drawBar(pen, x(sample.at), bar, lane, -1, sample.user, sample.userSpeaks, both ? "both" : "user");
      this.#drawBar(pen, x(sample.at), bar, lane, 1, sample.bot, sample.botSpeaks, both ? "both" : "bot");
    }
    pen.globalAlpha = 1;
    pen.fillStyle = this.#colours.line;
    pen.fillRect(0, lane - 0.5, width, 1);
  }

  #drawBar(pen, x, width, lane, direction, level, speaks, colour) {
    const length = Math.max(level * (lane - 8), speaks ? 3 : 0);
    if (length < 1) return;
    pen.globalAlpha = speaks ? 1 : 0.4;
    pen.fillStyle = this.#colours[colour];
    pen.beginPath();
    pen.roundRect(x, direction < 0 ? lane - 1 - length : lane + 1, width, length, Math.min(2, width / 2));
    pen.fill();
  }

  #drawOverlap(pen, x, height) {
    pen.globalAlpha = 1;
    pen.fillStyle = this.#colours.bothSoft;
    for (const [index, sample] of this.#samples.entries()) {
      if (!sample.userSpeaks || !sample.botSpeaks) continue;
      const end = this.#samples[index + 1]?.at ?? sample.at + STEP_S;
      pen.fillRect(x(sample.at), 0, x(end) - x(sample.at) + 0.5, height);
    }
  }

  #drawTicks(pen, x, now, height) {
    pen.globalAlpha = 1;
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = this.#colours.soft;
    pen.textBaseline = "bottom";
    for (let ago = TICK_S; ago < SPAN_S; ago += TICK_S) {
      const at = x(now - ago);
      pen.fillText(`−${ago} s`, at + 4, height - 3);
      pen.fillRect(at, height - 8, 1, 8);
    }
    pen.textAlign = "right";
    pen.fillText("now", x(now) - 6, height - 3);
    pen.textAlign = "left";
  }

  #sheet() {
    const canvas = this.#canvas;
    const scale = window.devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    return { width, height, pen };
  }

  #readColours() {
    const style = getComputedStyle(document.documentElement);
    const names = { user: "--user", bot: "--bot", both: "--both", bothSoft: "--both-soft", line: "--line", soft: "--soft" };
    for (const [name, property] of Object.entries(names)) this.#colours[name] = style.getPropertyValue(property).trim();
  }
}
