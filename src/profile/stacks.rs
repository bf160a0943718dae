//! Stacks, interned: a tree of frames shared by all stacks that begin alike at the root.

use std::hash::{BuildHasher, Hash};

use rustc_hash::{FxBuildHasher, FxHashMap};
use sampler_unwind::interpreter::{FunctionKind, LinePrecision};
use sampler_unwind::{FrameOrigin, StackEnd};
use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[$doc:meta])* $id:ident),*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $id(pub u32);

        impl $id {
            /// As a position in a table.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    )*};
}
ids!(
    /// A process of a recording, numbered as they were first seen.
    ProcessId,
    /// A thread of a recording, numbered as they were first seen.
    ThreadId,
    /// An ELF file of a recording.
    ModuleId,
    /// A function of interpreted code, numbered as they were first seen.
    FunctionId,
    /// What a sleeper waits for, numbered as they were first seen.
    WaitId,
    /// A frame in a [`StackTable`].
    FrameId,
    /// A node in a [`StackTable`]: a frame together with all frames outside it.
    NodeId,
    /// A stack in a [`StackTable`].
    StackId,
    /// Code that was compiled at run time, in a [`JitTable`](super::JitTable).
    JitId
);

/// What makes two frames the same before symbols are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKey {
    /// Machine code.
    Code {
        /// The file it is in; `None` for code that no file backs.
        module: Option<ModuleId>,
        /// The address the file states (SVMA), or without a module the address in the process. Of the instruction to be
        /// executed next, or where a call will return to.
        address: u64,
        /// Whether `address` is a return address, to be looked up one byte back.
        is_return_address: bool,
        /// How the frame was found.
        origin: FrameOrigin,
    },
    /// Interpreted code, or what a runtime compiled of it.
    Interpreted {
        /// The function.
        function: FunctionId,
        /// The line in it; 0 where it is not known.
        line: u32,
        /// How well that is known.
        precision: LinePrecision,
        /// What kind of code it is.
        kind: FunctionKind,
    },
    /// Machine code that was compiled at run time and has a name: put there when a recording is read.
    Jit {
        /// What it is.
        code: JitId,
        /// The address in the process.
        address: u64,
        /// Whether `address` is a return address, to be looked up one byte back.
        is_return_address: bool,
    },
    /// On a CPU inside a system call of this number: the innermost frame of a running thread.
    Syscall(u32),
    /// Asleep in a system call of this number.
    Blocked(u32),
    /// Asleep in a system call, and it is known for what.
    BlockedOn(WaitId),
    /// Asleep in the kernel, but not in a system call (a page fault).
    BlockedInFault,
    /// Stopped by a signal or a debugger.
    Stopped,
    /// Running, and not stopped to be looked at: its machine code was not seen.
    NotStopped,
    /// Asleep, with nobody allowed to see in what.
    Asleep,
    /// CPU time of threads that ended before they could be looked at again.
    Ended,
    /// A sample of the thread was due and its stack could not be had.
    NoStack,
    /// No frame: the thread held the lock that lets one thread execute at a time (the GIL of CPython). Comes innermost.
    HoldsLock,
    /// CPU time of a process's children that ended before they could be looked at, or after they were last.
    ChildrenEnded,
    /// CPU time of a thread that was only ever found asleep: the innermost frame, put there when a recording is read.
    UnseenCpu,
}

impl FrameKey {
    /// Where to look its function up, if it is machine code that no file backs and that has no name yet: inside the
    /// call for a return address.
    pub fn anonymous_code(self) -> Option<u64> {
        match self {
            FrameKey::Code {
                module: None,
                address,
                is_return_address,
                ..
            } => Some(address.saturating_sub(u64::from(is_return_address))),
            _ => None,
        }
    }
}

/// How a stack ended, as far as a profile cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// It reaches its outermost frame.
    Complete,
    /// A limit of ours cut it: how much stack is copied, how deep a walk goes.
    Truncated,
    /// Information was missing: a register, unwind tables, a readable stack.
    Partial,
}

impl From<StackEnd> for End {
    fn from(end: StackEnd) -> Self {
        if end.is_complete() {
            End::Complete
        } else if end.is_truncated() {
            End::Truncated
        } else {
            End::Partial
        }
    }
}

