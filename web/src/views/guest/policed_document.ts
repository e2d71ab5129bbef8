/**
 * A document for xterm.js under a content security policy without inline styles.
 *
 * xterm.js adds <style> elements and sets attributes `style`, and the policy forbids both. The same rules in
 * constructed style sheets, and the same declarations through CSSOM, are allowed.
 */

/** Return a document that makes such elements, and is the page's otherwise. */
export function policedDocument(): Document {
  return new Proxy(document, {
    get(target, property) {
      if (property === "createElement") return createElement;
      const value: unknown = Reflect.get(target, property, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
    set: (target, property, value) => Reflect.set(target, property, value, target),
  });
}

function createElement(name: string): HTMLElement {
  if (name === "style") return sheetElement();
  const element = document.createElement(name);
  element.setAttribute = setAttribute;
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
