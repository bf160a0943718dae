// When it was: CPUs in use over the whole recording, and below it a lane for each thread with its states. Both select.

const LANE_PX = 18;
/** The states of so many threads are kept. */
const STATES_MAX = 256;

function sumOf(column, from, until) {
  let sum = 0;
  for (let part = from; part < until; part++) sum += column[part];
  return sum;
}

class Timeline {
  constructor(profile, app) {
    this.profile = profile;
    this.app = app;
    this.overview = byId("overview");
    this.lanes = byId("lanes");
    this.inner = byId("lanes-inner");
    this.canvas = byId("lane-canvas");
    this.names = byId("lane-names");
    this.shown = [];
    this.known = new Map();
    this.cursor = 0;
    this.brush = null;
    this.backdrop = document.createElement("canvas");
    this.isStale = true;
    this.isFiltered = false;
    this.show(profile);
    byId("thread-filter").addEventListener("input", (event) => this.filter(event.target.value));
    this.lanes.addEventListener("scroll", () => this.redraw());
    for (const canvas of [this.overview, this.canvas]) {
      canvas.addEventListener("pointerdown", (event) => this.press(event, canvas));
      canvas.addEventListener("pointermove", (event) => this.drag(event, canvas));
      canvas.addEventListener("pointerup", (event) => this.release(event, canvas));
    }
    this.overview.addEventListener("keydown", (event) => this.overviewKey(event));
    this.lanes.addEventListener("keydown", (event) => this.lanesKey(event));
    new ResizeObserver(() => this.redraw()).observe(byId("times"));
    this.names.addEventListener("click", (event) => {
      const lane = event.target.closest(".lane");
      if (lane) this.chooseThread(Number(lane.dataset.thread), event);
    });
  }

  /** Shows this profile; of another one the same threads, if some are searched for. */
  show(profile) {
    const cursor = this.shown.length > 0 ? threadKey(this.profile.threads[this.shown[this.cursor]]) : null;
    this.profile = profile;
    this.known.clear();
    this.cpu = this.byThread(profile.weights.cpu);
    this.addUp();
    this.list(matcher(byId("thread-filter").value));
    const at = this.shown.findIndex((thread) => threadKey(profile.threads[thread]) === cursor);
    this.cursor = Math.max(0, at);
    this.redraw();
  }

  byThread(values) {
    const sums = new Float64Array(this.profile.threads.length);
    for (let at = 0; at < values.length; at++) sums[this.profile.sliceThread[at]] += values[at];
    return sums;
  }

  /** CPU and run-queue time of all threads by part. */
  addUp() {
    const { parts, slicePart, weights } = this.profile;
    this.running = new Float64Array(parts);
    this.queue = new Float64Array(parts);
    for (let at = 0; at < slicePart.length; at++) {
      this.running[slicePart[at]] += weights.cpu[at];
      this.queue[slicePart[at]] += weights.queue[at];
    }
  }

  /** Shows the threads whose names, numbers or processes match. */
  filter(text) {
    const matches = matcher(text);
    this.list(matches);
    this.cursor = 0;
    this.redraw();
    if (matches !== null) this.app.setThreads(new Set(this.shown));
    else if (this.isFiltered) this.app.setThreads(new Set());
    this.isFiltered = matches !== null;
  }

  list(matches) {
    const { threads, firstSlice } = this.profile;
    const hasAny = (thread) => firstSlice[thread + 1] > firstSlice[thread];
    const words = ({ name, tid, command, pid }) => `${name} ${tid} ${command} ${pid}`;
    this.shown = threads
      .map((_, at) => at)
      .filter((at) => hasAny(at) && (matches === null || matches(words(threads[at]))));
    this.shown.sort((a, b) => this.cpu[b] - this.cpu[a] || a - b);
    byId("thread-count").textContent =
      this.shown.length === threads.length ? `${threads.length}` : `${this.shown.length} of ${threads.length}`;
    this.inner.style.height = `${this.shown.length * LANE_PX}px`;
  }

  redraw() {
    this.isStale = true;
    this.draw();
  }

