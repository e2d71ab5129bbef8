/** Views are loaded when they are first shown. */

import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { Testbed } from "../testbed";

/** What each view gets: the testbed, and what of it is shown. */
export interface ViewProps {
  testbed: Testbed;
  /** The third part of the address: the name of a guest, the UUID of an action; empty for none. */
  of: string;
}

type View = ComponentType<ViewProps>;

/** Return a component that loads another one. */
export function lazy(load: () => Promise<{ default: View }>): View {
  let loaded: View | null = null;
  return function Lazy(props: ViewProps) {
    const [view, setView] = useState<{ view: View } | null>(loaded && { view: loaded });
    const [failed, setFailed] = useState(false);
    useEffect(() => {
      if (loaded !== null) return;
      load().then(
        (module) => {
          loaded = module.default;
          setView({ view: loaded });
        },
        () => setFailed(true),
      );
    }, []);
    if (failed) return <p class="problem">This part of the page could not be loaded: reload it.</p>;
    if (view === null) return <p class="quiet">…</p>;
    return <view.view {...props} />;
  };
}
