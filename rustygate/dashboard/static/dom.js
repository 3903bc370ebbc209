// Creating and changing nodes. Text is never set as HTML.

export function element(name, className = "", ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

/** Set a node's text, unless it has it already. */
export function setText(node, text) {
  if (node.firstChild?.data !== text) node.textContent = text;
}

export const byId = (id) => document.getElementById(id);
