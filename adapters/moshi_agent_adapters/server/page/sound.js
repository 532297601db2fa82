// The sound of both sides on this page: levels, sample questions in place of the microphone, and the recording.
//
//   microphone ── user bus ── level, recording (left)        the call sends the microphone's own track,
//   question ─┬─ user bus                                     or the desk's while a question is played
//             ├─ desk ── the call
//             └─ loudspeaker, softly
//   remote ───── bot bus ── level, recording (right)

const QUESTION_GAIN = 0.35; // on the loudspeaker
const SILENCE_DB = -60;

export class Sound {
  #context = new AudioContext({ latencyHint: "interactive" });
  #user = this.#context.createGain();
  #bot = this.#context.createGain();
  #desk = this.#context.createMediaStreamDestination();
  #microphone = null;
  #remote = null;
  #userLevel = this.#levelOf(this.#user);
  #botLevel = this.#levelOf(this.#bot);

  /** The audio context, running: call it from within a click. */
  async start() {
    if (this.#context.state !== "running") await this.#context.resume();
    return this.#context;
  }

  get user() {
    return this.#user;
  }

  get bot() {
    return this.#bot;
  }

  /** What the call sends while there is no microphone: silence and questions. */
  get deskTrack() {
    return this.#desk.stream.getAudioTracks()[0];
  }

  setMicrophone(track) {
    this.#microphone?.disconnect();
    this.#microphone = track && this.#context.createMediaStreamSource(new MediaStream([track]));
    this.#microphone?.connect(this.#user);
  }

  setRemote(stream) {
    this.#remote?.disconnect();
    this.#remote = stream && this.#context.createMediaStreamSource(stream);
    this.#remote?.connect(this.#bot);
  }

  decode(bytes) {
    return this.#context.decodeAudioData(bytes);
  }

  /** Plays a recording into the call; resolves when it is over. */
  play(buffer) {
    const source = new AudioBufferSourceNode(this.#context, { buffer });
    const speaker = new GainNode(this.#context, { gain: QUESTION_GAIN });
    source.connect(this.#user);
    source.connect(this.#desk);
    source.connect(speaker).connect(this.#context.destination);
    source.start();
    return new Promise((resolve) => {
      source.onended = () => {
        speaker.disconnect();
        resolve();
      };
    });
  }

  /** Both levels now, 0 (-60 dB or less) to 1 (full scale). */
  levels() {
    return { user: this.#userLevel(), bot: this.#botLevel() };
  }

  #levelOf(node) {
    const analyser = this.#context.createAnalyser();
    analyser.fftSize = 1024;
    node.connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    return () => {
      analyser.getFloatTimeDomainData(samples);
      let energy = 0;
      for (const sample of samples) energy += sample * sample;
      const db = 10 * Math.log10(energy / samples.length + 1e-12);
      return Math.min(1, Math.max(0, 1 - db / SILENCE_DB));
    };
  }
}
