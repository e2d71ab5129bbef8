/** Return whether a key leaves a terminal or a screen, as it does for virsh: Ctrl and the key of `]`. */
export function isWayOut(event: KeyboardEvent): boolean {
  return event.ctrlKey && !event.altKey && (event.key === "]" || event.code === "BracketRight");
}
