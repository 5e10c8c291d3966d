//! What the registry can give back when memory is short.

use super::registry::Inner;
use super::usage::Keep;
use crate::budget::{Action, Given, Offer, Owner, Reclaim};
use crate::os::memory;

/// Arenas with fewer free bytes are not offered.
const NOTABLE: u64 = 1 << 20;

/// Milliseconds to get a megabyte of an arena back: the kernel zeroes its pages.
const SHRUNK_MS_PER_MB: f64 = 0.25;

impl Reclaim for Inner {
    fn offers(&self) -> Vec<Offer> {
        let mut offers = Vec::new();
        for place in &self.places {
            let Some(held) = place.slot.peek() else {
                continue;
            };
            if place.usage.keep() == Keep::Pinned {
                continue;
            }
            let resident = &held.value;
            let (anon, _) = resident.account.charge.bytes();
            let offer = Offer {
                owner: place.owner.clone(),
                action: Action::Release,
                anon_bytes: anon,
                // The session's files stay cached by the kernel; parking gives those up.
                mapped_bytes: 0,
                cost_ms: resident.load_ms,
                uses: place.usage.uses(),
                credit: place.usage.credit(),
                last_used: place.usage.last_used(),
                weight: place.usage.weight(),
                held: held.leased() > 0,
            };
            let slack = resident.slack(&place.cost);
            if slack >= NOTABLE {
                offers.push(Offer {
                    action: Action::Shrink,
                    anon_bytes: slack,
                    cost_ms: slack as f64 / 1e6 * SHRUNK_MS_PER_MB,
                    // Free blocks are nobody's, also while the session is leased.
                    held: false,
                    ..offer.clone()
                });
            }
            let parkable = resident.parkable();
            if parkable > 0 {
                offers.push(Offer {
                    action: Action::Park,
                    anon_bytes: 0,
                    mapped_bytes: parkable,
                    cost_ms: resident.unpark_ms(),
                    ..offer.clone()
                });
            }
            offers.push(offer);
        }
        offers
    }

    fn give_up(&self, offer: &Offer) -> Option<Given> {
        let Owner::Module(id) = &offer.owner else {
            return None;
        };
        let place = &self.places[*self.by_id.get(id)?];
        let mut given = Given::default();
        match offer.action {
            Action::Shrink => {
                given.anon_bytes = place.slot.peek()?.value.shrink(&place.cost)?;
                memory::trim();
            }
            Action::Park => {
                let held = place.slot.peek()?;
                match held.value.park() {
                    Ok(bytes) => given.mapped_bytes = bytes,
                    Err(e) => {
                        log::warn!("module {id} cannot be parked: {e}");
                        return None;
                    }
                }
            }
            Action::Release => given.anon_bytes = place.release_idle(self.governor.ledger())?,
        }
        Some(given)
    }

    fn loading(&self) -> u64 {
        self.places.iter().map(|place| place.loading()).sum()
    }

    fn drain(&self, owner: &Owner) {
        if let Owner::Module(id) = owner
            && let Some(&index) = self.by_id.get(id)
        {
            self.places[index].slot.drain();
        }
    }

    fn relent(&self) {
        for place in &self.places {
            place.slot.relent();
        }
    }
}
