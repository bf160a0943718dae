// Tables of any length: of functions, and of the call tree. Only the rows that are seen are elements.

const GRID_ROW_PX = 22;

class Grid {
  /** `columns`: a class, a title, and what is sorted by when it is clicked. */
  constructor(host, kind, columns, label) {
    this.rows = [];
    this.cursor = 0;
    this.head = element("div", { class: `grid-head ${kind}` });
    this.body = element("div", { class: "grid-body" });
    this.grid = element("div", { class: `grid ${kind}` }, this.body);
    this.scroller = element(
      "div",
      { class: "scroller", tabindex: 0, role: "grid", "aria-label": label },
      this.head,
      this.grid,
    );
    this.grid.style.display = "block";
    this.scroller.view = this;
    this.columns = columns;
    host.append(this.scroller);
    this.scroller.addEventListener("scroll", () => this.draw());
    this.scroller.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest(".grid-row");
      if (row === null) return;
      this.cursor = Number(row.dataset.row);
      this.click(this.rows[this.cursor], event);
    });
    this.body.addEventListener("dblclick", (event) => {
      if (event.target.closest(".grid-row")) this.open(this.rows[this.cursor]);
    });
    new ResizeObserver(() => this.draw()).observe(this.scroller);
  }

  setHead(sortedBy) {
    this.head.replaceChildren(
      ...this.columns.map(({ kind, title, sort }) => {
        const mark = sort && sort === sortedBy ? " ▾" : "";
        return element("button", { class: kind, disabled: !sort, onclick: () => this.sort(sort) }, title + mark);
      }),
    );
  }

  /** Makes the row that is meant the one that keys start from, where it is. */
  moveTo(isMeant) {
    const at = this.rows.findIndex(isMeant);
    if (at < 0) return;
    this.cursor = at;
    this.draw();
  }

  setRows(rows) {
    this.rows = rows;
    this.cursor = Math.min(this.cursor, Math.max(0, rows.length - 1));
    this.grid.style.height = `${rows.length * GRID_ROW_PX}px`;
    this.draw();
  }

  draw() {
    const scrolled = Math.max(0, this.scroller.scrollTop);
    const first = Math.max(0, Math.floor(scrolled / GRID_ROW_PX) - 2);
    const last = Math.min(this.rows.length, first + Math.ceil(this.scroller.clientHeight / GRID_ROW_PX) + 5);
    const made = [];
    for (let at = first; at < last; at++) {
      const row = this.row(this.rows[at], at);
      row.classList.add("grid-row");
      row.classList.toggle("chosen", at === this.cursor);
      row.setAttribute("role", "row");
      row.dataset.row = at;
      row.style.top = `${at * GRID_ROW_PX}px`;
      made.push(row);
    }
    this.body.replaceChildren(...made);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / GRID_ROW_PX) - 2);
    const moves = {
      ArrowUp: this.cursor - 1,
      ArrowDown: this.cursor + 1,
      PageUp: this.cursor - page,
      PageDown: this.cursor + page,
      Home: 0,
      End: this.rows.length - 1,
    };
    if (this.rows.length === 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves) {
      this.cursor = Math.min(this.rows.length - 1, Math.max(0, moves[event.key]));
      this.reveal();
      this.click(this.rows[this.cursor], null);
    } else if (event.key === "Enter") this.open(this.rows[this.cursor]);
    else if (!this.turn?.(this.rows[this.cursor], event.key)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  reveal() {
    const top = this.cursor * GRID_ROW_PX;
    const seen = this.scroller.clientHeight - 26;
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
    else if (top + GRID_ROW_PX > this.scroller.scrollTop + seen) this.scroller.scrollTop = top + GRID_ROW_PX - seen;
    this.draw();
  }
}

/** A number with its share of all as a bar. */
function bar(value, whole, words) {
  const fill = element("i");
  fill.style.width = `${whole > 0 ? Math.max(0, (value / whole) * 60) : 0}%`;
  return element("span", { class: "bar num" }, fill, element("b", {}, `${words(value)}  ${percent(value, whole)}`));
}

class FunctionsView extends Grid {
  constructor(host, app) {
    super(
      host,
      "functions",
      [
        { kind: "num", title: "self", sort: "self" },
        { kind: "num", title: "total", sort: "total" },
        { kind: "", title: "function", sort: "name" },
        { kind: "", title: "module", sort: "module" },
      ],
      "Functions",
    );
    this.app = app;
    this.sortedBy = "self";
  }

  show(grouping, sums) {
    // Of another profile: the cursor stays with its function.
    const cursor = this.grouping && this.grouping !== grouping ? this.rows[this.cursor] : undefined;
    const [same] = cursor === undefined ? [] : sameGroups(this.grouping, grouping, [cursor]);
    this.grouping = grouping;
    this.sums = sums;
    this.values = groupSums(grouping, sums);
    this.sort(this.sortedBy);
    if (same !== undefined) this.moveTo((id) => id === same);
  }

  sort(by) {
    this.sortedBy = by;
    const { profile } = this.app;
    const { self, total } = this.values;
    const matches = this.app.matches(this.grouping);
    const rows = this.grouping.groups
      .filter(({ id }) => total[id] > 0 && (matches === null || matches[id] === 1))
      .map(({ id }) => id);
    const text = {
      name: (id) => groupName(profile, this.grouping, id),
      module: (id) => profile.modules[this.grouping.groups[id].frame],
    }[by];
    if (text) {
      const texts = new Map(rows.map((id) => [id, text(id)]));
      rows.sort((a, b) => texts.get(a).localeCompare(texts.get(b)) || total[b] - total[a]);
    } else if (by === "total") rows.sort((a, b) => total[b] - total[a] || self[b] - self[a]);
    else rows.sort((a, b) => self[b] - self[a] || total[b] - total[a]);
    this.setHead(by);
    this.setRows(rows);
  }

