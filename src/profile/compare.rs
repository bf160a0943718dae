//! Two profiles beside each other: what takes a larger share of the whole, what a smaller one, and whether that is more
//! than chance.

use std::cmp::Ordering;

use rustc_hash::FxHashMap;

use super::call_tree::functions;
use super::resolved::{ResolvedProfile, Weight};

/// What changed between two profiles.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The largest change first.
    pub rows: Vec<Change>,
    /// What there was before.
    pub before: Whole,
    /// What there is after.
    pub after: Whole,
}

/// All of one profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Whole {
    /// The weight of all stacks.
    pub total: u64,
    /// How many samples that was seen in.
    pub samples: u64,
}

/// One function in both.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What it is called.
    pub function: String,
    /// The module it is in.
    pub module: Option<String>,
    /// Its own share.
    pub own: Shares,
    /// Its share together with what it calls.
    pub total: Shares,
}

/// Shares of the whole, before and after, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares {
    /// Before.
    pub before: f64,
    /// After.
    pub after: f64,
    /// How sure it is that they differ.
    pub significance: Significance,
}

/// How seldom shares would differ as much by chance if they were the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Significance {
    /// More often than once in 20 times.
    None,
    /// Once in 20.
    OneIn20,
    /// Once in 100.
    OneIn100,
    /// Once in 1000.
    OneIn1000,
}

impl Significance {
    /// The mark of it in a table.
    pub fn mark(self) -> &'static str {
        match self {
            Self::None => "",
            Self::OneIn20 => "*",
            Self::OneIn100 => "**",
            Self::OneIn1000 => "***",
        }
    }
}

impl Shares {
    fn new(parts: [u64; 2], wholes: [Whole; 2]) -> Self {
        let [before, after] = wholes;
        let share = |part: u64, whole: Whole| ratio(part, whole.total);
        let (p, q) = (share(parts[0], before), share(parts[1], after));
        Self {
            before: p,
            after: q,
            significance: significance((p, before.samples), (q, after.samples)),
        }
    }

    /// How much it has grown, from -1 to 1.
    pub fn growth(&self) -> f64 {
        self.after - self.before
    }
}