/// One frame below its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StackNode {
    /// The frame outside it; `None` for the outermost.
    pub caller: Option<NodeId>,
    /// The frame.
    pub frame: FrameId,
}

/// Frames, nodes and stacks, each stored once. Ids are handed out in ascending order from zero.
#[derive(Debug, Default)]
pub struct StackTable {
    frames: Vec<FrameKey>,
    nodes: Vec<StackNode>,
    stacks: Vec<(NodeId, End)>,
    frame_ids: FxHashMap<FrameKey, FrameId>,
    node_ids: FxHashMap<StackNode, NodeId>,
    stack_ids: FxHashMap<(NodeId, End), StackId>,
    /// By the hash of all frames of a stack, the one that was last found or added under it. See
    /// [`StackTable::intern_slice`].
    by_hash: FxHashMap<u64, StackId>,
    /// How many of each there is room for at least.
    room: usize,
}

impl StackTable {
    /// With room for so many frames, nodes and stacks, in some 130 bytes for one of each: until there are more it takes
    /// no more memory. The room is made use of once, so that the kernel gives it now and not little by little.
    pub fn with_room(entries: usize) -> Self {
        /// Of hash tables one entry in so many is enough to touch all pages.
        const ENTRIES_PER_TOUCH: usize = 8;
        let no_frame = StackNode {
            caller: None,
            frame: FrameId(0),
        };
        let mut table = Self {
            frames: vec![FrameKey::NoStack; entries],
            nodes: vec![no_frame; entries],
            stacks: vec![(NodeId(0), End::Partial); entries],
            frame_ids: map_with_room(entries),
            node_ids: map_with_room(entries),
            stack_ids: map_with_room(entries),
            by_hash: map_with_room(entries),
            room: entries,
        };
        table.clear();
        for number in 0..id_after(entries / ENTRIES_PER_TOUCH) {
            table.intern_slice(&[FrameKey::Syscall(number)], End::Partial);
        }
        table.clear();
        table
    }

    /// As [`StackTable::intern`], and several times faster for a stack that is already there: one look-up for all of
    /// it instead of two for each frame.
    pub fn intern_slice(&mut self, outermost_first: &[FrameKey], end: End) -> StackId {
        let hash = FxBuildHasher.hash_one((outermost_first, end));
        if let Some(&stack) = self.by_hash.get(&hash)
            && self.is_stack(stack, outermost_first, end)
        {
            return stack;
        }
        let stack = self.intern(outermost_first.iter().copied(), end);
        self.by_hash.insert(hash, stack);
        stack
    }

    /// Whether `stack` is the one of these frames.
    fn is_stack(&self, stack: StackId, outermost_first: &[FrameKey], end: End) -> bool {
        let (innermost, stack_end) = self.stacks[stack.index()];
        let mut node = Some(innermost);
        let are_equal = outermost_first.iter().rev().all(|frame| {
            node.is_some_and(|id| {
                let StackNode { caller, frame: own } = self.nodes[id.index()];
                node = caller;
                self.frames[own.index()] == *frame
            })
        });
        are_equal && node.is_none() && stack_end == end
    }

    /// Interns the stack whose frames `outermost_first` gives, and which ended as `end` says.
    ///
    /// A stack without frames is the stack of [`FrameKey::NoStack`].
    pub fn intern(&mut self, outermost_first: impl Iterator<Item = FrameKey>, end: End) -> StackId {
        let mut node = None;
        for frame in outermost_first {
            let frame = self.frame(frame);
            node = Some(self.node(StackNode {
                caller: node,
                frame,
            }));
        }
        let node = node.unwrap_or_else(|| {
            let frame = self.frame(FrameKey::NoStack);
            self.node(StackNode {
                caller: None,
                frame,
            })
        });
        self.stack(node, end)
    }

    /// Interns one frame.
    pub fn frame(&mut self, frame: FrameKey) -> FrameId {
        let next = FrameId(id_after(self.frames.len()));
        *self.frame_ids.entry(frame).or_insert_with(|| {
            self.frames.push(frame);
            next
        })
    }

    /// Interns one node.
    pub fn node(&mut self, node: StackNode) -> NodeId {
        let next = NodeId(id_after(self.nodes.len()));
        *self.node_ids.entry(node).or_insert_with(|| {
            self.nodes.push(node);
            next
        })
    }

