// What the page holds: columns that are quick to filter and sort, and whole rows in pieces.

async function unpack(id) {
  const letters = atob(byId(id).textContent);
  const bytes = new Uint8Array(letters.length);
  for (let place = 0; place < letters.length; place++) bytes[place] = letters.charCodeAt(place);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

async function loadData() {
  const { columns, piece, charts } = await unpack("data");
  const byName = {};
  for (const column of columns) {
    byName[column.name] = column;
    if (column.numbers) {
      column.numbers = Float64Array.from(column.numbers, (value) => (value === null ? NaN : value));
    } else {
      column.codes = Int32Array.from(column.codes);
      column.lower = column.texts.map((text) => text.toLowerCase());
    }
  }
  const cells = byName.cell;
  const rowOf = new Map();
  cells.codes.forEach((code, row) => rowOf.set(cells.texts[code], row));
  return { columns, byName, piece, charts, rowOf, count: cells.codes.length, pieces: new Map() };
}

async function wholeRow(data, row) {
  const number = Math.floor(row / data.piece);
  if (!data.pieces.has(number)) data.pieces.set(number, unpack(`piece${number}`));
  return (await data.pieces.get(number))[row % data.piece];
}

function valueText(column, row) {
  return column.numbers ? numberText(column.numbers[row]) : column.texts[column.codes[row]];
}

function keyOf(data, row) {
  return valueText(data.byName.cell, row);
}
