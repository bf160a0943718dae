// The profile as it stands in the page (its layout: src/export/html/payload.rs), and what is added up of it.

/** Reads a profile as it stands in the page. */
async function readProfile(packed) {
  const text = atob(packed);
  const compressed = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) compressed[at] = text.charCodeAt(at);
  const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const headBytes = new DataView(bytes.buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + headBytes)));
  return new Profile(head, new Columns(bytes, 4 + headBytes));
}

/** A number that may be negative, of one that is not. */
const unzigzag = (packed) => (packed % 2 === 0 ? packed / 2 : -(packed + 1) / 2);

/** Reads columns of numbers: seven bits a byte, lowest first. */
class Columns {
  constructor(bytes, at) {
    this.bytes = bytes;
    this.at = at;
  }

  next() {
    const { bytes } = this;
    let byte = bytes[this.at++];
    if (byte < 0x80) return byte;
    let number = byte & 0x7f;
    let unit = 0x80;
    do {
      byte = bytes[this.at++];
      number += (byte & 0x7f) * unit;
      unit *= 0x80;
    } while (byte >= 0x80);
    return number;
  }

  numbers(into) {
    for (let at = 0; at < into.length; at++) into[at] = this.next();
    return into;
  }

  /** Numbers that are given as differences, each to the one before. */
  differences(into) {
    let before = 0;
    for (let at = 0; at < into.length; at++) {
      before += unzigzag(this.next());
      into[at] = before;
    }
    return into;
  }
}

const NONE = -1;

class Profile {
  constructor(head, columns) {
    const { strings } = head;
    this.head = head;
    this.threads = head.threads;
    this.parts = head.parts;
    this.partUs = head.part_ns / 1e3;
    const ids = (count) => new Int32Array(count);
    // Frames.
    const text = (column, shift) =>
      Array.from(column, (position) => (position < shift ? "" : strings[position - shift]));
    this.names = text(columns.numbers(ids(head.frames)), 0);
    this.modules = text(columns.numbers(ids(head.frames)), 1);
    this.files = text(columns.numbers(ids(head.frames)), 1);
    this.lines = columns.numbers(ids(head.frames));
    this.kinds = Array.from(columns.numbers(ids(head.frames)), (kind) => head.kinds[kind]);
    this.languages = Array.from(columns.numbers(ids(head.frames)), (at) => (at === 0 ? "" : head.languages[at - 1]));
    this.inlined = columns.numbers(new Uint8Array(head.frames));
    // Nodes, in preorder.
    this.callers = columns.numbers(ids(head.nodes));
    for (let node = 0; node < head.nodes; node++)
      this.callers[node] = this.callers[node] === 0 ? NONE : node - this.callers[node];
    this.frames = columns.differences(ids(head.nodes));
    // Slices, by thread, part and node.
    this.slices = head.slices;
    this.sliceThread = columns.differences(ids(head.slices));
    this.slicePart = columns.differences(ids(head.slices));
    this.sliceNode = columns.differences(ids(head.slices));
    this.sliceLock = columns.numbers(new Uint8Array(head.slices));
    this.weights = this.readWeights(columns, head.slices, head.unit_us);
    this.hasLock = this.sliceLock.includes(1);
    this.firstSlice = this.findThreads();
    this.groupings = {
      function: { ...this.group(functionKey), by: "function" },
      line: { ...this.group(lineKey), by: "line", showsLines: true },
      module: { ...this.group(moduleKey), by: "module", merges: true },
    };
    this.childStarts = null;
    this.indexChildren();
  }

  /** Times in microseconds, and samples. */
  readWeights(columns, slices, unit) {
    const column = () => columns.numbers(new Float64Array(slices));
    const [wall, off, queue, cpu] = [column(), column(), column(), column()];
    for (let at = 0; at < slices; at++) {
      const left = Math.max(0, Math.max(0, wall[at] - off[at]) - queue[at]);
      cpu[at] = (left + unzigzag(cpu[at])) * unit;
      wall[at] *= unit;
      off[at] *= unit;
      queue[at] *= unit;
    }
    return { cpu, wall, off, queue, samples: column() };
  }

  /** Where the slices of each thread begin, and behind the last where they end. */
  findThreads() {
    const first = new Int32Array(this.threads.length + 1);
    for (let at = 0; at < this.slices; at++) first[this.sliceThread[at] + 1]++;
    for (let thread = 0; thread < this.threads.length; thread++) first[thread + 1] += first[thread];
    return first;
  }

