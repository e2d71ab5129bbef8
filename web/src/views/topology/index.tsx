import type { ViewProps } from "../../shell/lazy";

export default function View({ testbed }: ViewProps) {
  return <p class="quiet">{testbed.name}</p>;
}
