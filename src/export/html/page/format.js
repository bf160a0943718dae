// Numbers and names as people read them, and the making of elements. Text only ever becomes a text node.

/** An element with attributes (`class`, listeners as `onclick`) and children: elements, or text. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const byId = (id) => document.getElementById(id);

function threeDigits(value) {
  if (value < 9.995) return value.toFixed(2);
  return value < 99.95 ? value.toFixed(1) : value.toFixed(0);
}

/** A time of so many microseconds with three digits and its unit. */
function time(us) {
  if (us === 0) return "0 s";
  if (us < 999.5) return `${threeDigits(us)} µs`;
  if (us < 999_500) return `${threeDigits(us / 1e3)} ms`;
  if (us < 120e6) return `${threeDigits(us / 1e6)} s`;
  const seconds = Math.floor(us / 1e6);
  const two = (number) => String(number).padStart(2, "0");
  return seconds < 3600
    ? `${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`
    : `${Math.floor(seconds / 3600)} h ${two(Math.floor(seconds / 60) % 60)} min`;
}

/** A number with a comma between thousands. */
const count = (number) => Math.round(number).toLocaleString("en-US");

const percent = (part, whole) => {
  const value = whole > 0 ? (100 * part) / whole : 0;
  return `${value > 0 && value < 0.05 ? "<0.1" : value.toFixed(1)} %`;
};

/** The ways of weighing, in the order of the number keys. */
const WEIGHTS = [
  { name: "cpu", label: "CPU", long: "CPU time", words: time },
  { name: "wall", label: "Wall", long: "Wall-clock time", words: time },
  { name: "off", label: "Off-CPU", long: "Time asleep (off-CPU)", words: time },
  { name: "queue", label: "Run queue", long: "Time waiting for a CPU", words: time },
  { name: "samples", label: "Samples", long: "Samples", words: count },
];

/** Where in a C++ name the return type ends and the parameters begin, if it has any. */
function nameEnds(name) {
  let depth = 0;
  let space = 0; // after the last one outside of brackets
  let found = { start: 0, end: name.length };
  for (let at = 0; at < name.length; at++) {
    const letter = name[at];
    if (letter === "(" && depth === 0) found = { start: space, end: at };
    if (letter === "<" || letter === "(") depth++;
    else if (letter === ">" || letter === ")") depth--;
    else if (letter === " " && depth === 0 && !/[<[c]/.test(name[at + 1])) space = at + 1;
  }
  // `(*T).method` of Go has none: parameters come last.
  const isLast = /\)( const)?( \[.*\])?$/.test(name);
  return isLast && found.start < found.end ? found : { start: 0, end: name.length };
}

/** `Order.price (shop.py:7)`: a script's function, and where it stands. */
const SCRIPT_PLACE = / \([^()]*:\d+\)$/;
/** Names of which nothing is to be left out, because they are no more than they say. */
const isPlain = (name) => name.length < 24 || name.startsWith("[") || SCRIPT_PLACE.test(name);

/** Operators are no brackets: while a name is looked at, each is a letter that no name has. */
const OPERATORS = [
  "operator()",
  "operator<=>",
  "operator<<",
  "operator>>",
  "operator->",
  "operator<",
  "operator>",
  "->",
];
const letterOf = (at) => String.fromCharCode(0xe000 + at);
const veil = (name) => OPERATORS.reduce((name, operator, at) => name.replaceAll(operator, letterOf(at)), name);
const unveil = (name) => OPERATORS.reduce((name, operator, at) => name.replaceAll(letterOf(at), operator), name);

/** A name that begins with what is called, not with what it returns. */
function tableName(name) {
  if (isPlain(name)) return name;
  const veiled = veil(name);
  return unveil(veiled.slice(nameEnds(veiled).start));
}

/** What is called, and no more: without types, parameters and places. */
function shortName(name) {
  if (isPlain(name)) return name.replace(SCRIPT_PLACE, "");
  const veiled = veil(name);
  const { start, end } = nameEnds(veiled);
  let depth = 0;
  let short = "";
  for (const letter of veiled.slice(start, end)) {
    if (letter === "<" && depth++ === 0) short += "<…>";
    else if (letter === ">" && depth > 0) depth--;
    else if (depth === 0) short += letter;
  }
  return short === "" ? name : unveil(short);
}