  draw() {
    // As wide as the lanes, beside which there may be a scroll bar.
    this.overview.style.flexBasis = `${this.lanes.clientWidth - this.names.offsetWidth}px`;
    this.drawOverview();
    this.drawLanes();
    this.nameLanes();
  }

  drawOverview() {
    const [width, height] = [this.overview.clientWidth, this.overview.clientHeight];
    if (width === 0) return;
    const context = fitCanvas(this.overview, width, height);
    const { parts, partUs } = this.profile;
    context.clearRect(0, 0, width, height);
    if (partUs === 0) return;
    const columns = this.columns(width);
    const at = columns.map(({ from, until }) => {
      const long = (until - from) * partUs;
      return { running: sumOf(this.running, from, until) / long, queue: sumOf(this.queue, from, until) / long };
    });
    // A few columns may stand out above: what is accounted at one look may have passed before it.
    const heights = at.map(({ running, queue }) => running + queue).sort((a, b) => a - b);
    const most = Math.max(0.2, heights[Math.floor(0.98 * (heights.length - 1))]);
    const unit = (height - 18) / most;
    context.fillStyle = token("--running");
    columns.forEach(({ x, width }, column) =>
      context.fillRect(x, height - at[column].running * unit, width, at[column].running * unit),
    );
    context.fillStyle = token("--queue");
    columns.forEach(({ x, width }, column) => {
      const { running, queue } = at[column];
      context.fillRect(x, height - (running + queue) * unit, width, queue * unit);
    });
    // The scale: times along the top, CPUs at the left.
    context.font = `10px ${token("--sans")}`;
    context.fillStyle = token("--dim");
    context.textBaseline = "top";
    const whole = parts * partUs;
    const step = tickOf(whole / (width / 90));
    for (let us = step; us < whole; us += step) {
      const x = (us / whole) * width;
      context.fillRect(x, 0, 1, 4);
      context.fillText(time(us), x + 3, 1);
    }
    context.fillText(`${most < 10 ? most.toFixed(1) : most.toFixed(0)} CPUs`, 4, 1);
    this.shadeUnselected(context, width, height);
  }

  /** The pixel columns of the recording, each with the parts that are in it. */
  columns(width) {
    const { parts } = this.profile;
    const count = Math.min(parts, Math.ceil(width));
    return Array.from({ length: count }, (_, column) => {
      const from = Math.floor((column * parts) / count);
      const until = Math.max(from + 1, Math.floor(((column + 1) * parts) / count));
      return { from, until, x: (from / parts) * width, width: ((until - from) / parts) * width + 0.3 };
    });
  }

  drawLanes() {
    const width = this.lanes.clientWidth - this.names.offsetWidth;
    const height = Math.min(this.lanes.clientHeight, this.shown.length * LANE_PX);
    if (width <= 0 || height <= 0) return;
    if (this.isStale) {
      this.drawBackdrop(width, height);
      this.isStale = false;
    }
    const context = fitCanvas(this.canvas, width, height);
    context.clearRect(0, 0, width, height);
    context.drawImage(this.backdrop, 0, 0, width, height);
    const { threads } = this.app.selection;
    if (threads.size > 0) {
      context.fillStyle = token("--panel");
      context.globalAlpha = 0.72;
      this.visible(height, (thread, top) => {
        if (!threads.has(thread)) context.fillRect(0, top, width, LANE_PX);
      });
      context.globalAlpha = 1;
    }
    this.shadeUnselected(context, width, height);
  }

