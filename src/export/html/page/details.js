// The side panel: all that is known of the function that is chosen, with its lines, callers and callees.

const ROWS_MAX = 12;
/** Of a source file that the reader opens, so many bytes are taken. */
const SOURCE_BYTES_MAX = 16 << 20;

class Details {
  constructor(host, app) {
    this.host = host;
    this.app = app;
    /** Source files that the reader opened, by the name they have in the profile. */
    this.sources = new Map();
  }

  show() {
    const { app } = this;
    const { profile, grouping, group } = app;
    if (group === null) {
      this.host.replaceChildren(
        element("p", { class: "dim" }, "Choose a function: its lines, callers and callees are shown here."),
      );
      return;
    }
    const { frame, frames } = grouping.groups[group];
    const name = groupName(profile, grouping, group);
    const parts = [element("h2", {}, name)];
    const kind = KIND_WORDS[colourKind(profile, frame)];
    parts.push(
      element(
        "p",
        { class: "dim" },
        [...new Set([kind, profile.languages[frame], profile.modules[frame]])]
          .filter((part) => part !== "")
          .join(" · "),
      ),
    );
    const files = [...new Set(frames.map((frame) => profile.files[frame]).filter((file) => file !== ""))];
    for (const file of files.slice(0, 3)) parts.push(element("p", { class: "dim" }, file));
    parts.push(
      element(
        "div",
        { class: "tools" },
        element(
          "button",
          { onclick: () => app.setTab("around"), title: "Callers and callees (c)" },
          "Callers & callees",
        ),
        element("button", { onclick: () => app.search(shortName(name)), title: "Mark it wherever it is" }, "Search"),
        element("button", { onclick: () => app.copy(name) }, "Copy name"),
      ),
    );
    parts.push(this.weights());
    parts.push(...this.lines(frames));
    parts.push(...this.neighbours("Called by", this.callers()), ...this.neighbours("Calls", this.callees()));
    this.host.replaceChildren(...parts);
  }

  weights() {
    const { app } = this;
    const rows = WEIGHTS.map(({ name, label, words }) => {
      const sums = app.sumsOf(name);
      const { self, total } = app.groupSumsOf(name);
      return element(
        "tr",
        {},
        element("td", {}, label),
        element("td", { class: "num" }, words(self[app.group])),
        element("td", { class: "num" }, words(total[app.group])),
        element("td", { class: "num dim" }, percent(total[app.group], sums.sum)),
      );
    });
    const head = ["", "self", "total", "of all"].map((title) => element("th", { class: "num" }, title));
    return element("table", {}, element("tr", {}, ...head), ...rows);
  }

  /** What each line of the function took. */
  lines(frames) {
    const { app } = this;
    const { profile } = app;
    const sums = groupSums(profile.groupings.line, app.sums);
    const byLine = new Map();
    for (const frame of frames) {
      if (profile.lines[frame] === 0) continue;
      const group = profile.groupings.line.of[frame];
      byLine.set(group, {
        file: profile.files[frame],
        line: profile.lines[frame],
        self: sums.self[group],
        total: sums.total[group],
      });
    }
    const lines = [...byLine.values()].filter(({ total }) => total > 0).sort((a, b) => b.total - a.total);
    if (lines.length === 0) return [];
    const rows = lines
      .slice(0, ROWS_MAX)
      .map(({ file, line, self, total }) =>
        element(
          "tr",
          {},
          element("td", { class: "fn" }, `${baseName(file)}:${line}`),
          element("td", { class: "num" }, app.words(self)),
          element("td", { class: "num" }, app.words(total)),
        ),
      );
    const head = ["line", "self", "total"].map((title) => element("th", { class: "num" }, title));
    const more =
      lines.length > ROWS_MAX ? [element("p", { class: "dim" }, `and ${lines.length - ROWS_MAX} more lines`)] : [];
    return [
      element("h3", {}, "Lines"),
      element("table", {}, element("tr", {}, ...head), ...rows),
      ...more,
      ...this.source(lines),
    ];
  }

  /** The source itself, if the reader opens the file: none of it is in the report. */
  source(lines) {
    const [{ file }] = lines;
    const text = this.sources.get(file);
    if (text === undefined) {
      const input = element("input", { type: "file", hidden: true, onchange: () => this.open(file, input.files[0]) });
      return [
        element(
          "div",
          { class: "tools" },
          input,
          element(
            "button",
            {
              title: `No source is in the report. Open ${file} from your disk, to see it beside the times.`,
              onclick: () => input.click(),
            },
            `Open ${baseName(file)}…`,
          ),
        ),
      ];
    }
    const here = new Map(lines.filter((line) => line.file === file).map((line) => [line.line, line]));
    const numbers = [...here.keys()];
    const [first, last] = [Math.max(1, Math.min(...numbers) - 4), Math.max(...numbers) + 4];
    const rows = text.slice(first - 1, last).map((line, at) => {
      const known = here.get(first + at);
      return element(
        "div",
        { class: known ? "hot" : "" },
        element("u", {}, String(first + at)),
        element("i", {}, known ? percent(known.total, this.app.sums.sum) : ""),
        line,
      );
    });
    return [element("div", { class: "source", tabindex: 0 }, ...rows)];
  }

  async open(file, chosen) {
    if (chosen === undefined) return;
    const text = await chosen.slice(0, SOURCE_BYTES_MAX).text();
    this.sources.set(file, text.split("\n"));
    this.show();
  }

  callers() {
    const { app } = this;
    const tree = new CallerTree(app.profile, app.sums, app.grouping, app.group);
    return tree.root.children.length === 0 ? [] : tree.children(tree.root.children[0]);
  }

  callees() {
    const { app } = this;
    const tree = new CalleeTree(app.profile, app.sums, app.grouping, app.group);
    return tree.root.children.length === 0 ? [] : tree.children(tree.root.children[0]);
  }

  neighbours(title, boxes) {
    if (boxes.length === 0) return [];
    const { app } = this;
    const rows = boxes
      .slice(0, ROWS_MAX)
      .map((box) =>
        element(
          "tr",
          { class: "link", onclick: () => app.chooseGroup(app.grouping, box.group) },
          element("td", { class: "fn" }, shortName(groupName(app.profile, app.grouping, box.group))),
          element("td", { class: "num" }, app.words(box.value)),
        ),
      );
    return [element("h3", {}, title), element("table", {}, ...rows)];
  }
}