  /** Frames that are the same for a way of telling them apart: groups of them, each with its first frame. */
  group(key) {
    const known = new Map();
    const groups = [];
    const of = new Int32Array(this.names.length);
    for (let frame = 0; frame < of.length; frame++) {
      const name = key(this, frame);
      let group = known.get(name);
      if (group === undefined) {
        group = groups.length;
        known.set(name, group);
        groups.push({ id: group, key: name, frame, frames: [] });
      }
      groups[group].frames.push(frame);
      of[frame] = group;
    }
    const byNode = new Int32Array(this.frames.length);
    for (let node = 0; node < byNode.length; node++) byNode[node] = of[this.frames[node]];
    return { groups, ids: known, byNode, of, outermost: this.outermost(byNode, groups.length) };
  }

  /** Which nodes have no caller of the same group: the total of a group is the sum of these. */
  outermost(byNode, groups) {
    const open = new Int32Array(groups).fill(NONE); // by group, the outermost node whose frames are being walked
    const path = [];
    const result = new Uint8Array(byNode.length);
    for (let node = 0; node < byNode.length; node++) {
      while (path.length > 0 && path[path.length - 1] !== this.callers[node]) {
        const left = path.pop();
        if (open[byNode[left]] === left) open[byNode[left]] = NONE;
      }
      path.push(node);
      if (open[byNode[node]] === NONE) {
        open[byNode[node]] = node;
        result[node] = 1;
      }
    }
    return result;
  }

  /** The nodes below each node, one after the other. */
  indexChildren() {
    const { callers } = this;
    const starts = new Int32Array(callers.length + 2);
    for (let node = 0; node < callers.length; node++) starts[callers[node] + 2]++;
    for (let at = 1; at < starts.length; at++) starts[at] += starts[at - 1];
    const children = new Int32Array(callers.length);
    const fill = starts.slice();
    for (let node = 0; node < callers.length; node++) children[fill[callers[node] + 1]++] = node;
    // Those of node n begin at starts[n + 1]; those without a caller at starts[0].
    this.childStarts = starts;
    this.children = children;
  }

  /** Adds up what is selected: by node, alone and with what it called. */
  select(weight, selection) {
    const { sliceNode, slicePart, sliceLock, firstSlice, callers } = this;
    const values = this.weights[weight];
    const self = new Float64Array(callers.length);
    let sum = 0;
    for (let thread = 0; thread < this.threads.length; thread++) {
      if (selection.threads.size > 0 && !selection.threads.has(thread)) continue;
      for (let at = firstSlice[thread]; at < firstSlice[thread + 1]; at++) {
        if (slicePart[at] < selection.from || slicePart[at] >= selection.until) continue;
        if (selection.lock && sliceLock[at] === 0) continue;
        self[sliceNode[at]] += values[at];
        sum += values[at];
      }
    }
    const total = self.slice();
    for (let node = total.length - 1; node >= 0; node--)
      if (callers[node] !== NONE) total[callers[node]] += total[node];
    return { weight, self, total, sum };
  }

  /** How much of each weight is selected. */
  sums(selection) {
    const { slicePart, sliceLock, firstSlice, weights } = this;
    const columns = WEIGHTS.map(({ name }) => weights[name]);
    const sums = columns.map(() => 0);
    for (let thread = 0; thread < this.threads.length; thread++) {
      if (selection.threads.size > 0 && !selection.threads.has(thread)) continue;
      for (let at = firstSlice[thread]; at < firstSlice[thread + 1]; at++) {
        if (slicePart[at] < selection.from || slicePart[at] >= selection.until) continue;
        if (selection.lock && sliceLock[at] === 0) continue;
        for (let weight = 0; weight < columns.length; weight++) sums[weight] += columns[weight][at];
      }
    }
    return Object.fromEntries(WEIGHTS.map(({ name }, at) => [name, sums[at]]));
  }
}

/** A path of groups of one profile in another one, as far as it is there; nothing of it where other things are told apart. */
function sameGroups(from, to, groups) {
  if (from === to) return groups;
  if (from.by !== to.by) return [];
  const same = groups.map((group) => to.ids.get(from.groups[group].key));
  const missing = same.indexOf(undefined);
  return missing < 0 ? same : same.slice(0, missing);
}

/** What makes two frames the same function. */
function functionKey(profile, frame) {
  const name = profile.names[frame];
  const place = profile.languages[frame] !== "" ? profile.files[frame] : "";
  return `${name}\0${profile.modules[frame]}\0${place}`;
}

const lineKey = (profile, frame) => `${functionKey(profile, frame)}\0${profile.files[frame]}\0${profile.lines[frame]}`;

const moduleKey = (profile, frame) => profile.modules[frame] || `\0${profile.kinds[frame]}`;
