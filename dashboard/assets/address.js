// What the page shows is in its address: a link shares it, a reload keeps it, the back button undoes it.

const listeners = new Set();

export const address = {
  /** Return a value; an empty text is one. */
  get(name, fallback = null) {
    return new URLSearchParams(location.search).get(name) ?? fallback;
  },

  /** Change several values at once, null takes one out; say whether that changed anything. */
  change(changes) {
    const params = new URLSearchParams(location.search);
    const before = `${params}`;
    for (const [name, value] of Object.entries(changes)) {
      if (value === null) params.delete(name);
      else params.set(name, value);
    }
    if (`${params}` === before) return false;
    history.pushState(null, "", `${location.pathname}?${params}`);
    notify();
    return true;
  },

  onChange(listener) {
    listeners.add(listener);
  },
};

const notify = () => listeners.forEach((listener) => listener());

addEventListener("popstate", notify);
