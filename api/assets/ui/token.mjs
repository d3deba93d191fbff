// The token, which goes with every request in a header: not in a cookie, which a browser would send
// by itself, and not in a URL, which logs and histories keep. It stays in the session storage of
// this tab, which the browser deletes with the tab.

const KEY = "storm-token";

export const token = () => sessionStorage.getItem(KEY);
export const setToken = (value) => sessionStorage.setItem(KEY, value);
export const forgetToken = () => sessionStorage.removeItem(KEY);

// `fetch` with the token.
export function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  const value = token();
  if (value !== null) headers.set("authorization", `Bearer ${value}`);
  return fetch(path, { cache: "no-store", credentials: "omit", ...options, headers });
}

// What an answer that is no success says: the problem's detail (RFC 9457).
export async function detailOf(answer) {
  try {
    const problem = await answer.json();
    const faults = (problem.errors ?? []).map((it) => `${it.field}: ${it.detail}`);
    return [problem.detail ?? problem.title ?? `Status ${answer.status}.`, ...faults].join(" ");
  } catch {
    return `Status ${answer.status}.`;
  }
}
