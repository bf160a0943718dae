//! `sampler demo`: the first thing anybody runs.

use std::fs;

use sampler_tests_support::sampler;

/// The percentages in a line: `59.8 %`.
fn percentages(line: &str) -> Vec<f64> {
    line.split('%')
        .filter_map(|part| part.split_whitespace().last()?.parse().ok())
        .collect()
}

#[test]
fn it_shows_the_truth_beside_what_it_found() {
    let sampler = sampler!();
    let done = sampler.run(&["demo"]);
    done.expect_code(0);
    let text = done.text();
    for function in ["sixty_percent", "thirty_percent", "ten_percent"] {
        // In a line of its own, the truth and what was found; the table's lines begin with numbers.
        let line = text
            .lines()
            .find(|line| line.starts_with(function))
            .unwrap_or_else(|| panic!("no comparison for {function}:\n{text}"));
        let [truth, sampled] = percentages(line)[..] else {
            panic!("not two shares: {line}");
        };
        let close = (truth - sampled).abs() <= 3.0;
        assert!(
            close,
            "{function} is not shown within 3 points of the truth:\n{text}"
        );
    }
    for sleeper in ["lock", "pipe"] {
        assert!(
            text.contains(sleeper),
            "the {sleeper} sleeper is missing:\n{text}"
        );
    }
    let svg = fs::read_to_string(sampler.path("demo.svg")).expect("demo.svg is written");
    assert!(svg.contains("<svg") && svg.trim_end().ends_with("</svg>"));
    assert!(svg.contains("sixty_percent"));
}
