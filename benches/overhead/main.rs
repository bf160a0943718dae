//! How much slower a target runs while it is sampled: `cargo bench --bench overhead`.
//!
//! A target works throughout a round, in which nothing, a bare cycle of system calls, the sampler and its peers take
//! turns, so that whatever else the machine does hits all alike. What the bare cycle costs is the machine's price for
//! looking at a thread from outside at all. A turn is made of windows of 100 ms, and what is compared is the work done
//! in a window, per second that passed. Other users of the machine only ever take work away, in some windows much and
//! in some none: so beside the median the table has the best tenth of the windows with against the best tenth without,
//! which is what the sampling itself costs, and the work of all windows together, which shows what happens too rarely
//! for most windows to see.
//!
//! Arguments choose among scenarios and among those who take turns, by a part of their names:
//! `cargo bench --bench overhead -- redis`, `-- busy sampler`, `-- peers`, `-- "2 of 64"`.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

mod load;
mod peers;
mod table;
mod turns;
mod who;

use std::time::Duration;

use load::SCENARIOS;
use sampler_tests_support::sampler;
use table::Turns;
use who::{RATES, Who};

/// How often each takes its turn; `SAMPLER_BENCH_ROUNDS` overrides it.
const ROUNDS: usize = 5;

/// How long a target lives: gdb looks at a thousand threads for long.
const TARGET_LIVES: Duration = Duration::from_secs(900);

fn main() {
    let rounds = std::env::var("SAMPLER_BENCH_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(ROUNDS);
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let sampler = sampler!();
    let all = who::all(&sampler);
    for word in &words {
        let is_known = SCENARIOS
            .iter()
            .any(|scenario| scenario.name.contains(word))
            || all.iter().any(|who| who.is_called(word));
        assert!(is_known, "`{word}` is in no scenario's name and nobody's");
    }
    let mut scenarios = chosen(SCENARIOS.iter().collect(), &words, |scenario, word| {
        scenario.name.contains(word)
    });
    scenarios.retain(|scenario| scenario.is_there());
    let chosen = chosen(all, &words, |who, word| who.is_called(word));
    println!("{}", table::head());
    for scenario in scenarios {
        for hz in RATES {
            let takers: Vec<&Who<'_>> = chosen
                .iter()
                .filter(|who| who.looks_at(scenario, hz))
                .collect();
            take_turns(&sampler, scenario, hz, &takers, rounds);
        }
    }
    println!("{}", table::FOOT);
}

/// What is wanted by name; all, where no word names any.
fn chosen<T>(all: Vec<T>, words: &[String], is_called: impl Fn(&T, &str) -> bool) -> Vec<T> {
    let is_wanted = |one: &T| words.iter().any(|word| is_called(one, word));
    let any = all.iter().any(is_wanted);
    all.into_iter()
        .filter(|one| !any || is_wanted(one))
        .collect()
}

fn take_turns(
    sampler: &sampler_tests_support::Sampler,
    scenario: &load::Scenario,
    hz: u32,
    takers: &[&Who<'_>],
    rounds: usize,
) {
    let (can, cannot): (Vec<&Who<'_>>, Vec<&Who<'_>>) =
        takers.iter().partition(|who| who.hindrance().is_none());
    let mut without = Turns::default();
    let mut with: Vec<Turns> = can.iter().map(|_| Turns::default()).collect();
    if !can.is_empty() {
        for _ in 0..rounds {
            let mut load = scenario.start(sampler.folder());
            load.live_for(TARGET_LIVES);
            without.add(turns::turn(&mut load, || true));
            for (who, turns) in can.iter().zip(&mut with) {
                turns.add(who.take_turn(&mut load, hz));
            }
        }
    }
    for (who, turns) in can.iter().zip(&mut with) {
        println!("{}", turns.row(scenario.name, hz, who.name(), &mut without));
    }
    for who in cannot {
        let hindrance = who.hindrance().unwrap_or_default();
        println!(
            "{}",
            table::row_without_figures(scenario.name, hz, who.name(), hindrance)
        );
    }
}
