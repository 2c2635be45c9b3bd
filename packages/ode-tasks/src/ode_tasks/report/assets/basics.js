"use strict";

// Elements, numbers in words, and scales with their ticks.

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function makeSvg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function byId(id) {
  return document.getElementById(id);
}

function numberText(value, digits = 4) {
  if (value === null || Number.isNaN(value)) return "";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) {
    return value.toExponential(Math.min(digits, 3) - 1).replace("e+", "e");
  }
  if (Number.isInteger(value)) return value.toLocaleString("en");
  if (size >= 10 ** digits) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(digits)));
}

const SUPERSCRIPTS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

function tickText(value, log) {
  const power = Math.log10(Math.abs(value));
  if (log && Number.isInteger(Math.round(power * 1e9) / 1e9) && (power < -3.5 || power > 4.5)) {
    return "10" + [...String(Math.round(power))].map((digit) => SUPERSCRIPTS[digit]).join("");
  }
  return numberText(Number(value.toPrecision(6)), 3);
}

// A scale maps values to [0, 1]: where they lie between the ends of an axis.
function makeScale(values, log, whole = false) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (log ? value > 0 : Number.isFinite(value)) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (low > high) return null;
  if (log) {
    const [a, b] = widened(Math.log10(low), Math.log10(high), 0.15);
    return { log, low: 10 ** a, high: 10 ** b, at: (v) => (Math.log10(v) - a) / (b - a),
      back: (share) => 10 ** (a + share * (b - a)), ticks: logTicks(a, b) };
  }
  const [a, b] = widened(low, high, whole ? 0.5 : Math.abs(high) * 0.05 || 0.5);
  return { log, low: a, high: b, at: (v) => (v - a) / (b - a), back: (share) => a + share * (b - a),
    ticks: linearTicks(a, b, whole) };
}

function widened(low, high, least) {
  const room = Math.max((high - low) * 0.06, high - low < 2 * least ? least : 0);
  return [low - room, high + room];
}

function linearTicks(low, high, whole) {
  const rough = (high - low) / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  if (whole) step = Math.max(1, Math.round(step));
  const ticks = [];
  for (let n = Math.ceil(low / step); n * step <= high; n++) ticks.push(n * step);
  return ticks;
}

function logTicks(low, high) {
  const factors = high - low < 0.8 ? [1, 1.5, 2, 3, 4, 5, 6, 8] : high - low < 2.2 ? [1, 2, 5] : [1];
  const every = Math.max(1, Math.ceil((high - low) / 6));
  const ticks = [];
  for (let power = Math.floor(low); power <= high; power++) {
    if (power % every) continue;
    for (const factor of factors) {
      const place = power + Math.log10(factor);
      if (place >= low && place <= high) ticks.push(factor * 10 ** power);
    }
  }
  return ticks;
}

function showTip(text, x, y) {
  const tip = byId("tip");
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 8))}px`;
  tip.style.top = `${y + 18 + height > innerHeight ? y - height - 12 : y + 18}px`;
}

function openCell(key) {
  if (key) location.hash = `cell=${key}`;
}
