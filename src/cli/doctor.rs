//! `sampler doctor`: what works here, what does not, and what to do about it.

use std::io::{self, Write};

use sampler_platforms::Pid;
use sampler_platforms::linux;

use super::color::Painter;
use super::exit::Exit;
use super::options::DoctorOptions;
use crate::doctor::{Check, Checkup, Module, Target, Verdict, examine};

/// The width of a check's name.
const NAME_COLUMNS: usize = 14;

/// Examines and prints.
///
/// # Errors
/// When there is no such process, or nothing can be printed.
pub fn run(
    options: &DoctorOptions,
    painter: Painter,
    out: &mut impl Write,
) -> anyhow::Result<Exit> {
    let pid = options.pid.map(Pid);
    if let Some(pid) = pid {
        linux::check_target(pid)?;
    }
    let checkup = examine(pid, &mut options.symbols.symbolizer()?);
    if options.json {
        serde_json::to_writer_pretty(&mut *out, &checkup)?;
        writeln!(out)?;
    } else {
        Listing { painter }.write(&checkup, out)?;
    }
    Ok(match checkup.works {
        true => Exit::Ok,
        false => Exit::PermissionDenied,
    })
}

/// Everything for a person to read.
#[derive(Clone, Copy, Debug)]
struct Listing {
    painter: Painter,
}

impl Listing {
    fn write(self, checkup: &Checkup, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "this machine")?;
        self.checks(&checkup.machine, out)?;
        if let Some(target) = &checkup.target {
            writeln!(out, "\nprocess {} ({})", target.pid, target.name)?;
            self.checks(&target.checks, out)?;
            self.modules(target, out)?;
        }
        writeln!(out)?;
        self.conclusion(checkup, out)
    }

    fn checks(self, checks: &[Check], out: &mut impl Write) -> io::Result<()> {
        for check in checks {
            let mark = self.mark(check.verdict);
            writeln!(
                out,
                "  {mark}  {:NAME_COLUMNS$}  {}",
                check.name, check.found
            )?;
        }
        Ok(())
    }

    fn mark(self, verdict: Verdict) -> String {
        match verdict {
            Verdict::Ok => self.painter.good("ok  "),
            Verdict::Note => self.painter.warning("note"),
            Verdict::Fails => self.painter.bad("FAIL"),
        }
    }

    fn modules(self, target: &Target, out: &mut impl Write) -> io::Result<()> {
        if target.modules.is_empty() {
            return Ok(());
        }
        writeln!(out, "\nmodules")?;
        let width = target
            .modules
            .iter()
            .map(|module| module.path.chars().count());
        let width = width.max().unwrap_or(0).min(60);
        for module in &target.modules {
            let is_good = module.all_functions && !module.unwinding.is_empty();
            let mark = self.mark(if is_good { Verdict::Ok } else { Verdict::Note });
            writeln!(
                out,
                "  {mark}  {:width$}  {}",
                module.path,
                in_words(module)
            )?;
        }
        Ok(())
    }

    fn conclusion(self, checkup: &Checkup, out: &mut impl Write) -> io::Result<()> {
        let what = match &checkup.target {
            Some(target) => format!("process {} can", target.pid),
            None => "commands can".to_owned(),
        };
        let failures: Vec<&Check> = checkup.checks_that_say(Verdict::Fails).collect();
        if failures.is_empty() {
            let how = match &checkup.target {
                Some(target) => format!("sampler record -p {} -d 10", target.pid),
                None => "sampler record -- CMD".to_owned(),
            };
            writeln!(
                out,
                "{}: {how}",
                self.painter.good(&format!("{what} be recorded"))
            )?;
        } else {
            writeln!(
                out,
                "{}",
                self.painter.bad(&format!("{what}not be recorded"))
            )?;
            if let Some(target) = &checkup.target
                && let Some(left) = target.left
            {
                writeln!(out, "but for {left}: sampler record -p {}", target.pid)?;
            }
        }
        for check in failures {
            advise(check, out)?;
        }
        for check in checkup
            .checks_that_say(Verdict::Note)
            .filter(|check| check.hint.is_some())
        {
            advise(check, out)?;
        }
        Ok(())
    }
}

/// What to do about one check.
fn advise(check: &Check, out: &mut impl Write) -> io::Result<()> {
    match &check.hint {
        Some(hint) => writeln!(out, "\n{}: {hint}", check.name)?,
        None => writeln!(out, "\n{}: nothing helps", check.name)?,
    }
    for remedy in &check.remedies {
        writeln!(out, "    {remedy}")?;
    }
    Ok(())
}

fn in_words(module: &Module) -> String {
    let names = match module.names.first() {
        Some(best) if module.all_functions => format!("names from {best}"),
        Some(best) => format!("names of exported functions alone, from {best}"),
        None => "no names".to_owned(),
    };
    let lines = if module.lines { ", with lines" } else { "" };
    let unwinding = match module.unwinding.is_empty() {
        true => "no unwind tables".to_owned(),
        false => format!("unwound by {}", module.unwinding.join(" and ")),
    };
    format!("{names}{lines}; {unwinding}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &'static str, verdict: Verdict) -> Check {
        Check {
            name,
            verdict,
            found: "as found".to_owned(),
            hint: Some("do this".to_owned()),
            remedies: vec!["type this".to_owned()],
        }
    }

    fn text(checkup: &Checkup) -> String {
        let mut out = Vec::new();
        let painter = Painter::new(false);
        Listing { painter }.write(checkup, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_for_each_check_and_what_to_do_at_the_end() {
        let mut checkup = Checkup {
            sampler_version: "1",
            works: false,
            machine: vec![check("kernel", Verdict::Ok), check("yama", Verdict::Fails)],
            target: None,
        };
        let expected = "\
this machine
  ok    kernel          as found
  FAIL  yama            as found

commands cannot be recorded

yama: do this
    type this
";
        assert_eq!(text(&checkup), expected);
        checkup.machine.pop();
        assert!(text(&checkup).ends_with("commands can be recorded: sampler record -- CMD\n"));
    }
}
