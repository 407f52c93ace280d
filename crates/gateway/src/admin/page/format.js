// Numbers as people read them. Knows no element.

const NONE = "–";

const is = (value) => typeof value === "number" && Number.isFinite(value);

/// Three digits that count: 1.23, 12.3, 123, 1,234, 12.3 k, 1.23 M.
export function number(value) {
  if (!is(value)) return NONE;
  const size = Math.abs(value);
  if (size >= 1e9) return `${digits(value / 1e9)} G`;
  if (size >= 1e6) return `${digits(value / 1e6)} M`;
  if (size >= 1e4) return `${digits(value / 1e3)} k`;
  if (size >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en-US");
  return digits(value);
}

function digits(value) {
  const size = Math.abs(value);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2);
}

/// $12.34, $0.0042, $1,234
export function usd(value) {
  if (!is(value)) return NONE;
  const size = Math.abs(value);
  if (size >= 1000) return `$${Math.round(value).toLocaleString("en-US")}`;
  if (size === 0 || size >= 0.1) return `$${value.toFixed(2)}`;
  return `$${value.toPrecision(2)}`;
}

export function seconds(value) {
  if (!is(value)) return NONE;
  if (value < 0.01) return `${(value * 1000).toFixed(1)} ms`;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  return `${digits(value)} s`;
}

export function percent(share) {
  if (!is(share)) return NONE;
  const value = share * 100;
  if (value > 0 && value < 0.1) return "< 0.1 %";
  return `${value < 10 && value > 0 ? value.toFixed(1) : Math.round(value)} %`;
}

/// How long ago, or how old.
export function age(value) {
  if (!is(value)) return NONE;
  if (value < 90) return `${Math.round(value)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  if (value < 129600) return `${Math.round(value / 3600)} h`;
  return `${Math.round(value / 86400)} d`;
}

export function clock(milliseconds) {
  return new Date(milliseconds).toLocaleTimeString("en-GB");
}
