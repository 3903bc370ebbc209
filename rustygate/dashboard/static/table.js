// A table that is updated in place: rows are found by their key, and only changes touch the page.
// While the table is being read (pointer over it, or focus in it), no row is added, removed or moved.
// It has one Tab stop, and arrow keys move from cell to cell.

import { byId, element, setText } from "./dom.js";
import { explain } from "./tip.js";

// A pointer that rests on a table for longer than this no longer counts as reading.
const READING_MS = 20_000;

// For how many updates a table keeps its height after its rows became fewer.
const KEPT_UPDATES = 60;

const NAME_WIDTH = 17;

class Row {
  constructor(columns) {
    this.node = element("tr");
    this.columns = columns;
    this.cells = columns.map((column, at) => this.add(column, at === 0));
  }

  add(column, isHead) {
    const cell = column.cell();
    const td = element(isHead ? "th" : "td", column.kind ?? "", cell.node);
    if (isHead) td.scope = "row";
    td.tabIndex = -1;
    explain(td, (fraction) => ({
      title: column.label,
      value: column.detail?.(this.data, fraction) ?? cell.node.textContent,
      help: column.help,
    }));
    this.node.append(td);
    return { td, show: cell.show };
  }

  show(data) {
    this.data = data;
    this.cells.forEach(({ td, show }, at) => {
      show(data);
      td.classList.toggle("wrong", Boolean(this.columns[at].wrong?.(data)));
    });
  }
}

export class Table {
  /**
   * @param parent the id of the element that gets the table.
   * @param options `caption`; `columns`; `key(row)`; `empty`: the text of an empty table;
   *   `order`: the key of the column to sort by; without it, rows keep their order; `total(rows)`.
   */
  constructor(parent, { caption, columns, key, empty, order, total }) {
    Object.assign(this, { columns, key, total });
    this.rows = new Map();
    this.spare = [];
    this.sorting = order ? { column: columns.find((column) => column.key === order), sign: 1 } : null;
    this.isSortable = Boolean(order);
    this.peaks = [];
    this.readUntil = 0;
    this.build(byId(parent), caption, empty);
    this.listen();
  }

  build(parent, caption, empty) {
    this.body = element("tbody");
    this.heads = this.columns.map((column) => this.head(column));
    const head = element("thead", "", element("tr", "", ...this.heads));
    this.table = element("table", "", element("caption", "hidden", caption), this.group(), head, this.body);
    this.table.style.setProperty("min-width", `${this.width}ch`);
    if (this.total) this.foot();
    this.empty = element("p", "empty", empty);
    this.held = element("p", "held");
    this.box = element("div", "box", this.table, this.empty);
    parent.append(this.held, this.box);
    this.stop = this.target(this.heads[0]);
    this.stop.tabIndex = 0;
  }

  group() {
    const group = element("colgroup");
    let width = 0;
    for (const column of this.columns) {
      const col = group.appendChild(element("col"));
      if (column.width) col.style.setProperty("width", `${column.width}ch`);
      width += column.width ?? NAME_WIDTH;
    }
    this.width = width;
    return group;
  }

  head(column) {
    const label = element(this.isSortable ? "button" : "span", "", column.label);
    const th = element("th", column.kind ?? "", label);
    th.scope = "col";
    if (this.isSortable) {
      label.type = "button";
      label.tabIndex = -1;
      label.addEventListener("click", () => this.sortBy(column));
    } else th.tabIndex = -1;
    explain(th, () => ({ title: column.label, help: column.help }));
    return th;
  }

  foot() {
    this.sum = new Row(this.columns);
    this.table.append(element("tfoot", "", this.sum.node));
  }

  listen() {
    const read = () => (this.readUntil = performance.now() + READING_MS);
    this.body.addEventListener("pointermove", read);
    this.body.addEventListener("pointerleave", () => (this.readUntil = 0));
    this.table.addEventListener("keydown", (event) => this.move(event));
    this.table.addEventListener("focusin", (event) => this.setStop(event.target));
  }

  isRead() {
    const focused = this.body.querySelector(":focus-visible");
    return Boolean(focused) || performance.now() < this.readUntil;
  }

