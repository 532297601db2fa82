// Latency and backlog: what the server tells, what the browser knows, and what is heard on this page.

const FRAME_MS = 80;
const AUDIBLE = 0.25; // of the level scale: -45 dB
const FORGET_MS = 4000; // an answer after that is none

export class Figures {
  #server = {};
  #network = {};
  #bufferMs = null;
  #lastBuffer = null;
  #modelDelayMs = FRAME_MS;
  #userHeardAt = null;
  #botWasAudible = false;

  /** The server's once-a-second figures. */
  setServer(stats) {
    this.#server = stats;
    this.#show();
  }

  /** The connection's own figures. */
  setConnection(figures) {
    this.#network = figures;
    if (figures.buffer && this.#lastBuffer && figures.buffer.count > this.#lastBuffer.count) {
      const { delay_s, count } = this.#lastBuffer;
      this.#bufferMs = (1000 * (figures.buffer.delay_s - delay_s)) / (figures.buffer.count - count);
    }
    this.#lastBuffer = figures.buffer ?? null;
    this.#show();
  }

  /** How far the model's text is ahead of its sound: its acoustic delay. */
  setModelDelay(frames) {
    this.#modelDelayMs = FRAME_MS * frames;
  }

  /** Levels as heard on this page now: tells how long the answer took. */
  hear(now_ms, { user, bot }) {
    if (user > AUDIBLE) this.#userHeardAt = now_ms;
    const audible = bot > AUDIBLE;
    if (audible && !this.#botWasAudible && this.#userHeardAt !== null) {
      const after_ms = now_ms - this.#userHeardAt;
      if (after_ms > 50 && after_ms < FORGET_MS) put("answer", `${(after_ms / 1000).toFixed(2)} s`);
      this.#userHeardAt = null;
    }
    this.#botWasAudible = audible;
  }

  clear() {
    this.#server = {};
    this.#network = {};
    this.#bufferMs = this.#lastBuffer = this.#userHeardAt = null;
    for (const name of ["answer", "delay", "step", "backlog", "network", "lost"]) put(name, "–");
  }

  #show() {
    const { step_ms, backlog_ms, latency_ms } = this.#server;
    const { network_ms, lost, received } = this.#network;
    if (step_ms !== undefined) {
      put("step", `${step_ms.toFixed(0)} of ${FRAME_MS} ms`, step_ms > FRAME_MS);
      put("backlog", `${backlog_ms.toFixed(0)} ms`, backlog_ms > 2 * FRAME_MS);
    }
    if (network_ms != null) put("network", `${network_ms < 10 ? network_ms.toFixed(1) : network_ms.toFixed(0)} ms`);
    if (received) put("lost", `${((100 * lost) / (lost + received)).toFixed(1)} %`, lost > 0.05 * received);
    if (latency_ms !== undefined && network_ms != null && this.#bufferMs !== null) {
      const sum = FRAME_MS + this.#modelDelayMs + latency_ms + network_ms + this.#bufferMs;
      put("delay", `≈ ${Math.round(sum / 10) * 10} ms`);
    }
  }
}

function put(name, text, isLate = false) {
  const place = document.getElementById(`figure-${name}`);
  if (place.textContent !== text) place.textContent = text;
  place.dataset.late = isLate;
}