/// `part` over `whole`; 0 of nothing.
#[expect(
    clippy::cast_precision_loss,
    reason = "shares are compared to a few digits"
)]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// The test of two proportions with a pooled variance: each of `n` samples shows the function with the probability that
/// is its share, so that the difference of two shares is nearly normal.
fn significance((p, p_samples): (f64, u64), (q, q_samples): (f64, u64)) -> Significance {
    let (n, m) = (ratio(p_samples, 1), ratio(q_samples, 1));
    if n == 0.0 || m == 0.0 {
        return Significance::None;
    }
    let pooled = (p * n + q * m) / (n + m);
    let deviation = (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt();
    let score = ((q - p) / deviation).abs();
    // Quantiles of the normal distribution, both tails. Without any deviation there is no difference either: NaN.
    match score {
        3.291.. => Significance::OneIn1000,
        2.576.. => Significance::OneIn100,
        1.96.. => Significance::OneIn20,
        _ => Significance::None,
    }
}

/// What a function weighs by itself, and with what it calls.
type OwnAndTotal = (u64, u64);

/// Compares two profiles by `weight`.
pub fn compare(before: &ResolvedProfile, after: &ResolvedProfile, weight: Weight) -> Comparison {
    let mut parts: FxHashMap<_, [OwnAndTotal; 2]> = FxHashMap::default();
    let profiles = [before, after];
    for (side, profile) in profiles.into_iter().enumerate() {
        for row in functions(profile, weight).rows {
            let key = (row.frame.function.as_str(), row.frame.module.as_deref());
            parts.entry(key).or_default()[side] = (row.self_weight, row.total);
        }
    }
    let wholes = profiles.map(|profile| whole(profile, weight));
    let mut rows: Vec<Change> = parts
        .into_iter()
        .map(|((function, module), sides)| Change {
            function: function.to_owned(),
            module: module.map(str::to_owned),
            own: Shares::new(sides.map(|(own, _)| own), wholes),
            total: Shares::new(sides.map(|(_, total)| total), wholes),
        })
        .collect();
    rows.sort_by(|a, b| {
        let by = |one: &Shares, other: &Shares| {
            let (one, other) = (one.growth().abs(), other.growth().abs());
            other.partial_cmp(&one).unwrap_or(Ordering::Equal)
        };
        by(&a.own, &b.own)
            .then_with(|| by(&a.total, &b.total))
            .then_with(|| (&a.function, &a.module).cmp(&(&b.function, &b.module)))
    });
    let [before, after] = wholes;
    Comparison {
        rows,
        before,
        after,
    }
}

/// What weighs, and how many samples that was seen in.
fn whole(profile: &ResolvedProfile, weight: Weight) -> Whole {
    let mut whole = Whole::default();
    for stack in &profile.stacks {
        let value = stack.weights.get(weight);
        if value > 0 {
            whole.total = whole.total.saturating_add(value);
            whole.samples = whole.samples.saturating_add(stack.weights.samples);
        }
    }
    whole
}

impl Comparison {
    /// What has grown by more than `points` of a hundred, and not by chance: once in a hundred times or less.
    pub fn grown_above(&self, points: f64) -> impl Iterator<Item = &Change> {
        let has_grown = move |shares: &Shares| {
            shares.growth() * 100.0 > points && shares.significance >= Significance::OneIn100
        };
        let rows = self.rows.iter();
        rows.filter(move |row| has_grown(&row.own) || has_grown(&row.total))
    }
}

#[cfg(test)]
mod tests {
    use super::super::resolved::{FrameKind, ResolvedFrame, StackWeights, WeightedStack};
    use super::super::stacks::End;
    use super::*;

    /// `main` calls `walk`, which calls `burn`, and `rest`; 60 and 40 samples.
    fn profile() -> ResolvedProfile {
        let frame = |function: &str| ResolvedFrame {
            function: function.into(),
            module: Some("app".into()),
            file: None,
            line: None,
            line_precision: None,
            inlined: false,
            kind: FrameKind::Native,
            language: None,
        };
        let stack = |frames: &[u32], cpu_ns, samples| WeightedStack {
            recorded: crate::profile::StackId(0),
            frames: frames.to_vec(),
            thread: 0,
            end: End::Complete,
            holds_lock: false,
            weights: StackWeights {
                cpu_ns,
                samples,
                ..StackWeights::default()
            },
        };
        ResolvedProfile {
            frames: ["main", "walk", "burn", "rest"].map(frame).into(),
            stacks: vec![
                stack(&[0, 1, 2], 600, 60),
                stack(&[0, 3], 400, 40),
                stack(&[0], 0, 9),
            ],
            ..ResolvedProfile::default()
        }
    }

    #[test]
    fn shares_are_compared_and_the_largest_change_comes_first() {
        let before = profile();
        let mut after = profile();
        for stack in &mut after.stacks {
            stack.weights.cpu_ns *= 10; // ten times as long, which is no change
            stack.weights.samples *= 10;
        }
        let same = compare(&before, &after, Weight::Cpu);
        assert!(same.rows.iter().all(|row| row.own.growth().abs() < 1e-9));
        assert!(
            same.rows
                .iter()
                .all(|row| row.own.significance == Significance::None)
        );
        assert_eq!((same.before.total, same.before.samples), (1000, 100));
        assert_eq!((same.after.total, same.after.samples), (10_000, 1000));

        after.stacks[0].weights.cpu_ns = 1000; // burn: from 60 to 20 %
        after.stacks[0].weights.samples = 100;
        let changed = compare(&before, &after, Weight::Cpu);
        let names: Vec<_> = changed
            .rows
            .iter()
            .map(|row| row.function.as_str())
            .collect();
        assert_eq!(
            &names[2..],
            ["walk", "main"],
            "they have nothing of their own"
        );
        let burn = changed.rows.iter().find(|row| row.function == "burn");
        let burn = burn.expect("it is there").own;
        assert!((burn.before - 0.6).abs() < 1e-9 && (burn.after - 0.2).abs() < 1e-9);
        assert_eq!(burn.significance, Significance::OneIn1000);
        let grown: Vec<_> = changed
            .grown_above(5.0)
            .map(|row| row.function.as_str())
            .collect();
        assert_eq!(grown, ["rest"]);
        assert_eq!(changed.grown_above(50.0).count(), 0);
        let other_way = compare(&after, &before, Weight::Cpu);
        let grown: Vec<_> = other_way
            .grown_above(5.0)
            .map(|row| row.function.as_str())
            .collect();
        assert_eq!(grown, ["burn", "walk"], "who calls it as well");
    }

    #[test]
    fn significance_grows_with_the_number_of_samples() {
        let of = |samples| significance((0.5, samples), (0.6, samples));
        assert_eq!(of(0), Significance::None);
        assert_eq!(of(100), Significance::None); // z = 1.42
        assert_eq!(of(200), Significance::OneIn20); // z = 2.01
        assert_eq!(of(400), Significance::OneIn100); // z = 2.84
        assert_eq!(of(1000), Significance::OneIn1000); // z = 4.49
        assert_eq!(significance((0.0, 10), (0.0, 10)), Significance::None);
        assert_eq!(significance((1.0, 10), (1.0, 10)), Significance::None);
        assert_eq!(
            significance((0.0, 100), (1.0, 100)),
            Significance::OneIn1000
        );
    }
}