  row(id) {
    const { profile } = this.app;
    const { frame } = this.grouping.groups[id];
    const name = groupName(profile, this.grouping, id);
    return element(
      "div",
      { class: "row" },
      bar(this.values.self[id], this.sums.sum, this.app.words),
      bar(this.values.total[id], this.sums.sum, this.app.words),
      element("span", { class: "fn", title: name }, tableName(name)),
      element("span", { class: "dim" }, profile.modules[frame]),
    );
  }

  click(id) {
    this.draw();
    this.app.chooseGroup(this.grouping, id);
  }

  open(id) {
    this.app.chooseGroup(this.grouping, id);
    this.app.setTab("around");
  }
}

class CallsView extends Grid {
  constructor(host, app) {
    super(
      host,
      "calls",
      [
        { kind: "num", title: "total" },
        { kind: "num", title: "self" },
        { kind: "", title: "calls" },
        { kind: "", title: "module" },
      ],
      "Call tree",
    );
    this.app = app;
    this.expanded = new Set();
    this.tree = null;
  }

  show(tree) {
    const before = this.tree;
    const path = (box) =>
      sameGroups(
        before.grouping,
        tree.grouping,
        box.path().map((box) => box.group),
      );
    const isSame = before?.grouping.by === tree.grouping.by && before.root.value > 0;
    const paths = isSame ? [...this.expanded].map(path) : null;
    const cursor = isSame && this.rows.length > 0 ? path(this.rows[this.cursor].box) : null;
    this.tree = tree;
    this.expanded = new Set();
    if (paths === null) this.expandHot(tree.root);
    else {
      for (const path of paths) {
        const box = tree.follow(path);
        if (box.parent !== null) this.expanded.add(box);
      }
    }
    this.setHead(null);
    this.list();
    if (cursor !== null) {
      const box = tree.follow(cursor);
      this.moveTo((row) => row.box === box);
    }
  }

  /** Opens what most of the time is in. */
  expandHot(box) {
    for (let next = box, step = 0; step < 40; step++) {
      const [hottest] = this.tree.children(next);
      if (hottest === undefined || hottest.value < 0.5 * box.value) break;
      this.expanded.add(hottest);
      next = hottest;
    }
  }

  list() {
    const rows = [];
    const due = [...this.tree.children(this.tree.root)].reverse().map((box) => ({ box, depth: 0 }));
    while (due.length > 0) {
      const row = due.pop();
      rows.push(row);
      if (!this.expanded.has(row.box)) continue;
      const children = this.tree.children(row.box);
      for (let at = children.length - 1; at >= 0; at--) due.push({ box: children[at], depth: row.depth + 1 });
    }
    this.setRows(rows);
  }

  row({ box, depth }) {
    const { tree, app } = this;
    const name = tree.name(box);
    const { frame } = tree.grouping.groups[box.group];
    const mark = tree.children(box).length === 0 ? "" : this.expanded.has(box) ? "▾" : "▸";
    const matches = app.matches(tree.grouping);
    const call = element(
      "span",
      { class: "fn", title: name },
      element("span", { class: "twist" }, mark),
      tableName(name),
    );
    call.style.paddingLeft = `${8 + Math.min(depth, 60) * 12}px`;
    return element(
      "div",
      { class: `row${matches !== null && matches[box.group] === 1 ? " found" : ""}` },
      bar(box.value, tree.root.value, app.words),
      element("span", { class: "num" }, box.self > 0 ? app.words(box.self) : ""),
      call,
      element("span", { class: "dim" }, app.profile.modules[frame]),
    );
  }

  click({ box }, event) {
    if (event?.target.closest(".twist")) this.toggle(box);
    else this.draw();
    this.app.choose(this.tree, box);
  }

  open({ box }) {
    this.toggle(box);
  }

  toggle(box) {
    if (!this.expanded.delete(box)) {
      this.expanded.add(box);
      this.expandHot(box);
    }
    this.list();
  }

  /** Left and right close and open. */
  turn({ box }, key) {
    if (key === "ArrowRight" && !this.expanded.has(box)) this.toggle(box);
    else if (key === "ArrowLeft" && this.expanded.has(box)) this.toggle(box);
    else if (key === "ArrowLeft" && box.parent.parent !== null) {
      this.cursor = this.rows.findIndex((row) => row.box === box.parent);
      this.reveal();
    } else return key === "ArrowRight";
    return true;
  }
}

/** Who calls a function, and what it calls, each from everywhere: two flame graphs that meet in it. */
class AroundView {
  constructor(host, app) {
    this.app = app;
    this.empty = element("div", { class: "empty" }, "Choose a function in another view first.");
    this.halves = element("div", { class: "halves" });
    const half = (title) => {
      const made = element("div", {}, element("h2", {}, title));
      this.halves.append(made);
      return made;
    };
    host.append(this.empty, this.halves);
    this.callers = new Flame(half("callers"), app, true, "Callers of the chosen function");
    this.callees = new Flame(half("callees"), app, false, "What the chosen function calls");
  }

  show(profile, sums, grouping, group) {
    this.empty.hidden = group !== null;
    this.halves.hidden = group === null;
    if (group === null) return;
    const key = `${grouping.by}\0${grouping.groups[group].key}`;
    const isOther = this.key !== key;
    this.key = key;
    for (const [view, Kind] of [
      [this.callers, CallerTree],
      [this.callees, CalleeTree],
    ]) {
      if (isOther) view.tree = null;
      view.focus = isOther ? null : view.focus;
      view.show(new Kind(profile, sums, grouping, group));
    }
  }

  draw() {
    this.callers.forgetColours();
    this.callees.forgetColours();
  }
}