  /** The states of the threads that are seen, without what is selected. */
  drawBackdrop(width, height) {
    const context = fitCanvas(this.backdrop, width, height);
    context.clearRect(0, 0, width, height);
    const { partUs } = this.profile;
    if (partUs === 0) return;
    const colours = { running: token("--running"), queue: token("--queue"), asleep: token("--asleep") };
    const columns = this.columns(width);
    this.visible(height, (thread, top) => {
      const states = this.states(thread);
      const high = LANE_PX - 4;
      const floor = top + 2 + high;
      context.fillStyle = colours.asleep;
      for (const { from, until, x, width } of columns) {
        if (sumOf(states.asleep, from, until) > 0) context.fillRect(x, floor - 3, width, 3);
      }
      // However short it was, it can be seen.
      const tall = (us, long) => (us === 0 ? 0 : Math.max(1, (us / long) * high));
      const places = columns.map(({ from, until }) => {
        const [running, queue] = [sumOf(states.running, from, until), sumOf(states.queue, from, until)];
        const long = Math.max((until - from) * partUs, running + queue);
        return { running: tall(running, long), queue: tall(queue, long) };
      });
      for (const state of ["queue", "running"]) {
        context.fillStyle = colours[state];
        columns.forEach(({ x, width }, at) => {
          const place = places[at];
          const below = state === "running" ? 0 : place.running;
          if (place[state] > 0) context.fillRect(x, floor - below - place[state], width, place[state]);
        });
      }
    });
  }

  /** What a thread did, by part. */
  states(thread) {
    if (this.known.has(thread)) return this.known.get(thread);
    const { parts, firstSlice, slicePart, weights } = this.profile;
    const states = {
      running: new Float32Array(parts),
      queue: new Float32Array(parts),
      asleep: new Float32Array(parts),
    };
    for (let at = firstSlice[thread]; at < firstSlice[thread + 1]; at++) {
      states.running[slicePart[at]] += weights.cpu[at];
      states.queue[slicePart[at]] += weights.queue[at];
      states.asleep[slicePart[at]] += weights.off[at];
    }
    if (this.known.size >= STATES_MAX) this.known.clear();
    this.known.set(thread, states);
    return states;
  }

  /** Calls back for each lane that is seen, with where its top is. */
  visible(height, callback) {
    const scrolled = this.lanes.scrollTop;
    for (let lane = Math.floor(scrolled / LANE_PX); lane < this.shown.length; lane++) {
      const top = lane * LANE_PX - scrolled;
      if (top > height) break;
      callback(this.shown[lane], top, lane);
    }
  }

  shadeUnselected(context, width, height) {
    const { from, until } = this.app.selection;
    const { parts } = this.profile;
    if (from === 0 && until === parts) return;
    const [left, right] = [(from / parts) * width, (until / parts) * width];
    context.fillStyle = token("--panel");
    context.globalAlpha = 0.72;
    context.fillRect(0, 0, left, height);
    context.fillRect(right, 0, width - right, height);
    context.globalAlpha = 1;
    context.fillStyle = token("--accent");
    context.fillRect(left, 0, 1.5, height);
    context.fillRect(right - 1.5, 0, 1.5, height);
  }

  nameLanes() {
    const { threads } = this.profile;
    const several = threads.some((thread) => thread.process !== threads[0].process);
    const made = [];
    this.visible(this.lanes.clientHeight, (at, top, lane) => {
      const thread = threads[at];
      const isChosen = this.app.selection.threads.has(at);
      const made_ = element(
        "div",
        {
          class: `lane${isChosen ? " chosen" : ""}${lane === this.cursor ? " cursor" : ""}`,
          role: "option",
          "aria-selected": String(isChosen),
          "data-thread": at,
          title: `${thread.name} (${thread.tid}) of ${thread.command_line} (${thread.pid})`,
        },
        element(
          "span",
          { class: "name" },
          several && thread.command !== thread.name ? `${thread.command} › ${thread.name}` : thread.name,
        ),
        element("span", { class: "dim num" }, thread.tid > 0 ? String(thread.tid) : ""),
        element("span", { class: "num" }, time(this.cpu[at])),
      );
      made_.style.top = `${lane * LANE_PX}px`;
      made.push(made_);
    });
    this.names.replaceChildren(...made);
  }

  partAt(event, canvas) {
    const bounds = canvas.getBoundingClientRect();
    const at = (event.clientX - bounds.left) / bounds.width;
    return Math.min(this.profile.parts, Math.max(0, at * this.profile.parts));
  }

  press(event, canvas) {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    this.brush = { start: this.partAt(event, canvas), x: event.clientX, isDrag: false };
  }

