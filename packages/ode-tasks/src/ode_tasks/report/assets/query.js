// Which rows are shown, and in which order.

const COMPARISONS = {
  "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
  "=": (a, b) => a === b, "!=": (a, b) => a !== b,
};

// Return the terms of a query: words, and conditions such as error<1e-4 or status:failed.
function parseQuery(text, columns) {
  const terms = [];
  const joined = text.replace(/\s*(<=|>=|!=|<|>|=|:)\s*/g, "$1");
  for (const [found] of joined.matchAll(/[^\s"]*"[^"]*"|\S+/g)) {
    const parts = /^(\w+)(<=|>=|!=|<|>|=|:)(.+)$/.exec(found);
    const column = parts && columnCalled(parts[1].toLowerCase(), columns);
    if (column) terms.push({ column, how: parts[2], value: parts[3].replaceAll('"', "").toLowerCase() });
    else terms.push({ word: found.replaceAll('"', "").toLowerCase() });
  }
  return terms;
}

function columnCalled(name, columns) {
  return columns.find((column) => column.name === name || column.heading === name) ||
    columns.find((column) => column.name.includes(name) || column.heading.includes(name));
}

// Return one function of a row for each term; all have to say yes.
function testsOf(terms, columns) {
  return terms.map((term) => (term.word !== undefined ? wordTest(term.word, columns) : conditionTest(term)));
}

function wordTest(word, columns) {
  const hits = [];
  for (const column of columns) {
    if (!column.codes) continue;
    const hit = Uint8Array.from(column.lower, (text) => text.includes(word));
    if (hit.includes(1)) hits.push({ codes: column.codes, hit });
  }
  if (hits.length === 1) return ((codes, hit) => (row) => hit[codes[row]] === 1)(hits[0].codes, hits[0].hit);
  return (row) => hits.some(({ codes, hit }) => hit[codes[row]] === 1);
}

function conditionTest({ column, how, value }) {
  if (column.numbers) {
    const number = Number(value);
    const compare = COMPARISONS[how === ":" ? "=" : how];
    const numbers = column.numbers;
    return (row) => !Number.isNaN(numbers[row]) && compare(numbers[row], number);
  }
  const compare = how === ":" ? (text) => text.includes(value) : (text) => COMPARISONS[how](text, value);
  const hit = Uint8Array.from(column.lower, compare);
  const codes = column.codes;
  return (row) => hit[codes[row]] === 1;
}

// Return the rows of an order that all tests let through.
function filterRows(order, tests) {
  const kept = new Int32Array(order.length);
  let count = 0;
  for (let place = 0; place < order.length; place++) {
    const row = order[place];
    let keep = true;
    for (let n = 0; keep && n < tests.length; n++) keep = tests[n](row);
    if (keep) kept[count++] = row;
  }
  return kept.subarray(0, count);
}

// Return all rows in the order of a column; what it does not have comes last either way.
function sortRows(count, column, down) {
  const order = Int32Array.from({ length: count }, (_, row) => row);
  if (!column) return order;
  const ranks = column.numbers || ranked(column);
  const sign = down ? -1 : 1;
  return order.sort((a, b) => {
    const x = ranks[a], y = ranks[b];
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a - b;
    return x === y ? a - b : sign * (x - y);
  });
}

function ranked(column) {
  const places = column.texts.map((_, code) => code);
  const collator = new Intl.Collator("en", { numeric: true });
  places.sort((a, b) => collator.compare(column.texts[a], column.texts[b]));
  const ranks = new Float64Array(places.length);
  places.forEach((code, rank) => { ranks[code] = column.texts[code] === "" ? NaN : rank; });
  return Float64Array.from(column.codes, (code) => ranks[code]);
}
