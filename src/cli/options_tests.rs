//! Command lines, and what they mean.

use clap::CommandFactory;

use super::*;
use crate::cli::args::Cli;
use crate::cli::invocation::parse;
use crate::report::{FrameFilter, Selection};

fn parse_words(words: &str) -> Result<Options, clap::Error> {
    let parsed = parse(words.split_ascii_whitespace().map(OsString::from));
    parsed.map(|invocation| invocation.options)
}

#[track_caller]
fn record(words: &str) -> RecordOptions {
    match parse_words(&format!("sampler record {words}")) {
        Ok(Options::Record(options)) => options,
        other => panic!("{words}: {other:?}"),
    }
}

#[track_caller]
fn report(words: &str) -> ReportOptions {
    match parse_words(&format!("sampler report {words}")) {
        Ok(Options::Report(options)) => options,
        other => panic!("{words}: {other:?}"),
    }
}

fn command(words: &str) -> Target {
    Target::Command(words.split(' ').map(OsString::from).collect())
}

#[test]
fn the_command_line_is_one_clap_can_work_with() {
    Cli::command().debug_assert();
}

#[test]
fn a_recording_has_defaults() {
    let options = record("-p 12");
    assert_eq!(
        options,
        RecordOptions {
            target: Target::Pids(vec![12]),
            subprocesses: false,
            rate_hz: 99.0,
            duration: None,
            output: Output::File("sampler.data".into()),
            report: None,
            rotate: None,
            keep: None,
            stack_bytes_max: 1 << 20,
            max_overhead: Some(0.02),
            pause_max: Duration::from_millis(1),
            languages: Languages::ALL,
            may_stop: true,
            serve: None,
            quiet: false,
        }
    );
}

#[test]
fn rate_has_the_names_that_perf_gives_it() {
    for words in [
        "-r 250 -p 1",
        "-r250 -p1",
        "--rate=250 -p 1",
        "-F 250 -p 1",
        "-F250 -p1",
        "--freq 250 -p 1",
    ] {
        assert_eq!(record(words).rate_hz, 250.0, "{words}");
    }
}

#[test]
fn processes_are_gathered() {
    assert_eq!(
        record("-p 1,2 --pid 3 -p 2").target,
        Target::Pids(vec![1, 2, 3])
    );
}

#[test]
fn processes_are_found_by_name_or_control_group() {
    let pattern = Pattern::new("^cc1$").expect("a regular expression");
    assert_eq!(
        record("-P ^cc1$ -d 1").target,
        Target::Pgrep(pattern.clone())
    );
    assert_eq!(record("--pgrep ^cc1$").target, Target::Pgrep(pattern));
    assert_eq!(
        record("--cgroup /a/b").target,
        Target::Cgroup("/a/b".into())
    );
    for both in [
        "-p 1 -P x",
        "-P x make",
        "--cgroup /x make",
        "--cgroup /x -p 1",
        "-P x --cgroup /x",
        "-P (",
    ] {
        let error = parse_words(&format!("sampler record {both}")).expect_err(both);
        assert_eq!(error.exit_code(), 2, "{both}");
    }
}

#[test]
fn children_of_a_command_are_recorded_and_those_of_others_on_demand() {
    for (words, subprocesses) in [
        ("make", true),
        ("--no-subprocesses make", false),
        ("-s make", true),
        ("-s --no-subprocesses make", false),
        ("--no-subprocesses -s make", true),
        ("-p 1", false),
        ("-s -p 1", true),
        ("-P x", false),
        ("-P x --subprocesses", true),
        ("--cgroup /x", false),
        ("--cgroup /x -s", true),
    ] {
        assert_eq!(record(words).subprocesses, subprocesses, "{words}");
    }
}

