// Ask the data behind the page. Every failure comes out as one kind of error that a panel can show.

const ROOT = new URL("../api/", import.meta.url);
const TIMEOUT_MS = 30_000;

/** Return the address of a question; fields that are null or undefined are left out. */
export function urlOf(path, fields = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(fields)) {
    if (value !== null && value !== undefined) url.searchParams.set(name, value);
  }
  return url.href;
}

/**
 * Return the decoded answer; throws AbortError when the signal aborts, else an Error with `code`, `hint` and `retryAfterS`.
 */
export async function ask(path, fields = {}, signal = undefined) {
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  let response;
  try {
    response = await fetch(urlOf(path, fields), { signal: signal ? AbortSignal.any([signal, timeout]) : timeout });
    if (response.ok) return await response.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Error(timeout.aborted ? `no answer within ${TIMEOUT_MS / 1000} s` : "Tally cannot be reached");
  }
  const { error = {} } = await response.json().catch(() => ({})); // What stands between may answer in another form.
  const retryAfterS = Number(response.headers.get("Retry-After")) || 0;
  throw Object.assign(new Error(error.message ?? `the answer was ${response.status}`), { code: error.code, hint: error.hint, retryAfterS });
}