  drag(event, canvas) {
    if (this.brush === null) return;
    this.brush.isDrag ||= Math.abs(event.clientX - this.brush.x) > 3;
    if (!this.brush.isDrag) return;
    const ends = [this.brush.start, this.partAt(event, canvas)].sort((a, b) => a - b);
    const from = Math.min(Math.floor(ends[0]), this.profile.parts - 1);
    this.app.setTimes(from, Math.max(from + 1, Math.ceil(ends[1])));
  }

  release(event, canvas) {
    const { brush } = this;
    this.brush = null;
    if (brush === null || brush.isDrag) return;
    if (canvas === this.overview) return this.app.setTimes(0, this.profile.parts);
    const y = event.clientY - this.canvas.getBoundingClientRect().top + this.lanes.scrollTop;
    const thread = this.shown[Math.floor(y / LANE_PX)];
    if (thread !== undefined) this.chooseThread(thread, event);
  }

  chooseThread(thread, event) {
    const chosen = new Set(this.app.selection.threads);
    const lane = this.shown.indexOf(thread);
    if (event.shiftKey) {
      for (let at = Math.min(lane, this.cursor); at <= Math.max(lane, this.cursor); at++) chosen.add(this.shown[at]);
    } else if (event.ctrlKey || event.metaKey) {
      if (!chosen.delete(thread)) chosen.add(thread);
    } else {
      const wasAlone = chosen.size === 1 && chosen.has(thread);
      chosen.clear();
      if (!wasAlone) chosen.add(thread);
    }
    this.cursor = lane;
    this.app.setThreads(chosen);
  }

  overviewKey(event) {
    const { parts } = this.profile;
    let { from, until } = this.app.selection;
    const step = Math.max(1, Math.round(parts / 50));
    const by = { ArrowLeft: -step, ArrowRight: step }[event.key];
    if (event.key === "Escape") [from, until] = [0, parts];
    else if (by === undefined) return;
    else if (from === 0 && until === parts) until = Math.max(1, Math.round(parts / 10));
    else if (event.shiftKey) until = Math.min(parts, Math.max(from + 1, until + by));
    else {
      const moved = Math.min(parts - until, Math.max(-from, by));
      [from, until] = [from + moved, until + moved];
    }
    this.app.setTimes(from, until);
    event.preventDefault();
    event.stopPropagation();
  }

  lanesKey(event) {
    const last = this.shown.length - 1;
    const moves = { ArrowUp: this.cursor - 1, ArrowDown: this.cursor + 1, Home: 0, End: last };
    if (event.key in moves) {
      this.cursor = Math.min(last, Math.max(0, moves[event.key]));
      const top = this.cursor * LANE_PX;
      const seen = this.lanes.clientHeight;
      if (top < this.lanes.scrollTop) this.lanes.scrollTop = top;
      else if (top + LANE_PX > this.lanes.scrollTop + seen) this.lanes.scrollTop = top + LANE_PX - seen;
      this.nameLanes();
    } else if ((event.key === "Enter" || event.key === " ") && last >= 0) {
      this.chooseThread(this.shown[this.cursor], { ctrlKey: event.key === " ", shiftKey: event.shiftKey });
    } else if (event.key === "Escape") this.app.setThreads(new Set());
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

/** What makes two threads the same one. */
const threadKey = ({ pid, tid }) => `${pid}/${tid}`;

/** A round time of at least so many microseconds. */
function tickOf(us) {
  const unit = 10 ** Math.floor(Math.log10(Math.max(us, 1)));
  return [1, 2, 5, 10].map((times) => times * unit).find((tick) => tick >= us);
}

/** What finds a text, or a `/regular expression/`; null for an empty one. */
function matcher(text) {
  if (text === "") return null;
  const pattern = /^\/(.+)\/$/.exec(text);
  if (pattern) {
    try {
      const regex = new RegExp(pattern[1], "i");
      return (words) => regex.test(words);
    } catch {
      return () => false; // not finished being typed
    }
  }
  const wanted = text.toLowerCase();
  return (words) => words.toLowerCase().includes(wanted);
}
