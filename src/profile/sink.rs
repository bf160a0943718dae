//! What the recorder feeds.

use sampler_unwind::BuildId;
use sampler_unwind::interpreter::Function;
use serde::{Deserialize, Serialize};

use super::jit::JitCode;
use super::sample::Observation;
use super::stacks::{End, FrameKey, FunctionId, ModuleId, ProcessId, StackId, ThreadId, WaitId};
use super::summary::Summary;

/// Takes what is recorded, as it happens: a recording on disk, a live view.
///
/// Ids are handed out by the sink, which may intern. A [`StackId`] holds until the next [`SampleSink::flush`] that
/// returns `true`.
pub trait SampleSink {
    /// Why the sink can take no more.
    type Error;

    /// A process that will be sampled; or, with a number that was given before, what it has become.
    ///
    /// # Errors
    /// As every call here: when what was given could not be kept.
    fn process(&mut self, process: &ProcessInfo) -> Result<ProcessId, Self::Error>;

    /// A thread that was found.
    ///
    /// # Errors
    /// As above.
    fn thread(&mut self, thread: &ThreadInfo) -> Result<ThreadId, Self::Error>;

    /// A file with code; asked once per file.
    ///
    /// # Errors
    /// As above.
    fn module(&mut self, module: &ModuleInfo) -> Result<ModuleId, Self::Error>;

    /// A function of interpreted code; asked once per function.
    ///
    /// # Errors
    /// As above.
    fn function(&mut self, function: &Function) -> Result<FunctionId, Self::Error>;

    /// What a sleeper waits for; asked once for each.
    ///
    /// # Errors
    /// As above.
    fn wait(&mut self, wait: &WaitInfo) -> Result<WaitId, Self::Error>;

    /// Where a module lies in a process.
    ///
    /// # Errors
    /// As above.
    fn mapping(
        &mut self,
        process: ProcessId,
        module: ModuleId,
        start: u64,
        end: u64,
        bias: u64,
    ) -> Result<(), Self::Error>;

    /// Code that a process compiled while it ran. What is told before a flush names what was observed before it too.
    ///
    /// # Errors
    /// As above.
    fn jit_code(&mut self, code: &JitCode) -> Result<(), Self::Error>;

    /// A stack, outermost frame first.
    ///
    /// # Errors
    /// As above.
    fn stack(&mut self, outermost_first: &[FrameKey], end: End) -> Result<StackId, Self::Error>;

    /// One look at a thread.
    ///
    /// # Errors
    /// As above.
    fn observation(&mut self, observation: &Observation) -> Result<(), Self::Error>;

    /// Makes what was given so far safe, together with what it has cost until now. `true` when stack ids given so
    /// far are void.
    ///
    /// # Errors
    /// As above.
    fn flush(&mut self, summary: &Summary) -> Result<bool, Self::Error>;
}

/// A sink was given an id that it has not handed out, or no longer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownId {
    /// A process.
    #[error("no process has id {}", .0.0)]
    Process(ProcessId),
    /// A thread.
    #[error("no thread has id {}", .0.0)]
    Thread(ThreadId),
    /// A module.
    #[error("no module has id {}", .0.0)]
    Module(ModuleId),
    /// A function.
    #[error("no function has id {}", .0.0)]
    Function(FunctionId),
    /// A wait.
    #[error("no wait has id {}", .0.0)]
    Wait(WaitId),
    /// A stack.
    #[error("no stack has id {}", .0.0)]
    Stack(StackId),
}

/// What is known of a process when it is first sampled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Its number.
    pub pid: i32,
    /// Where it comes from, if that is known.
    pub birth: Option<Birth>,
    /// Its command line, arguments joined by spaces; its `comm` when it has none.
    pub command_line: String,
    /// The path of its executable.
    pub executable: String,
}

/// Where a process comes from. Two of one number are the same process if they were started at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// Its parent when it was first seen.
    pub parent: i32,
    /// When it was started, in clock ticks since boot (/proc/PID/stat, field 22).
    pub started_ticks: u64,
}

/// What is known of a thread when it is first seen, or when its name has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadInfo {
    /// Its process.
    pub process: ProcessId,
    /// Its number.
    pub tid: i32,
    /// Its name: the kernel's (`comm`), or that which a runtime has for it.
    pub name: String,
}

/// What a sleeping thread waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WaitInfo {
    /// The number of the system call that it sleeps in.
    pub syscall: u32,
    /// For what, in words: `file /var/lib/x`, `tcp 10.0.0.5:5432`, `pipe → pid 77 (gzip)`.
    pub what: String,
}

/// A file with code, or an image in memory such as the vDSO.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleInfo {
    /// The path as the process sees it, without ` (deleted)`; `[vdso]`.
    pub path: String,
    /// Its GNU build ID.
    #[serde(with = "build_id")]
    pub build_id: Option<BuildId>,
    /// The image itself where no file holds it (the vDSO); an ELF file with its function symbols where its path did not
    /// lead to it: it was deleted, replaced, or is in another mount namespace.
    pub image: Option<Vec<u8>>,
}

/// A build ID as its bytes.
mod build_id {
    use sampler_unwind::BuildId;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        build_id: &Option<BuildId>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        build_id
            .as_ref()
            .map(|build_id| &build_id.0)
            .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<BuildId>, D::Error> {
        Ok(Option::<Vec<u8>>::deserialize(deserializer)?.map(BuildId))
    }
}
