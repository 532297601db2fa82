// Requests to the server. A token, where it asks for one, goes into a header and stays in this tab.

const TOKEN_KEY = "moshi-agent-token";

/** What the server refused, with its own words. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Takes the token out of the address (`/#token=...`), where it may have been handed over. */
export function adoptTokenFromAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    setToken(token);
    history.replaceState(null, "", location.pathname + location.search);
  }
}

export function setToken(token) {
  sessionStorage.setItem(TOKEN_KEY, token);
}

function headers() {
  const token = sessionStorage.getItem(TOKEN_KEY);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** The address of a websocket. No header of ours goes with it: the token stands in its query. */
export function socketAddress(path) {
  const url = new URL(path, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  url.hash = "";
  const token = sessionStorage.getItem(TOKEN_KEY);
  if (token) url.searchParams.set("token", token);
  return url;
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  } catch (error) {
    const code = error.name === "TimeoutError" ? "timeout" : "unreachable";
    throw new ApiError(0, code, "The server cannot be reached.");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response) {
  const text = await response.text().catch(() => "");
  try {
    const { code, message } = JSON.parse(text).error;
    return new ApiError(response.status, code, message);
  } catch {
    return new ApiError(response.status, "http", text.slice(0, 200) || response.statusText);
  }
}

export async function getJson(path, options = {}) {
  return (await request(path, options)).json();
}

export async function getBytes(path) {
  return (await request(path)).arrayBuffer();
}
