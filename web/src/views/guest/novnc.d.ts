// the types that there are name an earlier path
declare module "@novnc/novnc" {
  export { default } from "@novnc/novnc/lib/rfb";
}
