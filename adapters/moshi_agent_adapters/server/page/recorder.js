// The recording of a call: a stereo wav file, the caller left and the bot right.

const LONGEST_S = 30 * 60; // kept; of a longer call the end is missing

export class Recorder {
  #chunks = [];
  #frames = 0;
  #rate = 24000;
  #node = null;

  /** Begins anew with what goes through these two nodes. */
  async start(context, user, bot) {
    this.stop();
    this.#chunks = [];
    this.#frames = 0;
    this.#rate = context.sampleRate / 2;
    if (!context.audioWorklet) return; // plain http: there is no recording
    await context.audioWorklet.addModule("/page/recorder-worklet.js");
    this.#node = new AudioWorkletNode(context, "recorder", { numberOfInputs: 2, numberOfOutputs: 0 });
    this.#node.port.onmessage = ({ data }) => this.#keep(data);
    user.connect(this.#node, 0, 0);
    bot.connect(this.#node, 0, 1);
    const node = this.#node;
    this.#disconnect = () => {
      user.disconnect(node);
      bot.disconnect(node);
    };
  }

  #disconnect = () => {};

  stop() {
    if (this.#node === null) return;
    this.#disconnect();
    this.#node.port.onmessage = null;
    this.#node = null;
  }

  get isEmpty() {
    return this.#frames === 0;
  }

  /** The wav file. */
  wav() {
    return new Blob([wavHeader(this.#frames, this.#rate), ...this.#chunks], { type: "audio/wav" });
  }

  #keep(chunk) {
    if (this.#frames > LONGEST_S * this.#rate) return;
    this.#chunks.push(chunk);
    this.#frames += chunk.byteLength / 4;
  }
}

function wavHeader(frames, rate) {
  const header = new DataView(new ArrayBuffer(44));
  const text = (at, letters) => [...letters].forEach((letter, i) => header.setUint8(at + i, letter.charCodeAt(0)));
  const bytes = 4 * frames; // two channels of 16 bits
  text(0, "RIFF");
  header.setUint32(4, 36 + bytes, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true); // PCM
  header.setUint16(22, 2, true);
  header.setUint32(24, rate, true);
  header.setUint32(28, 4 * rate, true);
  header.setUint16(32, 4, true);
  header.setUint16(34, 16, true);
  text(36, "data");
  header.setUint32(40, bytes, true);
  return header.buffer;
}
