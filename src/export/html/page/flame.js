// Flame graphs, drawn: only what is on the screen, on a canvas. Pointer and keys do the same things.

const ROW_PX = 18;
/** Narrower boxes are not drawn, nor what is above them. */
const BOX_PX_MIN = 1;
const LABEL_PX_MIN = 26;

/** Hue and saturation by what kind of code a frame is. */
const KIND_COLOURS = {
  native: [27, 82],
  inlined: [46, 78],
  jit: [146, 48],
  interpreted: [210, 72],
  compiled: [162, 55],
  builtin: [188, 52],
  runtime: [280, 32],
  kernel: [345, 58],
  blocked: [228, 30],
  note: [220, 6],
};
const KIND_WORDS = {
  native: "native",
  inlined: "native, inlined",
  jit: "compiled at run time",
  interpreted: "interpreted",
  compiled: "compiled script",
  builtin: "built-in",
  runtime: "runtime",
  kernel: "kernel",
  blocked: "asleep",
  note: "remark",
};

/** The kind that a frame is coloured as. */
function colourKind(profile, frame) {
  const kind = profile.kinds[frame];
  if (kind !== "native") return kind;
  if (profile.modules[frame] === "[jit]") return "jit";
  return profile.inlined[frame] === 1 ? "inlined" : "native";
}

function hash(text) {
  let sum = 2166136261;
  for (let at = 0; at < text.length; at++) sum = Math.imul(sum ^ text.charCodeAt(at), 16777619);
  return (sum ^ (sum >>> 15)) >>> 0;
}

/** The colour of a hue in the theme; `step` from 0 to 1 tells neighbours apart. */
function shade(hue, saturation, step, isDark) {
  const lightness = isDark ? 33 + 9 * step : 68 + 12 * step;
  return `hsl(${hue} ${isDark ? saturation * 0.6 : saturation}% ${lightness}%)`;
}

function frameColour(profile, frame, by, isDark) {
  const step = (hash(profile.names[frame]) % 97) / 97;
  if (by === "module" && profile.modules[frame] !== "") {
    return shade((hash(profile.modules[frame]) % 36) * 10, 58, step, isDark);
  }
  const [hue, saturation] = KIND_COLOURS[colourKind(profile, frame)];
  return shade(hue + 10 * (step - 0.5), saturation, step, isDark);
}

/** A canvas that is as sharp as the screen: its drawing context, in CSS pixels. */
function fitCanvas(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  const [wide, high] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  return context;
}

const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

