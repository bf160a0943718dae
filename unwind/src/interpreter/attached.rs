//! All interpreters of one process.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::{
    Function, FunctionKind, InterpretedFrame, Interpreter, Language, Languages, LinePrecision,
    Lost, NativeFrame, RUNTIMES, RuntimeImage, Segments, ThreadContext, Unsupported, VolatileCopy,
    Walked,
};
use crate::address::{Avma, LoadBias};
use crate::elf::{ElfImage, ImageId, Runtimes};
use crate::memory::MemoryReader;
use crate::modules::{Module, Modules};
use crate::native::WalkGuide;
use crate::registers::Registers;
use crate::stack::Stack;

/// No process has more interpreters than this that are looked at: a hostile one could map the same library again and
/// again.
const INTERPRETERS_MAX: usize = 16;

/// Frames of one stack whose images are asked whether they hold an interpreter. One that is not met in so many is met in
/// another stack.
const FRAMES_MET_MAX: usize = 128;

/// An interpreter, and the module it was found in.
struct Attached {
    image: ImageId,
    bias: LoadBias,
    language: Language,
    interpreter: Result<Box<dyn Interpreter>, Refused>,
}

/// One that cannot be walked.
#[derive(Debug)]
struct Refused {
    why: Unsupported,
    /// Where its code lies.
    code: Range<Avma>,
    /// What stands for its frames.
    frame: InterpretedFrame,
}

impl Refused {
    fn new(
        why: Unsupported,
        language: Language,
        module: &Module,
        image: &dyn RuntimeImage,
    ) -> Self {
        let code = image.code().map_or(module.avma.clone(), |code| {
            module.bias.avma(code.start)..module.bias.avma(code.end)
        });
        let frame = lost_frame(language, &why.to_string());
        Self { why, code, frame }
    }

    /// The innermost native frame that is in its code.
    fn innermost(&self, native: &Stack) -> Option<usize> {
        let mut frames = native.frames.iter();
        frames.position(|frame| self.code.contains(&frame.lookup_address()))
    }
}

/// The interpreters found in one process.
#[derive(Default)]
pub struct Interpreters {
    languages: Languages,
    /// The images that threads were met in, in ascending order: only these are asked what they hold.
    met: Vec<ImageId>,
    attached: Vec<Attached>,
    lost_frames: LostFrames,
}

impl fmt::Debug for Interpreters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self
            .attached
            .iter()
            .map(|attached| (attached.language, &attached.interpreter));
        f.debug_list().entries(names).finish()
    }
}

/// What came of the walks of all interpreters for one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalkedAll {
    /// The thread was in at least one interpreter.
    pub is_interpreted: bool,
    /// Why frames are missing, if they are.
    pub lost: Option<Lost>,
    /// The thread held the lock that lets one thread execute at a time: the GIL of CPython.
    pub holds_lock: bool,
}

impl Interpreters {
    /// None yet, and none ever of other languages than these.
    pub fn of(languages: Languages) -> Self {
        Self {
            languages,
            ..Self::default()
        }
    }

    /// Asks the images that `stack` has frames in and that no stack before had: to find an interpreter takes reading much
    /// of an image, and most that a process maps it never executes. Says whether one was found; then the stack is to be
    /// walked again.
    pub fn meet(&mut self, stack: &Stack, modules: &Modules, memory: &dyn MemoryReader) -> bool {
        if self.languages.is_empty() {
            return false;
        }
        let mut last = None;
        let mut is_found = false;
        for frame in stack.frames.iter().take(FRAMES_MET_MAX) {
            let Some(module) = modules.find(frame.lookup_address()) else {
                continue;
            };
            let image = module.image.id();
            if last.replace(image) == Some(image) {
                continue;
            }
            if let Err(position) = self.met.binary_search(&image) {
                self.met.insert(position, image);
                is_found |= !module.image.runtimes().is_empty();
            }
        }
        if is_found {
            self.refresh(modules, memory);
        }
        is_found
    }

    /// Asks all images at once. For threads that are not stopped while they run: they may never be met anywhere.
    pub fn meet_all(&mut self, modules: &Modules, memory: &dyn MemoryReader) {
        if self.languages.is_empty() {
            return;
        }
        let before = self.met.len();
        for module in modules.iter() {
            let image = module.image.id();
            if let Err(position) = self.met.binary_search(&image) {
                self.met.insert(position, image);
            }
        }
        if self.met.len() > before {
            self.refresh(modules, memory);
        }
    }

