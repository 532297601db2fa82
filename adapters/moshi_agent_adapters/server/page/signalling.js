// The websocket of one call, over which it is begun, renewed and ended.

import { ApiError, getJson, socketAddress } from "./api.js";

const FIRST_ANSWER_MS = 15000; // to the offer of a new call
const ANSWER_MS = 1500; // to a renewed one: a websocket that does not answer has lost its network
const PROBE_MS = 3000;

export class Signalling {
  #socket = null;
  #id = null; // of the call
  #waiting = null; // for an answer
  #onEnded;

  /** `onEnded` is called with the reason when the server has ended the call, and with a token if it goes on for that. */
  constructor(onEnded) {
    this.#onEnded = onEnded;
  }

  /** Sends an offer, of a new call or of the one that there is. Gives the SDP of the answer. */
  async offer(sdp, options) {
    if (this.#socket?.readyState !== WebSocket.OPEN) await this.#open();
    try {
      const answer = await this.#ask({ type: "offer", sdp, options, id: this.#id ?? undefined });
      this.#id = answer.id;
      return answer.sdp;
    } catch (error) {
      if (error.code === "timeout") this.#drop();
      throw error;
    }
  }

  /** Tells of an address of this browser that it has found after the offer. */
  candidate(line) {
    if (this.#id !== null) this.#send({ type: "candidate", candidate: line });
  }

  hangUp() {
    this.#send({ type: "hang_up" });
    this.#drop();
  }

  async #open() {
    const socket = new WebSocket(socketAddress("/api/webrtc/call"));
    try {
      await new Promise((resolve, reject) => {
        socket.onopen = resolve;
        socket.onerror = reject;
      });
    } catch {
      await getJson("/api/webrtc", { signal: AbortSignal.timeout(PROBE_MS) }); // says why, where it is refused
      throw new ApiError(0, "unreachable", "The server cannot be reached.");
    }
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = () => this.#settle(new ApiError(0, "unreachable", "The server has closed the connection."));
    this.#socket = socket;
  }

  #ask(message) {
    return new Promise((resolve, reject) => {
      const slow = () => this.#settle(new ApiError(0, "timeout", "The server does not answer."));
      const timer = setTimeout(slow, this.#id === null ? FIRST_ANSWER_MS : ANSWER_MS);
      this.#waiting = { resolve, reject, timer };
      this.#send(message);
    });
  }

  #receive(message) {
    if (message.type === "answer") this.#settle(null, message);
    if (message.type === "error") this.#settle(new ApiError(0, message.code, message.message));
    if (message.type === "ended") this.#onEnded(message.reason);
    if (message.type === "moved") this.#onEnded("moved", message.resume);
  }

  #settle(error, answer) {
    const waiting = this.#waiting;
    if (waiting === null) return;
    this.#waiting = null;
    clearTimeout(waiting.timer);
    if (error) waiting.reject(error);
    else waiting.resolve(answer);
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #drop() {
    this.#socket?.close();
    this.#socket = null;
  }
}
