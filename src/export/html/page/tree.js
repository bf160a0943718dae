// Trees that are made as far as they are looked at: a node is expanded when it is drawn, so that the largest profile
// takes no longer than what fits on a screen.

/** A frame below (or above) others in a tree: what it stands for, and which nodes of the profile it is made of. */
class Box {
  constructor(parent, group, items) {
    this.parent = parent;
    this.group = group;
    this.items = items; // nodes of the profile
    this.weights = null; // what each of them counts for, in a tree of callers
    this.value = 0;
    this.self = 0;
    this.children = null;
  }

  get depth() {
    let depth = 0;
    for (let box = this.parent; box !== null; box = box.parent) depth++;
    return depth;
  }

  /** From the outermost on, this one included, without the root. */
  path() {
    const path = [];
    for (let box = this; box.parent !== null; box = box.parent) path.push(box);
    return path.reverse();
  }
}

/** What is in common: groups, and boxes in the order they are shown in. */
class Tree {
  constructor(profile, sums, grouping) {
    this.profile = profile;
    this.sums = sums;
    this.grouping = grouping;
    this.root = null;
  }

  name(box) {
    return box.parent === null ? this.rootName : groupName(this.profile, this.grouping, box.group);
  }

  children(box) {
    if (box.children === null) {
      const children = this.expand(box).filter((child) => child.value > 0);
      children.sort((a, b) => b.value - a.value || a.group - b.group);
      box.children = children;
    }
    return box.children;
  }

  /** The box that is reached by the groups of a path, or as much of it as there is. */
  follow(groups) {
    let box = this.root;
    for (const group of groups) {
      const child = this.children(box).find((child) => child.group === group);
      if (child === undefined) break;
      box = child;
    }
    return box;
  }
}

/** Who was called, from outside inwards. */
class CalleeTree extends Tree {
  constructor(profile, sums, grouping, group = null) {
    super(profile, sums, grouping);
    this.rootName = "all";
    this.root = new Box(null, NONE, null);
    if (group === null) {
      this.root.value = sums.sum;
      return;
    }
    // What a function called, wherever it was called from.
    const top = new Box(this.root, group, outermostOf(profile, grouping, group));
    for (const node of top.items) this.count(top, node);
    this.root.value = top.value;
    this.root.children = top.value > 0 ? [top] : [];
  }

  count(box, node) {
    box.value += this.sums.total[node];
    box.self += this.sums.self[node];
  }

  expand(box) {
    const { childStarts, children } = this.profile;
    const { byNode } = this.grouping;
    const { total } = this.sums;
    const found = new Map();
    const due = box.items === null ? [NONE] : [...box.items];
    while (due.length > 0) {
      const above = due.pop();
      for (let at = childStarts[above + 1]; at < childStarts[above + 2]; at++) {
        const node = children[at];
        if (total[node] === 0) continue;
        const group = byNode[node];
        // A module that calls within itself: that is no step.
        if (this.grouping.merges && group === box.group) {
          box.self += this.sums.self[node];
          due.push(node);
          continue;
        }
        let child = found.get(group);
        if (child === undefined) found.set(group, (child = new Box(box, group, [])));
        child.items.push(node);
        this.count(child, node);
      }
    }
    return [...found.values()];
  }
}

/** Who called, from inside outwards. */
class CallerTree extends Tree {
  constructor(profile, sums, grouping, group = null) {
    super(profile, sums, grouping);
    this.rootName = "all";
    this.root = new Box(null, NONE, null);
    if (group !== null) {
      const top = new Box(this.root, group, outermostOf(profile, grouping, group));
      top.weights = top.items.map((node) => sums.total[node]);
      top.value = top.weights.reduce((sum, weight) => sum + weight, 0);
      this.root.value = top.value;
      this.root.children = top.value > 0 ? [top] : [];
      return;
    }
    this.root.value = sums.sum;
    const found = new Map();
    for (let node = 0; node < sums.self.length; node++) {
      if (sums.self[node] > 0) this.take(found, this.root, node, sums.self[node]);
    }
    this.root.children = [...found.values()].sort((a, b) => b.value - a.value || a.group - b.group);
  }

  take(found, box, node, weight) {
    const group = this.grouping.byNode[node];
    let child = found.get(group);
    if (child === undefined) {
      found.set(group, (child = new Box(box, group, [])));
      child.weights = [];
    }
    // Of stacks that differ inside alone, the callers are the same node.
    const last = child.items.length - 1;
    if (last >= 0 && child.items[last] === node) child.weights[last] += weight;
    else {
      child.items.push(node);
      child.weights.push(weight);
    }
    child.value += weight;
  }

  expand(box) {
    const found = new Map();
    let passed = 0;
    for (let at = 0; at < box.items.length; at++) {
      let caller = this.profile.callers[box.items[at]];
      while (this.grouping.merges && caller !== NONE && this.grouping.byNode[caller] === box.group)
        caller = this.profile.callers[caller];
      if (caller === NONE) continue;
      passed += box.weights[at];
      this.take(found, box, caller, box.weights[at]);
    }
    box.self = box.value - passed;
    return [...found.values()];
  }
}

function outermostOf(profile, grouping, group) {
  const nodes = [];
  for (let node = 0; node < grouping.byNode.length; node++) {
    if (grouping.byNode[node] === group && grouping.outermost[node] === 1) nodes.push(node);
  }
  return nodes;
}

/** By group: what it took itself, and with what it called. */
function groupSums(grouping, sums) {
  const self = new Float64Array(grouping.groups.length);
  const total = new Float64Array(grouping.groups.length);
  for (let node = 0; node < grouping.byNode.length; node++) {
    const group = grouping.byNode[node];
    self[group] += sums.self[node];
    if (grouping.outermost[node] === 1) total[group] += sums.total[node];
  }
  return { self, total };
}

/** What a group of frames is called. */
function groupName(profile, grouping, group) {
  const { frame } = grouping.groups[group];
  if (grouping.merges) return profile.modules[frame] || `[${profile.kinds[frame]}]`;
  const name = profile.names[frame];
  const line = profile.lines[frame];
  if (!grouping.showsLines || line === 0) return name;
  // A script's function is named after where it begins already.
  const plain = profile.languages[frame] === "" ? name : name.replace(SCRIPT_PLACE, "");
  return `${plain} (${baseName(profile.files[frame])}:${line})`;
}

const baseName = (path) => path.slice(path.lastIndexOf("/") + 1);
