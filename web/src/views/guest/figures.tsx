/** The CPU and memory of a guest over the last minutes. */

import { useEffect, useRef } from "preact/hooks";
import type { Guest, Sample } from "../../testbed";
import type { Chart, Series } from "./chart";
import { duration, memory, share } from "./words";
import "uplot/dist/uPlot.min.css";

export function Figures({ guest }: { guest: Guest }) {
  const samples = guest.samples.value;
  const last = samples.at(-1);
  if (last === undefined) return null;
  const span = duration(last.time - (samples[0]?.time ?? last.time));
  const given = guest.status.value.given_mb;
  const cpu = samples.flatMap((each) => each.cpu ?? []);
  const { memory_mb: resident, used_mb: used } = last;
  return (
    <div class="figures">
      <Figure title="CPU" samples={samples} series={CPU}>
        {last.cpu === null
          ? []
          : [
              { tone: "new", text: `${share(last.cpu)} of one CPU` },
              ...(samples.length > 1
                ? [{ tone: "", text: `at most ${share(Math.max(...cpu))} in ${span}` }]
                : []),
            ]}
      </Figure>
      <Figure title="Memory" samples={samples} series={MEMORY}>
        {[
          ...(used === null ? [] : [{ tone: "good", text: `${memory(used)} used in the guest` }]),
          ...(resident === null ? [] : [{ tone: "new", text: `${memory(resident)} on its host` }]),
          ...(given === null ? [] : [{ tone: "", text: `${memory(given)} given` }]),
        ]}
      </Figure>
    </div>
  );
}

const CPU: readonly Series[] = [
  { label: "CPU", colour: "new", value: (each) => each.cpu, words: (value) => share(value) },
];
const MEMORY: readonly Series[] = [
  { label: "on its host", colour: "new", value: (each) => each.memory_mb, words: (value) => memory(value) },
  { label: "used", colour: "good", value: (each) => each.used_mb, words: (value) => memory(value) },
];

interface Props {
  title: string;
  samples: readonly Sample[];
  series: readonly Series[];
  /** The newest figures in words, those of a line in its colour. */
  children: readonly { tone: string; text: string }[];
}

function Figure({ title, samples, series, children: words }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const chart = useRef<Chart | null>(null);
  const newest = useRef(samples);
  newest.current = samples;
  useEffect(() => {
    let gone = false;
    void import("./chart").then(({ Chart }) => {
      if (gone || place.current === null) return;
      chart.current = new Chart(place.current, series);
      chart.current.show(newest.current);
    });
    return () => {
      gone = true;
      chart.current?.dispose();
      chart.current = null;
    };
  }, [series]);
  useEffect(() => chart.current?.show(samples), [samples]);
  return (
    <figure>
      <figcaption>
        <strong>{title}</strong>
        {words.map(({ tone, text }) => (
          <span key={text} class={tone}>
            {text}
          </span>
        ))}
      </figcaption>
      <div
        class="chart"
        role="img"
        aria-label={`${title}: ${words.map((each) => each.text).join(", ")}`}
        ref={place}
      />
    </figure>
  );
}
