// Elements, and texts with a little Markdown. All is text: nothing is parsed as HTML.

/** An element with properties and children, of which null ones are left out. */
export function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

/** A text in lines of their own, which the keyboard can scroll. */
export function scrollable(text, label) {
  const made = element("pre", { tabIndex: 0, role: "region" }, text);
  made.setAttribute("aria-label", label);
  return made;
}

/** A line with `code` and **strong** words. */
export function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part) => {
    if (part.startsWith("`") && part.length > 2) return element("code", {}, part.slice(1, -1));
    if (part.startsWith("**") && part.length > 4) return element("strong", {}, part.slice(2, -2));
    return part;
  });
}

/** Paragraphs and lists. */
export function prose(text) {
  const blocks = [];
  for (const line of (text ?? "").split("\n")) {
    if (line.startsWith("* ")) {
      const last = blocks.at(-1);
      const list = last?.tagName === "UL" ? last : element("ul", {});
      if (list !== last) blocks.push(list);
      list.append(element("li", {}, inline(line.slice(2))));
    } else if (line.trim() !== "") {
      blocks.push(element("p", {}, inline(line)));
    }
  }
  return blocks;
}

/** JSON on several lines. A text stays as it is. */
export function pretty(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}