  update(rows) {
    this.latest = rows;
    this.columns.forEach((column, at) => column.heading && this.relabel(at, column.heading()));
    if (this.isRead() && this.rows.size) this.updateHeld(rows);
    else this.updateAll(rows);
    if (this.sum) this.sum.show(this.total(rows));
    this.show();
  }

  relabel(at, label) {
    setText(this.heads[at].firstChild, label);
  }

  updateHeld(rows) {
    const found = new Map(rows.map((row) => [this.key(row), row]));
    for (const [key, row] of this.rows) {
      const data = found.get(key);
      row.node.classList.toggle("gone", !data);
      if (data) row.show(data);
    }
    const newer = rows.filter((row) => !this.rows.has(this.key(row))).length;
    setText(this.held, newer ? `paused while you read: ${newer} newer` : "paused while you read");
  }

  updateAll(rows) {
    setText(this.held, "");
    const ordered = this.sorted(rows);
    const keys = new Set(ordered.map(this.key));
    for (const [key, row] of this.rows) {
      if (!keys.has(key)) this.drop(key, row);
    }
    let next = this.body.firstChild;
    for (const data of ordered) {
      const { node } = this.fill(data);
      if (node === next) next = next.nextSibling;
      else this.body.insertBefore(node, next);
    }
  }

  fill(data) {
    const key = this.key(data);
    const row = this.rows.get(key) ?? this.spare.pop() ?? new Row(this.columns);
    this.rows.set(key, row);
    row.node.classList.remove("gone");
    row.show(data);
    return row;
  }

  drop(key, row) {
    this.rows.delete(key);
    this.spare.push(row);
    row.node.remove();
  }

  sorted(rows) {
    if (!this.sorting) return rows;
    const { column, sign } = this.sorting;
    const compare = (a, b) => order(column.sort(a), column.sort(b), sign) || order(this.key(a), this.key(b));
    return [...rows].sort(compare);
  }

  sortBy(column) {
    const isSame = this.sorting.column === column;
    const first = column.kind?.startsWith("number") ? -1 : 1;
    this.sorting = { column, sign: isSame ? -this.sorting.sign : first };
    this.updateAll(this.latest ?? []);
    this.show();
  }

  /** Update what depends on the number of rows and on the order. */
  show() {
    const rows = this.rows.size;
    this.peaks = [...this.peaks, rows].slice(-KEPT_UPDATES);
    this.box.style.setProperty("--rows", Math.max(...this.peaks));
    this.empty.hidden = rows > 0;
    this.table.hidden = rows === 0;
    this.heads.forEach((th, at) => {
      if (this.sorting?.column !== this.columns[at]) th.removeAttribute("aria-sort");
      else th.setAttribute("aria-sort", this.sorting.sign > 0 ? "ascending" : "descending");
    });
    if (!this.stop.isConnected) this.setStop(this.target(this.heads[0]));
  }

  target(cell) {
    return cell.querySelector("button") ?? cell;
  }

  setStop(node) {
    this.stop.tabIndex = -1;
    this.stop = node;
    node.tabIndex = 0;
  }

  move(event) {
    const cell = event.target.closest("th, td");
    const next = cell && this.neighbour(cell, event);
    if (!next) return;
    event.preventDefault();
    this.target(next).focus();
    next.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  neighbour(cell, { key, ctrlKey }) {
    const rows = [...this.table.rows];
    const row = cell.parentNode;
    const at = rows.indexOf(row);
    const last = row.cells.length - 1;
    switch (key) {
      case "ArrowLeft": return row.cells[cell.cellIndex - 1];
      case "ArrowRight": return row.cells[cell.cellIndex + 1];
      case "ArrowUp": return rows[at - 1]?.cells[cell.cellIndex];
      case "ArrowDown": return rows[at + 1]?.cells[cell.cellIndex];
      case "Home": return (ctrlKey ? rows[0] : row).cells[0];
      case "End": return (ctrlKey ? rows.at(-1) : row).cells[last];
      default: return null;
    }
  }
}

const isKnown = (value) => value !== null && value !== undefined;

/** Unknown values sort last in both directions. */
function order(a, b, sign = 1) {
  if (!isKnown(a) || !isKnown(b)) return isKnown(b) - isKnown(a);
  return sign * (typeof a === "string" ? a.localeCompare(String(b)) : a - b);
}