    /// Interns one stack.
    pub fn stack(&mut self, innermost: NodeId, end: End) -> StackId {
        let next = StackId(id_after(self.stacks.len()));
        *self.stack_ids.entry((innermost, end)).or_insert_with(|| {
            self.stacks.push((innermost, end));
            next
        })
    }

    /// All frames, by id.
    pub fn frames(&self) -> &[FrameKey] {
        &self.frames
    }

    /// All nodes, by id. A node's caller has a lower id than the node.
    pub fn nodes(&self) -> &[StackNode] {
        &self.nodes
    }

    /// All stacks, by id: their innermost node and how they ended.
    pub fn stacks(&self) -> &[(NodeId, End)] {
        &self.stacks
    }

    /// Forgets everything; ids begin at zero again. This is how memory stays bounded over days: the room that there was
    /// at first is kept, what came to it is given back.
    pub fn clear(&mut self) {
        let Self {
            frames,
            nodes,
            stacks,
            frame_ids,
            node_ids,
            stack_ids,
            by_hash,
            room,
        } = self;
        clear_list(frames, *room);
        clear_list(nodes, *room);
        clear_list(stacks, *room);
        clear_map(frame_ids, *room);
        clear_map(node_ids, *room);
        clear_map(stack_ids, *room);
        clear_map(by_hash, *room);
    }
}

fn map_with_room<K, V>(entries: usize) -> FxHashMap<K, V> {
    FxHashMap::with_capacity_and_hasher(entries, FxBuildHasher)
}

fn clear_list<T>(list: &mut Vec<T>, room: usize) {
    list.clear();
    list.shrink_to(room);
}

fn clear_map<K: Eq + Hash, V>(map: &mut FxHashMap<K, V>, room: usize) {
    map.clear();
    map.shrink_to(room);
}

fn id_after(len: usize) -> u32 {
    u32::try_from(len).expect("tables are cleared long before they hold 2^32 entries")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_stacks_are_stored_once_and_share_their_roots() {
        let mut table = StackTable::default();
        let (a, b, c) = (
            FrameKey::Syscall(1),
            FrameKey::Syscall(2),
            FrameKey::Syscall(3),
        );
        let first = table.intern([a, b].into_iter(), End::Complete);
        assert_eq!(table.intern([a, b].into_iter(), End::Complete), first);
        assert_ne!(table.intern([a, c].into_iter(), End::Complete), first);
        assert_ne!(table.intern([a, b].into_iter(), End::Partial), first);
        assert_eq!(
            (
                table.frames().len(),
                table.nodes().len(),
                table.stacks().len()
            ),
            (3, 3, 3)
        );
    }

    #[test]
    fn a_table_with_room_is_empty_and_keeps_its_room() {
        const ROOM: usize = 28 << 10;
        let mut table = StackTable::with_room(ROOM);
        let room = |table: &StackTable| (table.frames.capacity(), table.node_ids.capacity());
        let at_first = room(&table);
        for _ in 0..2 {
            assert!(table.frames.is_empty() && table.nodes.is_empty() && table.stacks.is_empty());
            for number in 0..id_after(2 * ROOM) {
                let stack = table.intern_slice(&[FrameKey::Syscall(number)], End::Complete);
                assert_eq!(stack, StackId(number));
                assert!(number >= id_after(ROOM) || room(&table) == at_first);
            }
            assert_ne!(room(&table), at_first);
            table.clear();
            assert_eq!(room(&table), at_first);
        }
    }

    #[test]
    fn a_stack_without_frames_says_so() {
        let mut table = StackTable::default();
        table.intern(std::iter::empty(), End::Partial);
        assert_eq!(table.frames(), [FrameKey::NoStack]);
    }

    #[test]
    fn a_slice_gets_the_same_id_whether_found_or_added() {
        let keys = [1, 2, 3].map(FrameKey::Syscall);
        let mut table = StackTable::default();
        for end in [End::Complete, End::Partial] {
            for frames in [&keys[..], &keys[..2], &keys[1..], &[]] {
                let added = table.intern_slice(frames, end);
                assert_eq!(table.intern_slice(frames, end), added);
                assert_eq!(table.intern(frames.iter().copied(), end), added);
            }
        }
        assert_eq!(table.stacks().len(), 8);
    }
}
