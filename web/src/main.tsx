/** The page: testbeds as they are now. It uses the API and the events that the command line uses. */

import "./style/base.css";
import { effect } from "@preact/signals";
import { render } from "preact";
import { begin, session, signOut } from "./session";
import { Questions } from "./shell/dialog";
import { Lab } from "./shell/lab";
import { Labs } from "./shell/labs";
import { Notices } from "./shell/notices";
import { linkTo, place } from "./shell/router";
import { SignIn } from "./shell/sign_in";

function App() {
  const { lab } = place.value;
  return (
    <>
      <a class="skip" href="#main" onClick={toMain}>
        Skip to the content
      </a>
      <TopBar />
      <Content lab={lab} />
      <Notices />
      <Questions />
    </>
  );
}

function Content({ lab }: { lab: string }) {
  if (session.value === undefined) return <main id="main" class="sheet quiet" aria-busy="true" />;
  if (session.value === null) return <SignIn />;
  return lab === "" ? <Labs /> : <Lab place={place.value} />;
}

function TopBar() {
  const who = session.value;
  return (
    <header class="top">
      <a class="brand" href={linkTo()}>
        kvm-compose
      </a>
      {who != null && (
        <>
          {who.drivers === "fake" && <span class="quiet">simulated hosts</span>}
          <span class="space" />
          <span class="quiet who">
            {who.name}
            {who.role === "read-only" && " (read-only)"}
          </span>
          <button type="button" class="plain" onClick={signOut}>
            Sign out
          </button>
        </>
      )}
    </header>
  );
}

/** The fragment is the router's, so the link cannot move the focus by itself. */
function toMain(event: Event): void {
  event.preventDefault();
  focusMain();
}

function focusMain(): void {
  const main = document.getElementById("main");
  main?.setAttribute("tabindex", "-1");
  main?.focus();
}

/** Another place is another page to those who do not see it: with a title, and the focus at its beginning. */
function followPlace(): void {
  let before = place.peek();
  effect(() => {
    const { lab, view, of } = place.value;
    document.title = [of, lab, "kvm-compose"].filter((part) => part !== "").join(" – ");
    if (lab !== before.lab || view !== before.view) requestAnimationFrame(focusMain);
    before = place.value;
  });
}

void begin(); // first of all: the code of a link is no place
followPlace();
const root = document.getElementById("app");
if (root !== null) render(<App />, root);