class Flame {
  /** Draws into `host`; `app` is told what is chosen. With `isUp` callees stand above their callers. */
  constructor(host, app, isUp, label) {
    this.app = app;
    this.isUp = isUp;
    this.canvas = element("canvas");
    this.spacer = element("div", { class: "spacer" });
    this.host = element(
      "div",
      { class: "flame", tabindex: 0, role: "application", "aria-label": label },
      this.canvas,
      this.spacer,
    );
    this.host.view = this;
    host.append(this.host);
    this.tree = null;
    this.focus = null;
    this.cursor = null;
    this.rows = [];
    this.colours = new Map();
    this.paintDue = false;
    this.host.addEventListener("scroll", () => this.draw());
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => app.hideTip());
    this.canvas.addEventListener("click", (event) => this.click(event));
    this.host.addEventListener("keydown", (event) => this.key(event));
    this.host.addEventListener("focus", () => this.draw());
    this.resized = new ResizeObserver(() => this.layOut(false));
    this.resized.observe(this.host);
  }

  /** Shows a tree; what was zoomed to stays zoomed to as far as it is there. */
  show(tree) {
    const groups = (box) =>
      box === null || this.tree === null
        ? []
        : sameGroups(
            this.tree.grouping,
            tree.grouping,
            box.path().map((box) => box.group),
          );
    const [focus, cursor] = [groups(this.focus), groups(this.cursor)];
    const isFirst = this.tree === null;
    this.tree = tree;
    this.focus = tree.follow(focus);
    this.cursor = cursor.length > 0 ? tree.follow(cursor) : null;
    this.colours.clear();
    this.layOut(isFirst);
  }

  forgetColours() {
    this.colours.clear();
    this.draw();
  }

  /** Finds out which boxes are wide enough to be seen, and where they stand. */
  layOut(toRoot) {
    if (this.tree === null) return;
    const width = this.host.clientWidth;
    const rows = [];
    const above = [];
    for (let box = this.focus.parent; box !== null; box = box.parent) above.unshift(box);
    for (const box of above) rows.push([{ box, x: 0, width }]);
    let row = [{ box: this.focus, x: 0, width }];
    while (row.length > 0) {
      rows.push(row);
      const next = [];
      for (const { box, x, width } of row) {
        let at = x;
        for (const child of this.tree.children(box)) {
          const wide = (child.value / box.value) * width;
          if (wide < BOX_PX_MIN) break; // those that follow are narrower
          next.push({ box: child, x: at, width: wide });
          at += wide;
        }
      }
      row = next;
    }
    this.rows = rows;
    const high = rows.length * ROW_PX + 8;
    const { clientHeight: seen, scrollHeight, scrollTop } = this.host;
    // Where the root is below, what is seen keeps its distance from there.
    const below = toRoot ? 0 : scrollHeight - scrollTop;
    this.spacer.style.height = `${Math.max(0, high - seen)}px`;
    if (this.isUp) this.host.scrollTop = toRoot ? high : this.host.scrollHeight - below;
    this.draw();
  }

  /** Where a row stands, from the top of what is seen. */
  rowTop(row) {
    const seen = this.host.clientHeight;
    const high = Math.max(seen, this.rows.length * ROW_PX + 8);
    const top = this.isUp ? high - 4 - (row + 1) * ROW_PX : 4 + row * ROW_PX;
    return top - this.host.scrollTop;
  }

  /** Has it painted with the next frame, once. */
  draw() {
    if (this.paintDue) return;
    this.paintDue = true;
    requestAnimationFrame(() => {
      this.paintDue = false;
      this.paint();
    });
  }

  paint() {
    const [width, height] = [this.host.clientWidth, this.host.clientHeight];
    if (this.tree === null || width === 0 || height === 0) return;
    const context = fitCanvas(this.canvas, width, height);
    const { app } = this;
    const style = {
      text: token("--text"),
      panel: token("--panel"),
      mark: token("--mark"),
      dim: token("--dim"),
      accent: token("--accent"),
    };
    context.fillStyle = style.panel;
    context.fillRect(0, 0, width, height);
    context.font = `11.5px ${token("--mono")}`;
    context.textBaseline = "middle";
    const letter = context.measureText("m").width;
    const chosen = app.chosenGroup(this.tree.grouping);
    const matches = app.matches(this.tree.grouping);
    const depth = this.focus.depth;
    if (this.tree.root.value === 0) return;
    for (let row = 0; row < this.rows.length; row++) {
      const top = this.rowTop(row);
      if (top + ROW_PX < 0 || top > height) continue;
      for (const { box, x, width } of this.rows[row]) {
        const isFound = matches !== null && box.group !== NONE && matches[box.group] === 1;
        context.globalAlpha = (matches !== null && !isFound) || row < depth ? 0.45 : 1;
        context.fillStyle = isFound ? style.mark : this.colour(box);
        const wide = Math.max(0.5, width - (width > 3 ? 1 : 0.25));
        context.fillRect(x, top, wide, ROW_PX - 1);
        context.globalAlpha = 1;
        if (width >= LABEL_PX_MIN) {
          context.fillStyle = isFound ? style.panel : style.text;
          const label = this.label(box, Math.floor((width - 8) / letter));
          context.fillText(label, x + 4, top + ROW_PX / 2);
        }
        if (chosen === box.group && width > 2) {
          context.strokeStyle = style.accent;
          context.lineWidth = 1;
          context.strokeRect(x + 0.5, top + 0.5, wide - 1, ROW_PX - 2);
        }
        if (box === this.cursor) {
          context.strokeStyle = style.text;
          context.lineWidth = 2;
          context.strokeRect(x + 1, top + 1, Math.max(1, wide - 2), ROW_PX - 3);
        }
      }
    }
  }

  label(box, letters) {
    const name = box.parent === null ? `${this.tree.rootName}: ${this.app.words(box.value)}` : this.tree.name(box);
    if (name.length <= letters) return name;
    const short = shortName(name);
    return short.length <= letters ? short : `${short.slice(0, Math.max(1, letters - 1))}…`;
  }

  colour(box) {
    if (box.parent === null) return shade(220, 8, 0.6, this.app.isDark);
    let colour = this.colours.get(box.group);
    if (colour === undefined) {
      const { frame } = this.tree.grouping.groups[box.group];
      colour = frameColour(this.tree.profile, frame, this.app.colourBy, this.app.isDark);
      this.colours.set(box.group, colour);
    }
    return colour;
  }

  /** What is drawn at a place in the window. */
  at(clientX, clientY) {
    const bounds = this.canvas.getBoundingClientRect();
    const [x, y] = [clientX - bounds.left, clientY - bounds.top];
    const first = this.rowTop(0);
    const row = Math.floor(this.isUp ? (first + ROW_PX - y) / ROW_PX : (y - first) / ROW_PX);
    const place = (this.rows[row] ?? []).find((place) => x >= place.x && x < place.x + place.width);
    return place?.box ?? null;
  }

  /** Where a box is drawn in the window: for who wants to point at it. */
  placeOf(box) {
    const bounds = this.canvas.getBoundingClientRect();
    for (let row = 0; row < this.rows.length; row++) {
      const place = this.rows[row].find((place) => place.box === box);
      if (place)
        return {
          x: bounds.left + place.x + place.width / 2,
          y: bounds.top + this.rowTop(row) + ROW_PX / 2,
          width: place.width,
        };
    }
    return null;
  }

  point(event) {
    const box = this.at(event.clientX, event.clientY);
    if (box === null) return this.app.hideTip();
    this.app.showTip(this.tree, box, event.clientX, event.clientY);
  }

  click(event) {
    const box = this.at(event.clientX, event.clientY);
    if (box === null) return;
    this.host.focus({ preventScroll: true });
    this.choose(box);
    if (!event.shiftKey) this.zoom(box);
  }

  /** Makes a box the one that keys start from. */
  choose(box) {
    this.cursor = box;
    this.app.choose(this.tree, box);
    this.reveal();
    this.draw();
  }

  zoom(box) {
    if (this.focus === box) return;
    this.focus = box;
    this.layOut(false);
    this.reveal();
    this.app.zoomed(this);
  }

  zoomOut() {
    if (this.focus.parent !== null) this.zoom(this.focus.parent);
  }

  /** Scrolls to where the cursor can be seen. */
  reveal() {
    const row = this.rows.findIndex((row) => row.some((place) => place.box === this.cursor));
    if (row < 0) return;
    const top = this.rowTop(row);
    const seen = this.host.clientHeight;
    if (top < 0) this.host.scrollTop += top - 2 * ROW_PX;
    else if (top + ROW_PX > seen) this.host.scrollTop += top + 3 * ROW_PX - seen;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [inwards, outwards] = this.isUp ? ["ArrowUp", "ArrowDown"] : ["ArrowDown", "ArrowUp"];
    const cursor = this.cursor ?? this.focus;
    const steps = {
      [inwards]: () => (this.cursor === null ? cursor : this.tree.children(cursor)[0]),
      [outwards]: () => cursor.parent,
      ArrowLeft: () => this.beside(cursor, -1),
      ArrowRight: () => this.beside(cursor, 1),
    };
    if (event.key in steps) {
      const box = steps[event.key]();
      if (box) {
        // One that is too narrow to be seen is zoomed to.
        if (!this.rows.some((row) => row.some((place) => place.box === box))) this.zoom(box.parent ?? box);
        this.choose(box);
      }
    } else if (event.key === "Enter" || event.key === " ") this.zoom(cursor);
    else if (event.key === "Backspace" || event.key === "Escape") this.zoomOut();
    else if (event.key === "Home") this.zoom(this.tree.root);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** The box so many to the right in the same row. */
  beside(box, by) {
    const row = this.rows.find((row) => row.some((place) => place.box === box)) ?? [];
    return row[row.findIndex((place) => place.box === box) + by]?.box;
  }
}
