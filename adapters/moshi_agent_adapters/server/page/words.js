// What the page says when a call cannot be, or is over: in words for people, by the code or the reason.

const REFUSALS = {
  engine_full: "All lines are busy. Try again in a moment.",
  too_many_calls: "There are already as many calls from your network as this server takes. Try again when one is over.",
  too_many_offers: "That was too often in a short time. Try again in a moment.",
  engine_unhealthy: "The server has a problem and is getting back on its feet. Try again in a minute.",
  engine_error: "The server could not begin the call. Try again in a moment.",
  unreachable: "The server cannot be reached. Check your connection, then try again.",
  forbidden: "This server does not take calls from this page's address.",
};

const ENDS = {
  drained: "The server is being shut down or restarted.",
  engine_lost: "The server lost the conversation.",
  error: "Something went wrong on the server.",
  lost: "The connection to the server is lost.",
  gone: "The server does not answer any more.",
};

/** Why a call did not come about. */
export function refusal(error) {
  return REFUSALS[error.code] ?? (error.status === 503 ? REFUSALS.engine_full : error.message);
}

/** Why a call is over, which nobody here has ended. */
export function end(reason) {
  return ENDS[reason] ?? "The server has ended the call.";
}

const NOT_FOUND = {
  interrupted: "You went on talking: the search was dropped.",
  superseded: "Something else is looked up instead.",
  timed_out: "Nothing was found in time.",
};

/** What has become of something that was looked up. */
export function found({ reason, text }) {
  if (reason === "answered") return `Found: ${text}`;
  return NOT_FOUND[reason] ?? "Nothing was found.";
}
