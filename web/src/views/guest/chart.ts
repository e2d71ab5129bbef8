/** A small line chart of samples, in the colours of the page. */

import uPlot from "uplot";
import type { Sample } from "../../testbed";

export interface Series {
  label: string;
  /** The name of a variable of the page's style. */
  colour: string;
  value(sample: Sample): number | null;
  words(value: number): string;
}

const HEIGHT = 130;
/** A chart shows at least so many seconds. */
const LEAST_SECONDS = 120;

/** Return the time of day of a moment in seconds since the epoch. */
function clock(time: number): string {
  return new Date(time * 1000).toLocaleTimeString();
}

/** Return the first and the last moment that a chart shows; uPlot makes a day of a single sample. */
function shownTime(samples: readonly Sample[]): [number, number] {
  const last = samples.at(-1)?.time ?? Date.now() / 1000;
  return [Math.min(samples[0]?.time ?? last, last - LEAST_SECONDS), last];
}

export class Chart {
  readonly #parent: HTMLElement;
  readonly #series: readonly Series[];
  readonly #observer: ResizeObserver;
  readonly #scheme = matchMedia("(prefers-color-scheme: dark)");
  #samples: readonly Sample[] = [];
  #plot: uPlot | null = null;

  constructor(parent: HTMLElement, series: readonly Series[]) {
    this.#parent = parent;
    this.#series = series;
    this.#draw();
    this.#observer = new ResizeObserver(() => {
      if (parent.clientWidth > 0) this.#plot?.setSize({ width: parent.clientWidth, height: HEIGHT });
    });
    this.#observer.observe(parent);
    this.#scheme.addEventListener("change", this.#draw);
  }

  show(samples: readonly Sample[]): void {
    this.#samples = samples;
    this.#plot?.setData(this.#data());
  }

  dispose(): void {
    this.#observer.disconnect();
    this.#scheme.removeEventListener("change", this.#draw);
    this.#plot?.destroy();
  }

  #data(): uPlot.AlignedData {
    return [
      this.#samples.map((each) => each.time),
      ...this.#series.map(({ value }) => this.#samples.map(value)),
    ] as uPlot.AlignedData;
  }

  readonly #draw = () => {
    this.#plot?.destroy();
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string) => style.getPropertyValue(`--${name}`).trim();
    const words = this.#series[0]?.words ?? String;
    const axis: uPlot.Axis = {
      stroke: colour("quiet"),
      grid: { stroke: colour("edge"), width: 1 },
      ticks: { show: false },
      font: "12px system-ui, sans-serif",
    };
    this.#plot = new uPlot(
      {
        width: Math.max(this.#parent.clientWidth, 100),
        height: HEIGHT,
        legend: { show: false },
        cursor: { show: false },
        // the text of a time reaches beyond the last one
        padding: [8, 36, 0, 0],
        scales: {
          x: { range: () => shownTime(this.#samples) },
          y: { range: (_plot, _least, most) => [0, Math.max(most * 1.15, 0.1)] },
        },
        axes: [
          { ...axis, space: 110, values: (_plot, times) => times.map(clock) },
          { ...axis, size: 64, values: (_plot, values) => values.map((each) => words(each)) },
        ],
        series: [
          {},
          ...this.#series.map(({ label, colour: name }) => ({
            label,
            stroke: colour(name),
            width: 2,
            points: { show: false },
          })),
        ],
      },
      this.#data(),
      this.#parent,
    );
  };
}
