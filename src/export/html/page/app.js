// What is shown: the choices of the reader, and who is told when they change.

const TABS = [
  { name: "flame", label: "Flame graph", keys: "f" },
  { name: "icicle", label: "Icicle", keys: "i" },
  { name: "inverted", label: "Inverted", keys: "b" },
  { name: "calls", label: "Call tree", keys: "r" },
  { name: "functions", label: "Functions", keys: "l" },
  { name: "around", label: "Callers & callees", keys: "c" },
];

const LEGEND_MAX = 6;

class App {
  constructor(profile) {
    this.profile = profile;
    this.weight = profile.head.weight;
    this.selection = { threads: new Set(), from: 0, until: profile.parts, lock: false };
    this.by = "function";
    this.colourBy = "kind";
    this.tab = "flame";
    this.group = null;
    this.pattern = "";
    this.cache = new Map();
    this.views = new Map();
    this.frameDue = 0;
    this.isDark = false;
    this.details = new Details(byId("details"), this);
    this.setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => this.setTheme(event.matches));
    this.makeHead();
    this.makeControls();
    this.timeline = new Timeline(profile, this);
    this.setTab(this.tab);
    this.update();
    // The other weights are added up while nothing else is to be done.
    WEIGHTS.forEach(({ name }, at) => setTimeout(() => this.sumsOf(name), 300 + 100 * at));
  }

  /** Shows another state of the same recording; what the reader has chosen stays as it is. */
  replace(profile) {
    const { profile: before, grouping, group, selection, timeline } = this;
    const followsFilter = timeline.isFiltered && selection.threads.size === timeline.shown.length;
    this.profile = profile;
    this.cache.clear();
    this.group = group === null ? null : (sameGroups(grouping, this.grouping, [group])[0] ?? null);
    this.selection = this.selectionIn(before, profile);
    if (before.threads.length === 0) this.fitTimes();
    this.makeHead();
    timeline.show(profile);
    if (followsFilter) this.selection.threads = new Set(timeline.shown);
    this.update();
    timeline.draw();
  }

  /** What is selected of one profile, in a later one: the same threads, and the same time or still all of it. */
  selectionIn(before, after) {
    const { threads, from, until, lock } = this.selection;
    const chosen = new Set([...threads].map((at) => threadKey(before.threads[at])));
    const same = after.threads.map((_, at) => at).filter((at) => chosen.has(threadKey(after.threads[at])));
    const isWhole = from === 0 && until === before.parts;
    const scale = before.partUs / after.partUs;
    const start = isWhole ? 0 : Math.min(after.parts - 1, Math.floor(from * scale));
    const end = isWhole ? after.parts : Math.min(after.parts, Math.max(start + 1, Math.ceil(until * scale)));
    return { threads: new Set(same), from: start, until: end, lock };
  }

  get grouping() {
    return this.profile.groupings[this.by];
  }

  get words() {
    return WEIGHTS.find(({ name }) => name === this.weight).words;
  }

  get sums() {
    return this.sumsOf(this.weight);
  }

  /** What is selected, added up by a weight. */
  sumsOf(weight) {
    if (!this.cache.has(weight)) this.cache.set(weight, this.profile.select(weight, this.selection));
    return this.cache.get(weight);
  }

  groupSumsOf(weight) {
    const key = `${weight} by ${this.by}`;
    if (!this.cache.has(key)) this.cache.set(key, groupSums(this.grouping, this.sumsOf(weight)));
    return this.cache.get(key);
  }

  // The head of the page.

  makeHead() {
    const { head, threads } = this.profile;
    const processes = new Set(threads.map((thread) => thread.process)).size;
    const title =
      processes > 1
        ? `${processes} processes`
        : threads.length > 0
          ? `${threads[0].command_line}`
          : document.documentElement.dataset.live !== undefined
            ? "nothing recorded yet"
            : "an empty recording";
    byId("title").textContent = title;
    byId("title").title = title;
    document.title = `${title} · sampler`;
    const { samples, wall_ns, rate_hz } = head.summary;
    const many = threads.length === 1 ? "1 thread" : `${threads.length} threads`;
    const pid = processes === 1 && threads.length > 0 ? `process ${threads[0].pid}, ` : "";
    const recorded = `${count(samples)} samples in ${time(wall_ns / 1e3)} at ${rate_hz.toFixed(1)} Hz`;
    byId("subtitle").textContent = `${pid}${many}, ${recorded}`;
    byId("lock-label").hidden = !this.profile.hasLock;
    byId("about-open").textContent = head.notes.length > 0 ? `About (${head.notes.length})` : "About";
  }

  makeControls() {
    byId("weights").append(
      ...WEIGHTS.map(({ name, label, long }, at) =>
        element(
          "button",
          { role: "radio", "data-weight": name, title: `${long} (${at + 1})`, onclick: () => this.setWeight(name) },
          label,
          element("small", {}),
        ),
      ),
    );
    byId("tabs").append(
      ...TABS.map(({ name, label, keys }) =>
        element(
          "button",
          { role: "tab", "data-tab": name, title: `${label} (${keys})`, onclick: () => this.setTab(name) },
          label,
        ),
      ),
    );
    byId("search").addEventListener("input", (event) => this.search(event.target.value));
    byId("search").addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.nextMatch(event.shiftKey ? -1 : 1);
      else if (event.key === "Escape") {
        this.search("");
        this.focusView();
      } else return;
      event.preventDefault();
    });
    byId("by").addEventListener("change", (event) => this.setBy(event.target.value));
    byId("colours").addEventListener("change", (event) => {
      this.colourBy = event.target.value;
      this.draw();
      this.showLegend();
    });
    byId("zoom-out").addEventListener("click", () => this.view.zoomOut?.());
    byId("theme").addEventListener("click", () => this.setTheme(!this.isDark));
    byId("clear").addEventListener("click", () => this.clear());
    byId("lock").addEventListener("change", (event) => {
      this.selection.lock = event.target.checked;
      this.changed();
    });
    byId("help-open").addEventListener("click", () => this.showHelp());
    byId("about-open").addEventListener("click", () => this.showAbout());
    document.addEventListener("keydown", (event) => this.key(event));
    this.makeSplit();
  }

  makeSplit() {
    const split = byId("split");
    let start = null;
    split.addEventListener("pointerdown", (event) => {
      split.setPointerCapture(event.pointerId);
      start = { y: event.clientY, height: byId("times").offsetHeight };
    });
    split.addEventListener("pointermove", (event) => {
      if (start === null) return;
      const height = start.height + event.clientY - start.y;
      byId("times").style.height = `${Math.min(innerHeight - 250, Math.max(74, height))}px`;
    });
    split.addEventListener("pointerup", () => (start = null));
    this.fitTimes();
  }

  /** As high as the lanes are, if they are few. */
  fitTimes() {
    const lanes = Math.min(9, Math.max(1, this.profile.threads.length));
    byId("times").style.height = `${46 + 28 + lanes * LANE_PX + 2}px`;
  }

  setTheme(isDark) {
    this.isDark = isDark;
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
    this.timeline?.redraw();
    this.draw();
    this.showLegend();
  }

  /** What colours mean: the kinds of code, or the modules with the most time. */
  showLegend() {
    const { profile } = this;
    const name = (frame) =>
      this.colourBy === "kind" ? KIND_WORDS[colourKind(profile, frame)] : profile.modules[frame];
    const byFrame = new Float64Array(profile.names.length);
    const { self } = this.sums;
    for (let node = 0; node < self.length; node++) byFrame[profile.frames[node]] += self[node];
    const byWeight = new Map();
    byFrame.forEach((sum, frame) => {
      const known = byWeight.get(name(frame));
      if (known === undefined) byWeight.set(name(frame), { frame, sum });
      else known.sum += sum;
    });
    const most = [...byWeight]
      .filter(([key, { sum }]) => key !== "" && sum > 0)
      .sort(([, a], [, b]) => b.sum - a.sum)
      .slice(0, LEGEND_MAX);
    byId("legend").replaceChildren(
      ...most.map(([key, { frame }]) => {
        const swatch = element("i");
        swatch.style.background = frameColour(profile, frame, this.colourBy, this.isDark);
        return element("span", { class: "key" }, swatch, key);
      }),
    );
  }

  // Choices.

  setWeight(weight) {
    this.weight = weight;
    this.update();
  }

  setBy(by) {
    const frame = this.group === null ? null : this.grouping.groups[this.group].frame;
    this.by = by;
    byId("by").value = by;
    this.group = frame === null ? null : this.grouping.of[frame];
    this.update();
  }

  setThreads(threads) {
    this.selection.threads = threads;
    this.changed();
  }

  setTimes(from, until) {
    if (this.selection.from === from && this.selection.until === until) return;
    [this.selection.from, this.selection.until] = [from, until];
    this.changed();
  }

  clear() {
    this.selection = { threads: new Set(), from: 0, until: this.profile.parts, lock: false };
    byId("lock").checked = false;
    byId("thread-filter").value = "";
    this.timeline.filter("");
    this.changed();
  }

  /** The selection has changed: all is added up anew, once a frame at most. */
  changed() {
    if (this.frameDue !== 0) return;
    this.frameDue = requestAnimationFrame(() => {
      this.frameDue = 0;
      this.cache.clear();
      this.update();
      this.timeline.draw();
    });
  }

  setTab(tab) {
    this.tab = tab;
    for (const button of byId("tabs").children)
      button.setAttribute("aria-selected", String(button.dataset.tab === tab));
    for (const [name, { host }] of this.views) host.hidden = name !== tab;
    if (!this.views.has(tab)) {
      const host = element("div");
      byId("pane").append(host);
      this.views.set(tab, { host, view: this.makeView(tab, host) });
    }
    this.showView();
  }

  makeView(tab, host) {
    switch (tab) {
      case "flame":
        return new Flame(host, this, true, "Flame graph: callers below, what they call above");
      case "icicle":
        return new Flame(host, this, false, "Icicle graph: callers above, what they call below");
      case "inverted":
        return new Flame(host, this, false, "Inverted graph: where the time goes above, its callers below");
      case "calls":
        return new CallsView(host, this);
      case "functions":
        return new FunctionsView(host, this);
      default:
        return new AroundView(host, this);
    }
  }

  get view() {
    return this.views.get(this.tab).view;
  }

  /** Brings the view that is seen up to date. */
  showView() {
    const { profile, sums, grouping, tab, view } = this;
    if (tab === "flame" || tab === "icicle" || tab === "calls") view.show(new CalleeTree(profile, sums, grouping));
    else if (tab === "inverted") view.show(new CallerTree(profile, sums, grouping));
    else if (tab === "functions") view.show(grouping, sums);
    else view.show(profile, sums, grouping, this.group);
    this.zoomed(view);
    this.showFound();
    if (sums.sum === 0) this.say("There is nothing of this weight in what is selected.");
    else if (byId("status").dataset.empty) this.say("");
    byId("status").dataset.empty = sums.sum === 0 ? "yes" : "";
  }

  update() {
    if (!this.cache.has("totals")) this.cache.set("totals", this.profile.sums(this.selection));
    const totals = this.cache.get("totals");
    for (const button of byId("weights").children) {
      const { words } = WEIGHTS.find(({ name }) => name === button.dataset.weight);
      const sum = totals[button.dataset.weight];
      button.setAttribute("aria-checked", String(button.dataset.weight === this.weight));
      button.tabIndex = button.dataset.weight === this.weight ? 0 : -1;
      button.dataset.total = sum;
      button.querySelector("small").textContent = words(sum);
    }
    this.showSelection();
    this.showView();
    this.showLegend();
    this.showDetails();
  }

  /** All weights of the function that is chosen: after what was asked for has been drawn. */
  showDetails() {
    clearTimeout(this.detailsDue);
    this.detailsDue = setTimeout(() => this.details.show());
  }

  draw() {
    // Those that are not seen are brought up to date before they are.
    const view = this.views.get(this.tab)?.view;
    if (view) (view.forgetColours ?? view.draw).call(view);
  }

  showSelection() {
    const { threads, from, until, lock } = this.selection;
    const { parts, partUs } = this.profile;
    const words = [];
    if (threads.size === 1) words.push(`thread ${this.profile.threads[[...threads][0]].name}`);
    else if (threads.size > 1) words.push(`${threads.size} threads`);
    if (from > 0 || until < parts) words.push(`${time(from * partUs)} to ${time(until * partUs)}`);
    if (lock) words.push("holding the lock");
    byId("selection").textContent = words.join(", ");
    byId("clear").hidden = words.length === 0;
  }

  choose(tree, box) {
    if (box.parent === null) return this.tell(tree, box);
    this.tell(tree, box);
    if (this.group !== box.group) this.chooseGroup(tree.grouping, box.group);
  }

  chooseGroup(grouping, group) {
    this.group = group;
    this.showDetails();
    if (this.tab === "around") this.showView();
    else if (this.view instanceof Flame) this.view.draw();
  }

  chosenGroup(grouping) {
    return grouping === this.grouping ? this.group : null;
  }

  /** What a box says: in the line at the bottom. */
  tell(tree, box) {
    this.say(this.sentence(tree, box), element("code", {}, `  ${tree.name(box)}`));
  }

  sentence(tree, box) {
    const whole = this.sums.sum;
    const self =
      box.self > 0 && box.parent !== null ? `, itself ${this.words(box.self)} (${percent(box.self, whole)})` : "";
    return `${this.words(box.value)} (${percent(box.value, whole)})${self}`;
  }

  say(...parts) {
    byId("status").replaceChildren(...parts);
  }

  showTip(tree, box, x, y) {
    const tip = byId("tip");
    const lines = [element("b", {}, tree.name(box)), element("div", {}, this.sentence(tree, box))];
    if (box.parent !== null) {
      const { frame } = tree.grouping.groups[box.group];
      const { profile } = this;
      const place =
        profile.files[frame] === ""
          ? ""
          : `${baseName(profile.files[frame])}${tree.grouping.showsLines ? `:${profile.lines[frame]}` : ""}`;
      const about = [profile.modules[frame], place, KIND_WORDS[colourKind(profile, frame)]];
      lines.push(element("div", { class: "dim" }, about.filter((part) => part !== "").join(" · ")));
    }
    tip.replaceChildren(...lines);
    tip.hidden = false;
    const { offsetWidth, offsetHeight } = tip;
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - offsetWidth - 8))}px`;
    tip.style.top = `${y + 20 + offsetHeight > innerHeight ? Math.max(4, y - offsetHeight - 12) : y + 18}px`;
  }

  hideTip() {
    byId("tip").hidden = true;
  }

  /** The path that is zoomed to, each step of it a way back. */
  zoomed(view) {
    this.hideTip();
    const isFlame = view instanceof Flame && view.tree !== null;
    byId("zoom-out").disabled = !isFlame || view.focus.parent === null;
    byId("zoom-out").hidden = !(view instanceof Flame);
    const path = isFlame ? view.focus.path() : [];
    const steps = path.flatMap((box, at) => [
      at === 0 ? "" : " › ",
      element("button", { onclick: () => view.zoom(box) }, shortName(view.tree.name(box))),
    ]);
    byId("crumbs").replaceChildren(...(steps.length > 0 ? [element("bdi", {}, ...steps)] : []));
  }

  // Search.

  search(text) {
    this.pattern = text;
    const input = byId("search");
    if (input.value !== text) input.value = text;
    this.cache.delete("matches");
    this.showFound();
    if (this.tab === "functions") this.view.sort(this.view.sortedBy);
    else this.draw();
  }

  /** By group: 1 where it is searched for; null while nothing is. */
  matches(grouping) {
    const matches = matcher(this.pattern);
    if (matches === null) return null;
    const known = this.cache.get("matches");
    if (known?.grouping === grouping) return known.groups;
    const { profile } = this;
    const groups = Uint8Array.from(grouping.groups, ({ id, frame }) =>
      Number(matches(`${groupName(profile, grouping, id)} ${profile.modules[frame]} ${profile.files[frame]}`)),
    );
    this.cache.set("matches", { grouping, groups });
    return groups;
  }

  /** How much of the time is in stacks with what is searched for. */
  showFound() {
    const matches = this.matches(this.grouping);
    if (matches === null) return void (byId("found").textContent = "");
    const { callers } = this.profile;
    const { byNode } = this.grouping;
    const { total, sum } = this.sums;
    const inside = new Uint8Array(callers.length);
    let found = 0;
    for (let node = 0; node < callers.length; node++) {
      inside[node] = callers[node] !== NONE ? inside[callers[node]] : 0;
      if (inside[node] === 0 && matches[byNode[node]] === 1) {
        inside[node] = 1;
        found += total[node];
      }
    }
    byId("found").textContent = percent(found, sum);
  }

  /** Goes to the next box that is searched for, of those that are drawn. */
  nextMatch(by) {
    const { view } = this;
    if (!(view instanceof Flame)) return this.focusView();
    const matches = this.matches(this.grouping);
    if (matches === null) return;
    const found = view.rows
      .flat()
      .map(({ box }) => box)
      .filter((box) => box.group !== NONE && matches[box.group] === 1);
    if (found.length === 0)
      return this.say("Nothing that is wide enough to be seen matches; zoom out, or see Functions.");
    view.choose(found[(found.indexOf(view.cursor) + by + found.length) % found.length]);
  }

  focusView() {
    const views = { calls: this.view.scroller, functions: this.view.scroller, around: this.view.callees?.host };
    (views[this.tab] ?? this.view.host).focus({ preventScroll: true });
  }

  // Keys and windows.

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (isTyping || document.querySelector("dialog[open]")) return;
    const tab = TABS.find(({ keys }) => keys === event.key);
    const weight = WEIGHTS[Number(event.key) - 1];
    const isChoice = event.target.getAttribute("role") === "radio";
    if (tab) {
      this.setTab(tab.name);
      this.focusView();
    } else if (weight) this.setWeight(weight.name);
    else if (isChoice && /^Arrow(Left|Right)$/.test(event.key)) {
      const at = WEIGHTS.findIndex(({ name }) => name === this.weight) + (event.key === "ArrowLeft" ? -1 : 1);
      this.setWeight(WEIGHTS[(at + WEIGHTS.length) % WEIGHTS.length].name);
      byId("weights").querySelector("[aria-checked=true]").focus();
    } else if (event.key === "/") byId("search").select();
    else if (event.key === "n" || event.key === "N") this.nextMatch(event.key === "n" ? 1 : -1);
    else if (event.key === "t") this.setTheme(!this.isDark);
    else if (event.key === "?") this.showHelp();
    else if (event.key === "x") this.clear();
    else if (event.key === "p") this.live?.pause();
    else if (event.key === "Backspace" || event.key === "Escape") this.view.zoomOut?.();
    else if (event.key.startsWith("Arrow") && event.target === document.body) this.focusView();
    else return;
    event.preventDefault();
  }

  showHelp() {
    const keys = [
      ["1 to 5", "CPU, wall, off-CPU, run queue, samples"],
      ["f i b", "flame graph, icicle, inverted"],
      ["r l c", "call tree, functions, callers and callees"],
      ["/ n N", "search, next, previous; /regex/ is one"],
      ["arrows", "from box to box, row to row"],
      ["Enter", "zoom to the box; open"],
      ["Backspace", "zoom out; Home: all the way"],
      ["Shift-click", "choose a box and stay"],
      ["drag", "on the timeline: select a time; click: all again"],
      ["click", "on a thread: it alone; with Ctrl one more, with Shift all between"],
      ["x", "show all threads and times"],
      ["t", "light or dark"],
      ...(this.live ? [["p", "pause: what is shown stays as it is"]] : []),
    ];
    this.open(
      "help",
      "Keys",
      keys.map(([key, what]) => [element("kbd", {}, key), what]),
      [],
    );
  }

  showAbout() {
    const { summary, notes, version } = this.profile.head;
    const { threads } = this.profile;
    const commands = [...new Set(threads.map(({ command_line, pid }) => `${command_line} (${pid})`))];
    const ratio = (value) => percent(value, 1);
    const asked = `${summary.rate_hz.toFixed(1)} Hz of ${summary.rate_hz_requested} Hz asked for`;
    const half = `half of them at most ${time(summary.pause_p50_ns / 1e3)}`;
    const longest = `the longest ${time(summary.pause_max_ns / 1e3)}`;
    const stood = `in no second did a thread stand still for more than ${ratio(summary.thread_stopped)}`;
    const rows = [
      ["Target", commands.slice(0, 6).join("\n") + (commands.length > 6 ? ` and ${commands.length - 6} more` : "")],
      ["Recorded", `${time(summary.wall_ns / 1e3)} at ${asked}`],
      ["Samples", `${count(summary.samples)}, ${ratio(summary.complete_ratio)} of them with whole stacks`],
      ["Missed", `${count(summary.missed)} samples that were due`],
      ["CPU time of the target", time(summary.cpu_ns / 1e3)],
      ["Stops of threads", `${count(summary.stops)}, ${half}, ${longest}`],
      ["Cost", `${stood}; ${time(summary.sampler_cpu_ns / 1e3)} of CPU time for the sampler`],
      ["Resolution of the timeline", this.profile.partUs > 0 ? time(this.profile.partUs) : "none"],
      ["Made by", `sampler ${version}`],
    ];
    this.open("about", "About this recording", rows, notes);
  }

  open(id, title, rows, notes) {
    const dialog = byId(id);
    const list = element(
      "dl",
      {},
      ...rows.flatMap(([term, what]) => [element("dt", {}, term), element("dd", {}, what)]),
    );
    const remarks =
      notes.length > 0 ? [element("h2", {}, "Notes"), ...notes.map((note) => element("p", {}, note))] : [];
    dialog.replaceChildren(
      element("h2", {}, title),
      list,
      ...remarks,
      element("button", { onclick: () => dialog.close() }, "Close"),
    );
    dialog.showModal();
  }

  async copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      this.say("Copied.");
    } catch {
      this.say("The browser does not let a page copy; the name is above the lines, to be selected.");
    }
  }
}

try {
  const app = new App(await readProfile(byId("profile").textContent));
  const { live } = document.documentElement.dataset;
  app.live = live === undefined ? null : new Live(app, live);
  window.report = app;
} catch (error) {
  byId("title").textContent = "This report cannot be shown";
  byId("subtitle").textContent = `${error}; it needs a browser of 2023 or newer`;
  throw error;
}
