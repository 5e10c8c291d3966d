//! Evicting by worth on recorded uses of the reference pack's modules (tests/fixtures/uses), against evicting what was
//! used longest ago. No time is measured: the costs are those of the recording.

use std::fs;
use std::path::Path;

use super::replay::{Item, Order, Outcome, Recorded, Recording, hindsight, replay};

fn recordings() -> Result<Vec<(String, Recording)>, Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/uses");
    ["camera", "questions", "night"]
        .into_iter()
        .map(|name| {
            let text = fs::read_to_string(folder.join(format!("{name}.txt")))?;
            Ok((name.to_owned(), Recording::parse(&text)?))
        })
        .collect()
}

/// Bytes that count.
type Size = fn(&Recorded) -> u64;

#[test]
fn worth_reloads_no_longer_than_least_recently_used() -> Result<(), Box<dyn std::error::Error>> {
    let sizes: [(&str, Size); 2] = [
        ("anonymous", |m| m.anon_bytes),
        ("all", |m| m.anon_bytes + m.mapped_bytes),
    ];
    let (mut by_worth, mut by_use) = (Outcome::default(), Outcome::default());
    for (name, recording) in recordings()? {
        assert!(recording.uses.len() > 50, "{name} is hardly a day's work");
        let (mut worth, mut lru, mut best) = (0.0, 0.0, 0.0);
        for (kind, bytes) in sizes {
            let items: Vec<Item> = recording
                .modules
                .iter()
                .map(|m| Item {
                    name: m.name.clone(),
                    bytes: bytes(m),
                    load_ms: m.load_ms,
                })
                .collect();
            let all: u64 = items.iter().map(|item| item.bytes).sum();
            for percent in (40..=100).step_by(5) {
                let run = |order| replay(&items, &recording.uses, all * percent / 100, order);
                let [a, b] = [Order::Worth, Order::LeastRecentlyUsed].map(run);
                println!("{name}, {kind}, {percent} %: {a:?} against {b:?}");
                let least = hindsight(&items, &recording.uses, all * percent / 100)?;
                for outcome in [a, b] {
                    let done = (outcome.refused, outcome.reload_ms + 1e-6);
                    assert!(least <= done, "{least:?} is no bound of {outcome:?}");
                }
                best += least.1;
                if percent == 100 {
                    // Everything fits: nothing is evicted, nothing refused.
                    for outcome in [a, b] {
                        assert_eq!(outcome.served, recording.uses.len() as u64);
                        assert_eq!((outcome.reloads, outcome.refused), (0, 0));
                    }
                }
                worth += a.reload_ms;
                lru += b.reload_ms;
                for (sum, one) in [(&mut by_worth, a), (&mut by_use, b)] {
                    sum.served += one.served;
                    sum.reloads += one.reloads;
                    sum.reload_ms += one.reload_ms;
                }
            }
        }
        println!(
            "{name}: {worth:.0} ms by worth, {lru:.0} ms by last use, {best:.0} ms in hindsight"
        );
        assert!(
            worth <= lru,
            "{name}: {worth} ms of reloading, {lru} by last use"
        );
    }
    // Else the budgets are too wide, or the mixes too narrow, to tell anything.
    assert!(by_use.reloads > 100, "{by_use:?}");
    // Nor is the time saved by refusing.
    assert!(
        by_worth.served >= by_use.served,
        "{by_worth:?} against {by_use:?}"
    );
    Ok(())
}
