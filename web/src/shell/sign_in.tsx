/** Where nobody is signed in: how to, and a field for a token. */

import { useSignal } from "@preact/signals";
import { signIn, signInProblem } from "../session";
import { Problem } from "./labs";

export function SignIn() {
  const token = useSignal("");
  const busy = useSignal(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    busy.value = true;
    await signIn({ token: token.value.trim() });
    busy.value = false;
  };
  return (
    <main id="main" class="sheet narrow">
      <h1>kvm-compose</h1>
      {signInProblem.value !== null && <Problem problem={signInProblem.value} />}
      <p>
        On the machine of the server, <code>kvm-compose ui</code> opens this page for you. Elsewhere, sign in
        with a token of this server (<code>kvm-compose server token create</code>).
      </p>
      <form class="stack" onSubmit={submit}>
        <label for="token">Token</label>
        <input
          id="token"
          type="password"
          autocomplete="off"
          required
          value={token.value}
          onInput={(event) => {
            token.value = event.currentTarget.value;
          }}
        />
        <div class="actions">
          <button type="submit" class="primary" disabled={busy.value}>
            Sign in
          </button>
        </div>
      </form>
    </main>
  );
}
