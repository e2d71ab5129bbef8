/**
 * xterm.js under a content security policy without inline styles.
 *
 * xterm.js adds <style> elements and sets attributes `style`, and the policy forbids both. The same rules in
 * constructed style sheets, and the same declarations through CSSOM, are allowed. So the document makes elements that
 * do it this way. xterm.js has an option for that, `documentOverride`, which it does not use everywhere (6.0).
 */

/** Have the document make such elements from now on; others are as before. */
export function avoidInlineStyles(): void {
  document.createElement = createElement as Document["createElement"];
}

function createElement(this: Document, name: string, options?: ElementCreationOptions): HTMLElement {
  if (name === "style") return sheetElement();
  const element: HTMLElement = Document.prototype.createElement.call(document, name, options);
  if (name === "span") element.setAttribute = setAttribute;
  return element;
}

function setAttribute(this: HTMLElement, name: string, value: string): void {
  if (name === "style") this.style.cssText = value;
  else Element.prototype.setAttribute.call(this, name, value);
}

/** Return an element whose text is a style sheet of the page until it is removed. */
function sheetElement(): HTMLElement {
  const sheet = new CSSStyleSheet();
  const element = document.createElement("template");
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  Object.defineProperty(element, "textContent", { set: (css: string) => sheet.replaceSync(css) });
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((each) => each !== sheet);
    HTMLElement.prototype.remove.call(element);
  };
  return element;
}