#[test]
fn options_end_at_the_command() {
    assert_eq!(record("ls -l -p 3").target, command("ls -l -p 3"));
    assert_eq!(record("-r 5 ls --rate 7").target, command("ls --rate 7"));
    assert_eq!(record("-- ls -d").target, command("ls -d"));
    assert_eq!(record("ls -- -d").target, command("ls -- -d"));
    assert_eq!(record("-d 2 -- -odd-name").target, command("-odd-name"));
    assert_eq!(record("-o - -q true").output, Output::Stdout);
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    for words in [
        "",
        "record",
        "record -p",
        "record -p 0",
        "record -p -5",
        "record -p 1,,2",
        "record -p nginx",
        "record -p 1 ls",
        "record -r 0 ls",
        "record -r -1 ls",
        "record -r nan ls",
        "record -r 20000 ls",
        "record -d 0 ls",
        "record -d -3 ls",
        "record -d 99999999999999999999h ls",
        "record --stack-size 1 ls",
        "record --unknown ls",
        "report a b",
        "report a -i b",
        "report -o x.pdf",
        "report -o x",
        "report -f svg",
        "report --weight time",
        "report --limit -1",
        "report --limit 5 -f json",
        "report --threshold 200",
        "dump",
        "dump -p 0",
        "dump -p 1,2",
        "demo -d 0",
        "frobnicate",
    ] {
        let error = parse_words(&format!("sampler {words}")).expect_err(words);
        assert_eq!(error.exit_code(), 2, "{words}");
        assert!(error.use_stderr(), "{words}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for words in ["--help", "-h", "--version", "record --help", "help report"] {
        let error = parse_words(&format!("sampler {words}")).expect_err(words);
        assert_eq!(error.exit_code(), 0, "{words}");
    }
}

#[test]
fn a_wrong_value_is_named_with_what_is_right() {
    let error = parse_words("sampler record -d 5d ls").expect_err("a day");
    insta::assert_snapshot!("unknown_unit", error.to_string());
    let error = parse_words("sampler report -o out.pdf").expect_err("a pdf");
    insta::assert_snapshot!("unknown_extension", error.to_string());
    let error = parse_words("sampler record").expect_err("no target");
    insta::assert_snapshot!("no_target", error.to_string());
}

#[test]
fn a_report_has_defaults() {
    assert_eq!(
        report(""),
        ReportOptions {
            input: Input::File("sampler.data".into()),
            format: Format::Table { limit: Some(40) },
            output: Output::Stdout,
            weight: Weight::Cpu,
            threads: false,
            by: By::Function,
            layout: Layout::default(),
            selection: SelectionOptions {
                window: None,
                selection: Selection {
                    thread: None,
                    pids: Vec::new(),
                    function: None,
                    module: None,
                    states: None,
                    focus: None,
                    collapse_recursion: false,
                    frames: FrameFilter {
                        languages: Languages::ALL,
                        native: true,
                        only_lock_holders: false,
                    },
                },
            },
            symbols: SymbolOptions {
                debug_dirs: Vec::new(),
                inline: true,
                pack: None,
                debuginfod: None,
                cache: true,
            },
            pager: true,
            quiet: false,
        }
    );
    assert_eq!(report("-").input, Input::Stdin);
    assert_eq!(report("-i a").input, report("a").input);
}

#[test]
fn the_format_is_told_by_the_extension_unless_it_is_given() {
    assert_eq!(report("-o a.svg").format, Format::Flamegraph);
    assert_eq!(report("-o a.SVG").format, Format::Flamegraph);
    assert_eq!(report("-o a.folded").format, Format::Folded);
    assert_eq!(report("-o a.json").format, Format::Json);
    assert_eq!(
        report("-o a.txt --limit 0").format,
        Format::Table { limit: None }
    );
    assert_eq!(report("-o a.svg -f json").format, Format::Json);
    assert_eq!(report("-o -").format, Format::Table { limit: Some(40) });
    assert_eq!(
        report("-f tree").format,
        Format::Tree {
            limit: None,
            threshold_percent: 0.5
        }
    );
}

#[test]
fn weights_have_their_names() {
    for (word, weight) in [
        ("cpu", Weight::Cpu),
        ("wall", Weight::Wall),
        ("off-cpu", Weight::OffCpu),
        ("runqueue", Weight::RunQueue),
        ("run-queue", Weight::RunQueue),
        ("samples", Weight::Samples),
    ] {
        assert_eq!(report(&format!("--weight {word}")).weight, weight);
    }
}

#[test]
fn dump_has_a_second_name() {
    for name in ["dump", "stack"] {
        let options = parse_words(&format!("sampler {name} -p 7 --json --no-inline"));
        let Ok(Options::Dump(options)) = options else {
            panic!("{options:?}");
        };
        assert!(options.pid == 7 && options.json && !options.symbols.inline);
    }
}

#[test]
fn names_may_come_from_elsewhere() {
    let symbols = |line: &str| report(line).symbols;
    assert_eq!(symbols("--debuginfod").debuginfod, Some(Vec::new()));
    assert_eq!(
        symbols("--debuginfod=http://a").debuginfod,
        Some(vec!["http://a".to_owned()])
    );
    // What follows is the recording.
    let both = report("--debuginfod a");
    assert_eq!(both.input, Input::File("a".into()));
    assert_eq!(symbols("--symbols p").pack, Some("p".into()));
    assert!(!symbols("--no-symbol-cache").cache);
}

#[test]
fn symbols_lists_or_packs() {
    let parse = |line: &str| {
        let words = line.split_whitespace().map(OsString::from);
        let words = ["sampler".into(), "symbols".into()]
            .into_iter()
            .chain(words);
        parse(words).map(|invocation| invocation.options)
    };
    assert!(matches!(
        parse("x.data --json"),
        Ok(Options::Symbols(SymbolsOptions { json: true, .. }))
    ));
    match parse("pack x.data -o p") {
        Ok(Options::Pack(options)) => {
            assert_eq!(options.input, Input::File("x.data".into()));
            assert_eq!(options.output, PathBuf::from("p"));
        }
        other => panic!("{other:?}"),
    }
    assert!(parse("pack x.data").is_err());
}

#[track_caller]
fn export(words: &str) -> ExportOptions {
    match parse_words(&format!("sampler export {words}")) {
        Ok(Options::Export(options)) => options,
        other => panic!("{words}: {other:?}"),
    }
}

#[test]
fn the_format_of_an_export_is_told_by_the_files_name() {
    use super::super::export_args::ExportFormat;
    for (name, format, compress) in [
        ("a.pb.gz", ExportFormat::Pprof, false),
        ("A.PB.GZ", ExportFormat::Pprof, false),
        ("a.speedscope.json", ExportFormat::Speedscope, false),
        ("a.firefox.json.gz", ExportFormat::Firefox, true),
        ("a.trace.json", ExportFormat::Chrome, false),
        ("a.perf", ExportFormat::PerfScript, false),
        ("callgrind.out.7", ExportFormat::Callgrind, false),
        ("a.folded.gz", ExportFormat::Folded, true),
        ("a.jsonl", ExportFormat::Jsonl, false),
    ] {
        let options = export(&format!("-o {name}"));
        let compressed = name.ends_with(".gz") && compress;
        assert_eq!(
            (options.format, options.compress),
            (format, compressed),
            "{name}"
        );
    }
    assert_eq!(export("-f perf").format, ExportFormat::PerfScript);
    assert_eq!(export("-f trace -o x.json").format, ExportFormat::Chrome);
    assert!(parse_words("sampler export -o x.json").is_err());
}

#[test]
fn filters_are_the_same_everywhere() {
    let words = "--thread ^w --pid 1,2 --time 1s..2s --function f --module m --state sleeping --callers-of f \
                 --collapse-recursion --gil --lang lua --no-native --by file";
    let report = report(words);
    let export = export(&format!("-f folded {words}"));
    let diff = match parse_words(&format!("sampler diff a b {words}")) {
        Ok(Options::Diff(options)) => options,
        other => panic!("{other:?}"),
    };
    assert_eq!(report.selection, export.selection);
    assert_eq!(report.selection, diff.selection);
    assert_eq!(report.layout, export.layout);
    assert_eq!(report.layout, diff.layout);
    assert!(report.layout.inverted, "callers stand below");
    assert_eq!(report.selection.window, Some(1_000_000_000..2_000_000_000));
    assert_eq!(report.selection.selection.pids, [1, 2]);
    // A state is a part of the wall-clock time.
    assert_eq!(
        [report.weight, export.weight, diff.weight],
        [Weight::Wall; 3]
    );
    assert!(parse_words("sampler report --callers-of a --callees-of b").is_err());
    assert!(parse_words("sampler report --inverted").is_err());
    assert!(parse_words("sampler report --inverted -f tree").is_ok());
}

#[test]
fn a_report_can_be_made_at_once() {
    let formats = |words: &str| {
        let options = record(words);
        (options.report.map(|report| report.format), options.output)
    };
    let svg = (Some(Format::Flamegraph), Output::File("x.svg".into()));
    assert_eq!(formats("-p 1 -o x.svg"), svg);
    assert_eq!(formats("-p 1 --format flamegraph -o x.svg"), svg);
    assert_eq!(
        formats("-p 1 -f folded"),
        (Some(Format::Folded), Output::File("sampler.folded".into()))
    );
    assert_eq!(
        formats("-p 1 -o x.data"),
        (None, Output::File("x.data".into()))
    );
    let table = formats("-p 1 -f table");
    assert!(
        matches!(table, (Some(Format::Table { .. }), Output::Stdout)),
        "{table:?}"
    );
    let weight = |words: &str| record(words).report.map(|report| report.weight);
    assert_eq!(weight("-p 1 -o x.svg -w off-cpu"), Some(Weight::OffCpu));
    assert_eq!(weight("-p 1 -o x.svg --idle"), Some(Weight::Wall));
    assert_eq!(
        formats("-p 1 -f html"),
        (Some(Format::Html), Output::File("sampler.html".into()))
    );
    // A recording that is kept holds all of it.
    for wrong in ["-w wall", "--threads", "--gil", "--idle", "-o x.data -t"] {
        let words = format!("sampler record -p 1 {wrong}");
        assert!(parse_words(&words).is_err(), "{wrong}");
    }
}

#[test]
fn files_one_after_the_other_have_the_time_in_their_names() {
    let options = record("-p 1 --rotate 60s --keep 3");
    assert_eq!(options.output, Output::File("sampler-%t.data".into()));
    assert_eq!(
        (options.rotate, options.keep),
        (Some(Duration::from_secs(60)), Some(3))
    );
    let same = record("-p 1 --switch-output=60s --switch-max-files=3");
    assert_eq!(same, options);
    for wrong in [
        "--keep 3",
        "--rotate 60 -o -",
        "--rotate 10ms",
        "--rotate 60 --keep 0",
        "-o %q",
    ] {
        assert!(
            parse_words(&format!("sampler record -p 1 {wrong}")).is_err(),
            "{wrong}"
        );
    }
}

#[test]
fn names_of_other_profilers_are_understood() {
    for words in ["-g", "--call-graph dwarf", "-n", "--native"] {
        assert_eq!(record(&format!("-p 1 {words}")), record("-p 1"), "{words}");
    }
    assert_eq!(record("-G x -d 1"), record("--cgroup x -d 1"));
    assert_eq!(record("--no-inherit ls"), record("--no-subprocesses ls"));
    assert_eq!(
        report("-f tree --percent-limit 3"),
        report("-f tree --threshold 3")
    );
}

#[test]
fn what_all_commands_have_is_taken_anywhere() {
    let common = |words: &str| {
        let words = words.split_ascii_whitespace().map(OsString::from);
        parse(words).map(|invocation| invocation.common).unwrap()
    };
    let expected = common("sampler --color never -q -vv --no-config report");
    assert_eq!(
        common("sampler report --no-config -v --color=never -v -q"),
        expected
    );
    assert_eq!(
        (expected.verbose, expected.quiet, expected.no_config),
        (2, true, true)
    );
    assert!(record("-p 1 -q").quiet);
}
