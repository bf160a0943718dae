//! A program that runs one instruction at a time.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use libc::user_regs_struct;
use nix::errno::Errno;
use nix::sys::personality::{self, Persona};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use sampler_unwind::{Arch, Registers};

/// The first argument with which this program starts itself, to become the target.
pub(crate) const BECOME_TARGET: &str = "--become-target";

/// A traced program, which is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Target {
    pid: Pid,
    has_ended: bool,
}

/// Why the target stands still, or does not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// An instruction was executed, or a handler was started.
    Stepped,
    /// A signal will be delivered.
    Signal(Signal),
    /// Another program was executed.
    Executed,
    /// It has ended.
    Ended,
}

impl Target {
    /// Starts `command`, which then stands before its first instruction. What it prints is thrown away.
    ///
    /// Its addresses are not randomized, so that they can be compared from run to run.
    ///
    /// # Errors
    /// When it cannot be executed or traced.
    pub(crate) fn start(command: &[OsString]) -> anyhow::Result<Self> {
        let name = command.first().context("no command")?;
        let child = Command::new(env::current_exe()?)
            .arg(BECOME_TARGET)
            .args(command)
            .stdout(Stdio::null())
            .spawn()?;
        let target = Self {
            pid: Pid::from_raw(child.id().cast_signed()),
            has_ended: false,
        };
        match waitpid(target.pid, None)? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
            _ => bail!("cannot execute {}", name.display()),
        }
        let options = Options::PTRACE_O_EXITKILL | Options::PTRACE_O_TRACEEXEC;
        ptrace::setoptions(target.pid, options)?;
        Ok(target)
    }

    /// Its number.
    pub(crate) fn pid(&self) -> sampler_platforms::Pid {
        sampler_platforms::Pid(self.pid.as_raw())
    }

    /// Its registers.
    ///
    /// # Errors
    /// When it was killed.
    pub(crate) fn registers(&self) -> Result<user_regs_struct, Errno> {
        ptrace::getregs(self.pid)
    }

    /// Lets it run, unwatched, up to the entry point of the program itself: past the dynamic loader.
    ///
    /// # Errors
    /// When it ends before that, or cannot be traced.
    pub(crate) fn run_to_entry(&mut self) -> anyhow::Result<()> {
        const BREAKPOINT: u64 = 0xcc; // int3
        let entry = self.entry()?;
        if ptrace::getregs(self.pid)?.rip == entry {
            return Ok(());
        }
        let address = std::ptr::without_provenance_mut(usize::try_from(entry)?);
        let code = ptrace::read(self.pid, address)?;
        let with_breakpoint = code.cast_unsigned() & !0xff | BREAKPOINT;
        ptrace::write(self.pid, address, with_breakpoint.cast_signed())?;
        ptrace::cont(self.pid, None)?;
        match waitpid(self.pid, Some(WaitPidFlag::__WALL))? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
            status => bail!("the program did not come to its entry point: {status:?}"),
        }
        ptrace::write(self.pid, address, code)?;
        let mut registers = ptrace::getregs(self.pid)?;
        registers.rip = entry;
        ptrace::setregs(self.pid, registers)?;
        Ok(())
    }

    /// `AT_ENTRY` of getauxval(3).
    fn entry(&self) -> anyhow::Result<u64> {
        const AT_ENTRY: u64 = 9;
        let vector = std::fs::read(format!("/proc/{}/auxv", self.pid))?;
        let words: Vec<u64> = vector
            .chunks_exact(8)
            .filter_map(|word| Some(u64::from_le_bytes(*word.first_chunk()?)))
            .collect();
        words
            .chunks_exact(2)
            .find_map(|pair| (pair[0] == AT_ENTRY).then_some(pair[1]))
            .context("the kernel does not tell the program's entry point")
    }

    /// Executes one instruction, or delivers `signal`.
    ///
    /// # Errors
    /// When it cannot be waited for: a real-time signal is not understood.
    pub(crate) fn step(&mut self, signal: Option<Signal>) -> Result<Stop, Errno> {
        match ptrace::step(self.pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno),
        }
        let status = loop {
            match waitpid(self.pid, Some(WaitPidFlag::__WALL)) {
                Err(Errno::EINTR) => {}
                answer => break answer?,
            }
        };
        let stop = match status {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => Stop::Ended,
            WaitStatus::Stopped(_, Signal::SIGTRAP) => Stop::Stepped,
            WaitStatus::Stopped(_, signal) => Stop::Signal(signal),
            WaitStatus::PtraceEvent(..) => Stop::Executed,
            _ => Stop::Stepped,
        };
        self.has_ended = stop == Stop::Ended;
        Ok(stop)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.has_ended {
            // ESRCH and ECHILD leave nothing to end.
            let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
            while let Ok(status) = waitpid(self.pid, Some(WaitPidFlag::__WALL)) {
                if matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {
                    break;
                }
            }
        }
    }
}

/// Becomes the target: lets the parent trace this process, and executes `command`. Returns only when that failed.
pub(crate) fn become_target(command: &[OsString]) -> anyhow::Error {
    let Some((program, arguments)) = command.split_first() else {
        return anyhow::anyhow!("no command");
    };
    let prepared = personality::get()
        .and_then(|persona| personality::set(persona | Persona::ADDR_NO_RANDOMIZE))
        .map(drop)
        // Some containers forbid it; then the addresses differ from run to run.
        .or_else(|errno| match errno {
            Errno::EPERM => Ok(()),
            errno => Err(errno),
        })
        .and_then(|()| ptrace::traceme());
    if let Err(errno) = prepared {
        return errno.into();
    }
    Command::new(program).args(arguments).exec().into()
}

/// By DWARF number: System V ABI AMD64 supplement, figure 3.36.
pub(crate) fn dwarf_registers(raw: &user_regs_struct) -> Registers {
    let mut registers = Registers::unknown(&Arch::X86_64);
    let values = [
        raw.rax, raw.rdx, raw.rcx, raw.rbx, raw.rsi, raw.rdi, raw.rbp, raw.rsp, raw.r8, raw.r9,
        raw.r10, raw.r11, raw.r12, raw.r13, raw.r14, raw.r15, raw.rip,
    ];
    for (register, value) in (0u16..).zip(values) {
        registers.set(register, value);
    }
    registers
}
