// Hands over both sides as interleaved 16-bit stereo at half the context's rate.

const FRAMES = 4096; // of a chunk

class Recorder extends AudioWorkletProcessor {
  #chunk = new Int16Array(2 * FRAMES);
  #frames = 0;

  process(inputs) {
    const [user, bot] = inputs.map((channels) => channels[0]);
    const samples = (user ?? bot)?.length ?? 128;
    for (let at = 0; at + 1 < samples; at += 2) this.#add(half(user, at), half(bot, at));
    return true;
  }

  #add(left, right) {
    this.#chunk[2 * this.#frames] = left;
    this.#chunk[2 * this.#frames + 1] = right;
    this.#frames += 1;
    if (this.#frames === FRAMES) {
      this.port.postMessage(this.#chunk.buffer, [this.#chunk.buffer]);
      this.#chunk = new Int16Array(2 * FRAMES);
      this.#frames = 0;
    }
  }
}

function half(channel, at) {
  if (channel === undefined) return 0;
  const mean = (channel[at] + channel[at + 1]) / 2;
  return Math.round(32767 * Math.min(1, Math.max(-1, mean)));
}

registerProcessor("recorder", Recorder);
