// The seconds that the page has, and how new ones are put to them.

/// Of one connection to one run of a server.
export class Store {
  constructor() {
    this.clear();
  }

  clear() {
    this.seq = 0;
    this.times = [];
    this.cache = {};
    this.series = null;
    this.points = {};
    this.arms = new Map();
    this.replicas = new Map();
  }

  /// Takes an answer's `history`. Every list is as long as `times` afterwards, the latest last.
  take(history) {
    const application = history.application;
    const series = application ? application.series : null;
    if (series !== this.series || history.seq < this.seq) this.clear();
    this.series = series;
    this.seq = history.seq;
    const length = Math.min(this.times.length + history.times.length, history.kept);
    this.times = this.times.concat(history.times).slice(-length);
    const put = (before, columns) => {
      const after = {};
      for (const [name, values] of Object.entries(columns)) {
        const all = (before?.[name] ?? []).concat(values).slice(-length);
        after[name] = Array(length - all.length).fill(null).concat(all);
      }
      return after;
    };
    this.cache = put(this.cache, history.cache);
    this.points = application ? put(this.points, application.points) : {};
    this.arms = new Map((application?.arms ?? []).map(
      ({ arm, points }) => [arm, put(this.arms.get(arm), points)],
    ));
    this.replicas = new Map(history.replicas.map(
      (replica) => [replica.id, { ...replica, points: put(this.replicas.get(replica.id)?.points, replica.points) }],
    ));
  }

  /// A count per second, by the time that passed.
  rate(counts) {
    return (counts ?? []).map((count, at) => {
      const before = this.times[at - 1];
      const passed = before === undefined ? 1 : (this.times[at] - before) / 1000;
      return count === null ? null : count / Math.max(passed, 0.1);
    });
  }
}

/// The sum of one list over that of another, over the last `seconds`; null where the other one's is
/// less than `least`.
export function share(over, under, seconds, least = 1) {
  let [above, below] = [0, 0];
  return (under ?? []).map((_, at) => {
    above += over[at] ?? 0;
    below += under[at] ?? 0;
    const gone = at - seconds;
    if (gone >= 0) {
      above -= over[gone] ?? 0;
      below -= under[gone] ?? 0;
    }
    return below >= least ? above / below : null;
  });
}

/// The latest value that there is.
export function latest(values) {
  return values?.at(-1) ?? null;
}