    /// The modules are others. The interpreters that were known and are still there go on; `memory` is that of the live
    /// process.
    pub fn refresh(&mut self, modules: &Modules, memory: &dyn MemoryReader) {
        let mut before = std::mem::take(&mut self.attached);
        let mut present: Vec<ImageId> = modules.iter().map(|module| module.image.id()).collect();
        present.sort_unstable();
        self.met
            .retain(|image| present.binary_search(image).is_ok());
        for module in modules.iter() {
            if self.met.binary_search(&module.image.id()).is_err() {
                continue;
            }
            for (language, image) in module.image.runtimes() {
                if !self.languages.contains(*language) || self.attached.len() >= INTERPRETERS_MAX {
                    continue;
                }
                let known = before.iter().position(|known| {
                    (known.image, known.bias, known.language)
                        == (module.image.id(), module.bias, *language)
                });
                self.attached.push(match known {
                    Some(known) => before.swap_remove(known),
                    None => Attached {
                        image: module.image.id(),
                        bias: module.bias,
                        language: *language,
                        interpreter: image
                            .attach(module, memory)
                            .map_err(|why| Refused::new(why, *language, module, &**image)),
                    },
                });
            }
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.attached.is_empty()
    }

    /// Those that were found and cannot be walked.
    pub fn unsupported(&self) -> impl Iterator<Item = (Language, &Unsupported)> {
        self.attached.iter().filter_map(|attached| {
            Some((attached.language, &attached.interpreter.as_ref().err()?.why))
        })
    }

    fn each(&mut self) -> impl Iterator<Item = (Language, &mut Box<dyn Interpreter>)> {
        self.attached
            .iter_mut()
            .filter_map(|attached| Some((attached.language, attached.interpreter.as_mut().ok()?)))
    }

    /// Has each copy what it needs of a thread that stands still.
    pub fn capture(&mut self, thread: &ThreadContext, copy: &mut VolatileCopy<'_>) {
        for (_, interpreter) in self.each() {
            interpreter.capture(thread, copy);
        }
    }

    /// To be given to the native walk.
    pub fn guide<'a>(
        &'a mut self,
        thread: &'a ThreadContext,
        memory: &'a dyn MemoryReader,
    ) -> impl WalkGuide + 'a {
        for (_, interpreter) in self.each() {
            interpreter.begin(thread, memory);
        }
        Guide {
            interpreters: self,
            thread,
            memory,
        }
    }

    /// The interpreted frames of a thread whose native frames are `native`, in `out`. What is missing is there as a frame
    /// that says so.
    pub fn walk(
        &mut self,
        thread: &ThreadContext,
        native: &Stack,
        memory: &dyn MemoryReader,
        out: &mut Segments,
    ) -> WalkedAll {
        out.clear();
        let mut all = WalkedAll::default();
        let mut lost_frames = std::mem::take(&mut self.lost_frames);
        for (language, interpreter) in self.each() {
            let walked = interpreter.walk(thread, native, memory, out);
            all.holds_lock |= interpreter.holds_lock() == Some(true);
            match walked {
                Walked::NotHere => {}
                Walked::Whole => all.is_interpreted = true,
                Walked::Lost { reason, at } => {
                    all.is_interpreted = true;
                    all.lost = all.lost.or(Some(reason));
                    let from = out.frames.len();
                    out.frames.push(lost_frames.get(language, reason));
                    // Inside the interpreter's own frame, if that is known, else in the middle of nowhere: innermost.
                    let at = at.unwrap_or(0).min(native.frames.len());
                    out.close(from, at..at);
                }
            }
        }
        self.lost_frames = lost_frames;
        let refused = self.attached.iter();
        for refused in refused.filter_map(|attached| attached.interpreter.as_ref().err()) {
            let Some(at) = refused.innermost(native) else {
                continue;
            };
            all.is_interpreted = true;
            all.lost = all.lost.or(Some(Lost::Unsupported));
            let from = out.frames.len();
            out.frames.push(refused.frame.clone());
            out.close(from, at..at);
        }
        all
    }
}

/// The frames that stand for missing ones, each made once.
#[derive(Debug, Default)]
struct LostFrames {
    made: Vec<(Language, Lost, InterpretedFrame)>,
}

impl LostFrames {
    /// The one that says that frames of `language` are lost for `reason`.
    fn get(&mut self, language: Language, reason: Lost) -> InterpretedFrame {
        let made = self
            .made
            .iter()
            .find(|made| (made.0, made.1) == (language, reason));
        match made {
            Some((_, _, frame)) => frame.clone(),
            None => {
                let frame = lost_frame(language, reason.words());
                self.made.push((language, reason, frame.clone()));
                frame
            }
        }
    }
}

fn lost_frame(language: Language, why: &str) -> InterpretedFrame {
    InterpretedFrame {
        function: Arc::new(Function {
            language,
            name: format!("[{language}: lost: {why}]"),
            file: String::new(),
            first_line: 0,
        }),
        line: 0,
        precision: LinePrecision::Function,
        kind: FunctionKind::Pseudo,
    }
}

/// Asks all interpreters about each frame of a native walk.
struct Guide<'a> {
    interpreters: &'a mut Interpreters,
    thread: &'a ThreadContext,
    memory: &'a dyn MemoryReader,
}

impl WalkGuide for Guide<'_> {
    fn caller(&mut self, frame: NativeFrame<'_>) -> Option<Registers> {
        let (thread, memory) = (self.thread, self.memory);
        self.interpreters
            .each()
            .find_map(|(_, interpreter)| interpreter.visit(frame, thread, memory))
    }
}

/// What all runtimes say of an image.
pub(crate) fn detect(image: &ElfImage) -> Runtimes {
    RUNTIMES
        .iter()
        .filter_map(|runtime| Some((runtime.language(), runtime.detect(image)?)))
        .collect()
}
