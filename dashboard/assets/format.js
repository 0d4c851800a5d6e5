// Numbers, instants and ages as text. Instants are shown in UTC or in the reader's zone, whichever is chosen.

const DAY = { day: "2-digit", month: "short" };
const MINUTE = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const FORMS = {
  day: DAY,
  minute: MINUTE,
  second: { ...MINUTE, second: "2-digit" },
  dayMinute: { ...DAY, ...MINUTE },
  daySecond: { ...DAY, ...MINUTE, second: "2-digit" },
};

let isLocal = tallyKept.read("zone") === "local";
let formats = makeFormats();

function makeFormats() {
  const timeZone = isLocal ? undefined : "UTC";
  const format = ([name, form]) => [name, new Intl.DateTimeFormat("en-GB", { ...form, timeZone })];
  return Object.fromEntries(Object.entries(FORMS).map(format));
}

export const zone = {
  get isLocal() {
    return isLocal;
  },
  get name() {
    return isLocal ? "local time" : "UTC";
  },
  toggle() {
    isLocal = !isLocal;
    formats = makeFormats();
    tallyKept.write("zone", isLocal ? "local" : "utc");
  },
};

/** Return an instant (ISO text, Date or milliseconds) in one of the forms: day, minute, second, dayMinute, daySecond. */
export function instant(value, form = "second") {
  const date = new Date(value ?? NaN);
  return isNaN(date) ? "–" : formats[form].format(date).replace(",", "");
}

/** Return an instant's form for a bucket of so many seconds. */
export const bucketForm = (stepS) => (stepS >= 86_400 ? "day" : stepS >= 3_600 ? "dayMinute" : "minute");

function figures(form) {
  const numbers = new Intl.NumberFormat("en", form);
  return (value) => (Number.isFinite(value) ? numbers.format(value) : "–");
}

const tenth = figures({ maximumFractionDigits: 1 });
export const count = figures({ maximumFractionDigits: 0 });
export const rate = (value) => (Math.abs(value) < 100 ? tenth : count)(value);
export const share = figures({ style: "percent", maximumFractionDigits: 1 });
export const short = figures({ notation: "compact", maximumFractionDigits: 2 });

/** Return a duration in its largest fitting unit: `2 s`, `3 min`, `5 h`, `4 d`. */
export function age(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const s = Math.max(0, seconds);
  if (s < 100) return `${Math.ceil(s)} s`;
  if (s < 6_000) return `${Math.round(s / 60)} min`;
  return s < 172_800 ? `${Math.round(s / 3_600)} h` : `${Math.round(s / 86_400)} d`;
}

/** Return how many of what: `1 event`, `2 events`. */
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** Return a value of a dimension so that the empty one and spaces can be seen. */
export function named(value) {
  if ((value ?? null) === null) return "all";
  if (value === "") return "(empty)";
  return value.trim() === value ? value : `“${value}”`;
}
