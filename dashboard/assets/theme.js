// Put the chosen theme on the page before anything is painted. A classic script: modules run too late for that.
(() => {
  const THEMES = ["auto", "light", "dark"];
  const page = document.documentElement;

  // Storage may be forbidden; the page then forgets what was chosen.
  window.tallyKept = {
    read(name) {
      try {
        return localStorage.getItem(`tally.${name}`);
      } catch {
        return null;
      }
    },
    write(name, value) {
      try {
        localStorage.setItem(`tally.${name}`, value);
      } catch {}
    },
  };

  window.nextTheme = () => {
    page.dataset.theme = THEMES[(THEMES.indexOf(page.dataset.theme) + 1) % THEMES.length];
    tallyKept.write("theme", page.dataset.theme);
  };

  const kept = tallyKept.read("theme");
  page.dataset.theme = THEMES.includes(kept) ? kept : "auto";
})();
