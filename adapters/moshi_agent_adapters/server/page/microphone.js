// The microphone: asking for it, choosing one, and what to do where it is refused.

const CONSTRAINTS = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };

/** Why there is no microphone, as paragraphs for people. */
export class NoMicrophone extends Error {
  constructor(paragraphs) {
    super(paragraphs[0]);
    this.paragraphs = paragraphs;
  }
}

/** Whether this page may ask for a microphone at all. */
export function isAllowed() {
  return Boolean(navigator.mediaDevices?.getUserMedia);
}

/** How a page gets to be one that may ask, as paragraphs with code in backquotes. */
export function howToAllow() {
  const port = location.port || "80";
  return [
    "Browsers give the microphone only to pages from this computer or over https, and this one came over plain http.",
    "Start the server with `--ssl-self-signed` (or `--ssl-cert` and `--ssl-key`) and open the page with https, "
      + `or make a tunnel with \`ssh -L ${port}:localhost:${port} ${location.hostname}\` and open \`http://localhost:${port}\`.`,
    "The sample questions work as it is.",
  ];
}

/** The track of a microphone, echo cancelled. Throws NoMicrophone. */
export async function openMicrophone(deviceId) {
  if (!isAllowed()) throw new NoMicrophone(howToAllow());
  const audio = deviceId ? { ...CONSTRAINTS, deviceId: { exact: deviceId } } : CONSTRAINTS;
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio });
    return stream.getAudioTracks()[0];
  } catch (error) {
    throw new NoMicrophone(explain(error));
  }
}

/** All microphones, as {id, label}; labels are known once one was opened. */
export async function listMicrophones() {
  if (!navigator.mediaDevices?.enumerateDevices) return [];
  const devices = await navigator.mediaDevices.enumerateDevices();
  return devices
    .filter((device) => device.kind === "audioinput" && device.deviceId)
    .map((device, index) => ({ id: device.deviceId, label: device.label || `Microphone ${index + 1}` }));
}

function explain(error) {
  switch (error.name) {
    case "NotAllowedError":
      return [
        "The microphone was refused.",
        "Allow it in the browser, at the left end of the address bar, and call again. Sample questions work without.",
      ];
    case "NotFoundError":
    case "OverconstrainedError":
      return ["There is no such microphone.", "Plug one in or choose another. Sample questions work without."];
    case "NotReadableError":
      return ["The microphone is in use by another program.", "Close that program and call again."];
    default:
      return [`The microphone cannot be opened: ${error.message || error.name}`];
  }
}
